"""The RPC's JSON for blocks, receipts, outcomes and transactions, and the block server's for whole blocks."""

from __future__ import annotations

import base64
from typing import Any

from localnet.near.node import NO_HASH, Included, Node
from localnet.near.receipts import GAS_PRICE_YOCTO, Block, Outcome, Receipt
from protocols.near.keys import public_key_text, to_base58
from protocols.near.transactions import FunctionCall, SignedTransaction

NO_SIGNATURE = f"ed25519:{to_base58(bytes(64))}"
AUTHOR = "validator.test.near"
SHARD = 0


def header(block: Block) -> dict[str, Any]:
    """A block's header. Roots, producers and votes are not modelled."""
    return {
        "height": block.height,
        "prev_height": block.prev_height,
        "hash": block.hash,
        "prev_hash": block.prev_hash,
        "timestamp": block.timestamp_ns,
        "timestamp_nanosec": str(block.timestamp_ns),
        "epoch_id": NO_HASH,
        "next_epoch_id": NO_HASH,
        "prev_state_root": NO_HASH,
        "chunk_receipts_root": NO_HASH,
        "chunk_headers_root": NO_HASH,
        "chunk_tx_root": NO_HASH,
        "outcome_root": NO_HASH,
        "challenges_root": NO_HASH,
        "challenges_result": [],
        "chunks_included": 1,
        "chunk_mask": [True],
        "random_value": NO_HASH,
        "validator_proposals": [],
        "gas_price": str(GAS_PRICE_YOCTO),
        "rent_paid": "0",
        "validator_reward": "0",
        "total_supply": str(10**33),
        "last_final_block": block.prev_hash,
        "last_ds_final_block": block.prev_hash,
        "next_bp_hash": NO_HASH,
        "block_merkle_root": NO_HASH,
        "approvals": [],
        "signature": NO_SIGNATURE,
        "latest_protocol_version": 80,
    }


def block_view(block: Block) -> dict[str, Any]:
    """As `block` answers."""
    return {"author": AUTHOR, "header": header(block), "chunks": [_chunk_header(block)]}


def action_view(call: FunctionCall) -> dict[str, Any]:
    """A call, as an action."""
    return {
        "FunctionCall": {
            "method_name": call.method,
            "args": base64.b64encode(call.args).decode(),
            "gas": call.gas,
            "deposit": str(call.deposit_yocto),
        }
    }


def receipt_view(receipt: Receipt) -> dict[str, Any]:
    """A receipt."""
    transfer = {"Transfer": {"deposit": str(receipt.transfer_yocto)}}
    return {
        "predecessor_id": receipt.predecessor_id,
        "receiver_id": receipt.receiver_id,
        "receipt_id": receipt.receipt_id,
        "priority": 0,
        "receipt": {
            "Action": {
                "signer_id": receipt.signer_id,
                "signer_public_key": receipt.signer_public_key,
                "gas_price": str(GAS_PRICE_YOCTO),
                "output_data_receivers": [],
                "input_data_ids": [receipt.data_id] if receipt.data_id else [],
                "actions": [action_view(call) for call in receipt.calls] or [transfer],
                "is_promise_yield": bool(receipt.data_id),
            }
        },
    }


def outcome_view(node: Node, outcome: Outcome) -> dict[str, Any]:
    """An outcome, with the block it happened in."""
    block = node.block(outcome.height)
    assert block is not None
    return {
        "proof": [],
        "block_hash": block.hash,
        "id": outcome.id,
        "outcome": {
            "logs": list(outcome.logs),
            "receipt_ids": list(outcome.receipt_ids),
            "gas_burnt": outcome.gas_burnt,
            "tokens_burnt": str(outcome.tokens_burnt),
            "executor_id": outcome.executor_id,
            "status": outcome.status,
            "metadata": {"version": 3, "gas_profile": []},
        },
    }


def transaction_view(signed: SignedTransaction) -> dict[str, Any]:
    """A transaction."""
    transaction = signed.transaction
    return {
        "signer_id": transaction.signer_id,
        "public_key": public_key_text(transaction.public_key),
        "nonce": transaction.nonce,
        "receiver_id": transaction.receiver_id,
        "actions": [action_view(call) for call in transaction.calls],
        "priority_fee": 0,
        "signature": f"ed25519:{to_base58(signed.signature)}",
        "hash": signed.hash,
    }


def progress(node: Node, included: Included | None) -> str:
    """How far a transaction is, in the words of `wait_until`."""
    if included is None:
        return "NONE"
    final = node.final_block().height
    outcome, included_final = node.last_outcome(included), included.outcome.height <= final
    if outcome is None:
        return "INCLUDED_FINAL" if included_final else "INCLUDED"
    if outcome.height <= final:
        return "FINAL"
    return "EXECUTED" if included_final else "EXECUTED_OPTIMISTIC"


def final_view(node: Node, included: Included, *, receipts: bool = False) -> dict[str, Any]:
    """As `tx` answers; with `receipts` as `EXPERIMENTAL_tx_status` does."""
    outcomes = node.outcomes_of(included.signed.hash)
    view = {
        "final_execution_status": progress(node, included),
        "status": node.status_of(included),
        "transaction": transaction_view(included.signed),
        "transaction_outcome": outcome_view(node, included.outcome),
        "receipts_outcome": [outcome_view(node, outcome) for outcome in outcomes],
    }
    if receipts:
        view["receipts"] = [receipt_view(each.receipt) for each in outcomes if each.receipt is not None]
    return view


def neardata_view(node: Node, block: Block) -> dict[str, Any]:
    """A whole block, as block servers have it."""
    executed = [
        {
            "execution_outcome": outcome_view(node, outcome),
            "receipt": receipt_view(outcome.receipt),
            "tx_hash": outcome.receipt.transaction_hash,
        }
        for outcome in block.outcomes
        if outcome.receipt is not None
    ]
    included = [node.included(signed.hash) for signed in block.transactions]
    transactions = [
        {
            "transaction": transaction_view(each.signed),
            "outcome": {"execution_outcome": outcome_view(node, each.outcome), "receipt": None},
        }
        for each in included
        if each is not None
    ]
    chunk = {
        "author": AUTHOR,
        "header": _chunk_header(block),
        "transactions": transactions,
        "receipts": [receipt_view(each.receipt) for each in block.outcomes if each.receipt is not None],
    }
    shard = {"shard_id": SHARD, "chunk": chunk, "receipt_execution_outcomes": executed, "state_changes": []}
    return {"block": block_view(block), "shards": [shard]}


def _chunk_header(block: Block) -> dict[str, Any]:
    return {
        "chunk_hash": block.hash,
        "prev_block_hash": block.prev_hash,
        "outcome_root": NO_HASH,
        "prev_state_root": NO_HASH,
        "encoded_merkle_root": NO_HASH,
        "encoded_length": 0,
        "height_created": block.height,
        "height_included": block.height,
        "shard_id": SHARD,
        "gas_used": sum(outcome.gas_burnt for outcome in block.outcomes),
        "gas_limit": 10**15,
        "validator_reward": "0",
        "balance_burnt": "0",
        "outgoing_receipts_root": NO_HASH,
        "tx_root": NO_HASH,
        "validator_proposals": [],
        "rent_paid": "0",
        "signature": NO_SIGNATURE,
    }
