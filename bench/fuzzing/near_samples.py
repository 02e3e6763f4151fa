"""What NEAR's nodes answer, for the seeds of their decoders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from protocols.near.keys import to_base58

CONTRACT = "offchainvm.near"
HASH = to_base58(b"\x07" * 32)
HEIGHT = 5
REQUEST = {
    "request_id": 7,
    "sender_id": "alice.near",
    "code_source": {"GitHub": {"repo": "https://github.com/a/b", "commit": "a" * 40, "build_target": None}},
    "resource_limits": {"max_instructions": 10**9, "max_memory_mb": 128, "max_execution_seconds": None},
    "input_data": "{}",
    "payment": "70001000000000000000000",
    "timestamp": 1_760_000_000 * 10**9,
}


def request_texts() -> Iterator[str]:
    """What an event's `request_data` may be."""
    yield json.dumps(REQUEST)
    yield json.dumps({**REQUEST, "code_source": {"repo": "r", "commit": "c"}, "resource_limits": None})
    yield json.dumps({**REQUEST, "secrets_ref": {"profile": "p", "account_id": "a"}, "response_format": "Json"})
    url = {"WasmUrl": {"url": "https://a.invalid/m", "hash": "ab" * 32}}
    yield json.dumps({**REQUEST, "code_source": url, "compile_only": True, "input_data_in_state": True})
    yield json.dumps({**REQUEST, "input_data": "\ud800", "attached_usd": "5"})
    yield json.dumps({**REQUEST, "code_source": {"type": "Project", "project_id": "a/b"}})


def event_log(*entries: object, standard: str = "near-outlayer") -> str:
    """A line in a receipt's logs."""
    event = {"standard": standard, "version": "1.0.0", "event": "execution_requested", "data": entries}
    return f"EVENT_JSON:{json.dumps(event)}"


def outcome(status: object, logs: list[str]) -> dict[str, Any]:
    """What a receipt of the contract's did."""
    outcome = {"logs": logs, "receipt_ids": [HASH], "gas_burnt": 5, "tokens_burnt": "6", "executor_id": CONTRACT}
    return {"id": HASH, "block_hash": HASH, "outcome": {**outcome, "status": status}}


def header() -> dict[str, Any]:
    """Of the block at `HEIGHT`."""
    return {"height": HEIGHT, "hash": HASH, "prev_hash": HASH, "prev_height": 4, "timestamp": 9}


def receipt() -> dict[str, Any]:
    """A call of the contract."""
    action = {"signer_id": "alice.near", "signer_public_key": "ed25519:x"}
    whose = {"predecessor_id": "alice.near", "receiver_id": CONTRACT, "receipt_id": HASH}
    return {**whose, "receipt": {"Action": action}}
