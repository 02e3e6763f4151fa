"""The stand-in's answers are what the models of near-jsonrpc-client, made from nearcore's own schema, accept."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from near_client import NearClient

from localnet.near import CONTRACT, OPERATOR

pytest.importorskip("near_jsonrpc_models", reason="near-jsonrpc-client is not installed")


def check(module: str, answer: Any) -> None:
    """Raises pydantic's ValidationError if the model called after its module does not accept the answer."""
    found = importlib.import_module(f"near_jsonrpc_models.{module}")
    name = "".join(part.capitalize() for part in module.split("_"))
    getattr(found, name).model_validate(answer)


def test_blocks_status_and_queries(node: NearClient) -> None:
    node.request()
    check("rpc_block_response", node.result("block", {"finality": "final"}))
    check("rpc_status_response", node.result("status", []))
    account = {"finality": "final", "account_id": OPERATOR}
    check("rpc_view_account_response", node.result("query", {"request_type": "view_account", **account}))
    key = {"public_key": node.net.operator.public_key}
    check("rpc_view_access_key_response", node.result("query", {"request_type": "view_access_key", **account, **key}))
    call = {"request_type": "call_function", "finality": "final", "account_id": CONTRACT, "args_base64": ""}
    check("rpc_call_function_response", node.result("query", {**call, "method_name": "get_config"}))


def test_transactions_receipts_changes_and_proofs(node: NearClient) -> None:
    tx_hash, _ = node.request()
    node.blocks(1)
    named = {"tx_hash": tx_hash, "sender_account_id": OPERATOR, "wait_until": "INCLUDED"}
    check("rpc_transaction_response", node.result("tx", named))
    check("rpc_transaction_response", node.result("EXPERIMENTAL_tx_status", named))
    (outcome,) = node.net.chain.outcomes_of(tx_hash)
    check("rpc_receipt_response", node.result("EXPERIMENTAL_receipt", {"receipt_id": outcome.id}))
    check("rpc_receipt_to_tx_response", node.result("EXPERIMENTAL_receipt_to_tx", {"receipt_id": outcome.id}))
    changes = {
        "changes_type": "data_changes",
        "account_ids": [CONTRACT],
        "key_prefix_base64": "",
        "block_id": outcome.height,
    }
    check("rpc_state_changes_in_block_response", node.result("EXPERIMENTAL_changes", changes))
    proof = {
        "type": "receipt",
        "receipt_id": outcome.id,
        "receiver_id": CONTRACT,
        "light_client_head": node.net.chain.tip.hash,
    }
    check("rpc_light_client_execution_proof_response", node.result("EXPERIMENTAL_light_client_proof", proof))


def test_failures_and_errors(node: NearClient) -> None:
    tx_hash = node.net.chain.cancel(0)
    node.blocks(2)
    named = {"tx_hash": tx_hash, "sender_account_id": OPERATOR, "wait_until": "NONE"}
    check("rpc_transaction_response", node.result("tx", named))
    unknown = node.rpc("tx", {**named, "tx_hash": "1" * 32})["error"]
    check("rpc_transaction_error", unknown["cause"])
    late = node.rpc("EXPERIMENTAL_receipt", {"receipt_id": "1" * 32})["error"]
    check("rpc_receipt_error", late["cause"])
    gone = node.rpc("query", {"finality": "final", "request_type": "view_account", "account_id": "no.near"})["error"]
    check("rpc_query_error", gone["cause"])
