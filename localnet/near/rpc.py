"""The RPC's methods."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from localnet.near.chain import Chain
from localnet.near.environment import ContractError
from localnet.near.json_views import block_view, final_view, outcome_view, progress, receipt_view
from localnet.near.node import NO_HASH, Picture
from localnet.near.receipts import Block
from localnet.near.rpc_fault import RpcFault, parse_error
from protocols.near.keys import to_base58
from protocols.near.transactions import MalformedTransaction, SignedTransaction

_EVERYTHING = ("NONE", "INCLUDED", "INCLUDED_FINAL", "EXECUTED_OPTIMISTIC", "EXECUTED", "FINAL")
_SATISFIES = {
    "NONE": ("NONE",),
    "INCLUDED": ("NONE", "INCLUDED"),
    "INCLUDED_FINAL": ("NONE", "INCLUDED", "INCLUDED_FINAL"),
    "EXECUTED_OPTIMISTIC": ("NONE", "INCLUDED", "EXECUTED_OPTIMISTIC"),
    "EXECUTED": _EVERYTHING[:-1],
    "FINAL": _EVERYTHING,
}
"""For how far a transaction is, what whoever asks may have waited for."""


def answer(chain: Chain, method: str, params: Any, wait_seconds: float) -> Any:
    """The result of a call. Raises RpcFault."""
    known = METHODS.get(method)
    if known is None:
        raise RpcFault("METHOD_NOT_FOUND", {"method_name": method}, method, validation=True)
    return known(chain, params, wait_seconds)


def _query(chain: Chain, params: Any, wait_seconds: float) -> Any:
    named = _named(params)
    block = _block_of(chain, named)
    where = {"block_height": block.height, "block_hash": block.hash}
    kind, account_id = named.get("request_type"), str(named.get("account_id", ""))
    with chain.lock:
        picture = chain.picture_at(block)
        account = picture.accounts.get(account_id)
        if account is None:
            raise RpcFault("UNKNOWN_ACCOUNT", {"requested_account_id": account_id, **where})
        if kind == "view_account":
            amounts = {"amount": str(account.balance_yocto), "locked": "0", "code_hash": NO_HASH}
            return {**amounts, "storage_usage": 182, "storage_paid_at": 0, **where}
        if kind == "view_access_key":
            key = account.keys.get(str(named.get("public_key")))
            if key is None:
                words = f"access key {named.get('public_key')} does not exist while viewing"
                return {"error": words, "logs": [], **where}
            return {"nonce": key.nonce, "permission": key.permission(), **where}
        if kind == "view_access_key_list":
            keys = [
                {"public_key": text, "access_key": {"nonce": key.nonce, "permission": key.permission()}}
                for text, key in account.keys.items()
            ]
            return {"keys": keys, **where}
        if kind == "call_function":
            return {**_viewed(chain, picture, account_id, named), **where}
    raise parse_error(f"unknown request_type {kind}")


def _viewed(chain: Chain, picture: Picture, account_id: str, named: dict[str, Any]) -> dict[str, Any]:
    contract = chain.runtime.contracts.get(account_id)
    if contract is None:
        block = chain.tip
        where = {"block_height": block.height, "block_hash": block.hash}
        raise RpcFault("NO_CONTRACT_CODE", {"contract_account_id": account_id, **where})
    try:
        args = base64.b64decode(str(named.get("args_base64", "")), validate=True)
    except binascii.Error as error:
        raise parse_error(str(error)) from None
    newest = contract.state
    contract.state = picture.states[account_id]
    try:
        return {"result": list(contract.view(str(named.get("method_name")), args)), "logs": []}
    except ContractError as error:
        kind = {"ExecutionError": str(error)}
        return {"error": f"wasm execution failed with error: FunctionCallError({kind})", "logs": []}
    finally:
        contract.state = newest


def _block(chain: Chain, params: Any, wait_seconds: float) -> Any:
    return block_view(_block_of(chain, _named(params)))


def _status(chain: Chain, params: Any, wait_seconds: float) -> Any:
    chain.settle()
    tip = chain.tip
    key = f"ed25519:{to_base58(bytes(32))}"
    return {
        "version": {"version": "localnet", "build": "localnet", "commit": "", "rustc_version": ""},
        "chain_id": chain.chain_id,
        "genesis_hash": chain.genesis_hash,
        "protocol_version": 80,
        "latest_protocol_version": 80,
        "rpc_addr": None,
        "validators": [],
        "sync_info": {
            "latest_block_hash": tip.hash,
            "latest_block_height": tip.height,
            "latest_state_root": NO_HASH,
            "latest_block_time": datetime.fromtimestamp(tip.timestamp_ns / 1e9, UTC).isoformat(),
            "syncing": False,
        },
        "validator_account_id": None,
        "validator_public_key": None,
        "node_public_key": key,
        "node_key": None,
        "uptime_sec": 0,
        "detailed_debug_status": None,
    }


def _send_tx(chain: Chain, params: Any, wait_seconds: float) -> Any:
    if isinstance(params, dict):
        return _sent(chain, params.get("signed_tx_base64"), str(params.get("wait_until", "FINAL")), wait_seconds)
    return _sent(chain, _first_of(params), "FINAL", wait_seconds)


def _broadcast_tx_async(chain: Chain, params: Any, wait_seconds: float) -> Any:
    signed = _read(_first_of(params))
    chain.receive(signed)
    return signed.hash


def _sent(chain: Chain, text: Any, wait_until: str, wait_seconds: float) -> Any:
    signed = _read(text)
    if wait_until not in _EVERYTHING:
        raise parse_error(f"unknown variant `{wait_until}`")
    invalid = chain.receive(signed)
    if invalid is not None:
        data = {"TxExecutionError": {"InvalidTxError": invalid}}
        raise RpcFault("INVALID_TRANSACTION", {"context": invalid}, data)
    if wait_until == "NONE":
        return {"final_execution_status": "NONE"}
    return _awaited(chain, signed.hash, wait_until, wait_seconds, receipts=False)


def _tx(chain: Chain, params: Any, wait_seconds: float, *, receipts: bool = False) -> Any:
    if isinstance(params, list) and len(params) == 2:
        params = {"tx_hash": params[0], "sender_account_id": params[1]}
    named = _named(params)
    tx_hash = _read(named["signed_tx_base64"]).hash if "signed_tx_base64" in named else str(named.get("tx_hash"))
    wait_until = str(named.get("wait_until", "FINAL"))
    if wait_until not in _EVERYTHING:
        raise parse_error(f"unknown variant `{wait_until}`")
    if chain.included(tx_hash) is None and (wait_until == "NONE" or tx_hash not in chain.pool):
        told = f"Transaction {tx_hash} doesn't exist"
        raise RpcFault("UNKNOWN_TRANSACTION", {"requested_transaction_hash": tx_hash}, told)
    return _awaited(chain, tx_hash, wait_until, wait_seconds, receipts=receipts)


def _awaited(chain: Chain, tx_hash: str, wait_until: str, wait_seconds: float, *, receipts: bool) -> Any:
    def far_enough() -> bool:
        return wait_until in _SATISFIES[progress(chain, chain.included(tx_hash))]

    reached = chain.wait_for(far_enough, wait_seconds)
    included = chain.included(tx_hash)
    if included is None or not reached:
        raise RpcFault("TIMEOUT_ERROR", None, "Timeout")
    return final_view(chain, included, receipts=receipts)


def _tx_status(chain: Chain, params: Any, wait_seconds: float) -> Any:
    return _tx(chain, params, wait_seconds, receipts=True)


def _changes(chain: Chain, params: Any, wait_seconds: float) -> Any:
    named = _named(params)
    if named.get("changes_type") != "data_changes":
        raise parse_error("localnet knows data_changes only")
    block, accounts = _block_of(chain, named), named.get("account_ids") or []
    changes = [
        {
            "cause": {"type": "receipt_processing", "receipt_hash": outcome.id},
            "type": "data_update",
            "change": {"account_id": outcome.executor_id, "key_base64": "U1RBVEU=", "value_base64": ""},
        }
        for outcome in block.outcomes
        if outcome.changed_data and outcome.executor_id in accounts
    ]
    # A receipt writes under several keys; two are enough to see whether a reader counts it once.
    return {"block_hash": block.hash, "changes": [change for change in changes for _ in range(2)]}


def _receipt(chain: Chain, params: Any, wait_seconds: float) -> Any:
    receipt_id = str(_named(params).get("receipt_id"))
    outcome = chain.outcome(receipt_id)
    if outcome is None or outcome.receipt is None:
        raise RpcFault("UNKNOWN_RECEIPT", {"receipt_id": receipt_id})
    return receipt_view(outcome.receipt)


def _receipt_to_tx(chain: Chain, params: Any, wait_seconds: float) -> Any:
    if chain.untracked_receipts:
        raise RpcFault("UNSUPPORTED", {"error_message": "save_receipt_to_tx is off"})
    receipt_id = str(_named(params).get("receipt_id"))
    outcome = chain.outcome(receipt_id)
    if outcome is None or outcome.receipt is None:
        raise RpcFault("UNKNOWN_RECEIPT", {"receipt_id": receipt_id})
    return {
        "transaction_hash": outcome.receipt.transaction_hash,
        "sender_account_id": outcome.receipt.signer_id,
    }


def _light_client_proof(chain: Chain, params: Any, wait_seconds: float) -> Any:
    named = _named(params)
    wanted = str(named.get("receipt_id") or named.get("transaction_hash"))
    head = chain.block(str(named.get("light_client_head")))
    if head is None:
        raise RpcFault("UNKNOWN_BLOCK", {})
    outcome = chain.outcome(wanted)
    if outcome is None:
        raise RpcFault("UNKNOWN_TRANSACTION_OR_RECEIPT", {"transaction_or_receipt_id": wanted})
    if outcome.height >= head.height:
        raise RpcFault("NOT_CONFIRMED", {"transaction_or_receipt_id": wanted})
    return {
        "outcome_proof": outcome_view(chain, outcome),
        "outcome_root_proof": [],
        "block_header_lite": _lite(head),
        "block_proof": [],
    }


def _lite(block: Block) -> dict[str, Any]:
    inner = {
        "height": block.height,
        "epoch_id": NO_HASH,
        "next_epoch_id": NO_HASH,
        "prev_state_root": NO_HASH,
        "outcome_root": NO_HASH,
        "timestamp": block.timestamp_ns,
        "timestamp_nanosec": str(block.timestamp_ns),
        "next_bp_hash": NO_HASH,
        "block_merkle_root": NO_HASH,
    }
    return {"prev_block_hash": block.prev_hash, "inner_rest_hash": NO_HASH, "inner_lite": inner}


def _block_of(chain: Chain, named: dict[str, Any]) -> Block:
    """The block that parameters refer to. Raises RpcFault."""
    chain.settle()
    if named.get("finality") is not None:
        if named["finality"] not in ("optimistic", "near-final", "final"):
            raise parse_error(f"unknown variant `{named['finality']}`")
        return chain.tip if named["finality"] == "optimistic" else chain.final_block()
    reference = named.get("block_id")
    if isinstance(reference, bool) or not isinstance(reference, int | str):
        raise parse_error("missing field `finality`")
    block = chain.block(reference)
    if block is None:
        told = f"DB Not Found Error: BLOCK: {reference}"
        raise RpcFault("UNKNOWN_BLOCK", {"block_reference": {"block_id": reference}}, told)
    return block


def _named(params: Any) -> dict[str, Any]:
    if not isinstance(params, dict):
        raise parse_error("Failed parsing args: expected an object")
    return params


def _first_of(params: Any) -> Any:
    if not isinstance(params, list) or not params:
        raise parse_error("Failed parsing args: missing field")
    return params[0]


def _read(text: Any) -> SignedTransaction:
    try:
        return SignedTransaction.from_base64(str(text))
    except MalformedTransaction as error:
        raise parse_error(f"Failed to decode transaction: {error}") from None


METHODS: dict[str, Callable[[Chain, Any, float], Any]] = {
    "query": _query,
    "block": _block,
    "status": _status,
    "send_tx": _send_tx,
    "broadcast_tx_commit": _send_tx,
    "broadcast_tx_async": _broadcast_tx_async,
    "tx": _tx,
    "EXPERIMENTAL_tx_status": _tx_status,
    "EXPERIMENTAL_changes": _changes,
    "EXPERIMENTAL_receipt": _receipt,
    "EXPERIMENTAL_receipt_to_tx": _receipt_to_tx,
    "EXPERIMENTAL_light_client_proof": _light_client_proof,
}
