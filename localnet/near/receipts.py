"""What travels between accounts on the local NEAR, and what became of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from protocols.near.keys import to_base58
from protocols.near.transactions import FunctionCall, SignedTransaction

GAS_PRICE_YOCTO = 100_000_000
"""Of one unit of gas: NEAR's minimum."""

CALL_GAS = 5 * 10**12
TRANSACTION_GAS = 3 * 10**11
SYSTEM = "system"


@dataclass(frozen=True)
class Receipt:
    """Calls or a transfer to one account; `data_id` marks a yielded callback, and `result` what it was resumed with.

    `result` is None for a callback that timed out.
    """

    receipt_id: str
    predecessor_id: str
    receiver_id: str
    signer_id: str
    signer_public_key: str
    transaction_hash: str
    calls: tuple[FunctionCall, ...] = ()
    transfer_yocto: int = 0
    data_id: str = ""
    result: bytes | None = None


@dataclass(frozen=True)
class Outcome:
    """What a transaction (`receipt` is None) or receipt did in the block at `height`."""

    id: str
    height: int
    executor_id: str
    status: dict[str, Any]
    logs: tuple[str, ...] = ()
    receipt_ids: tuple[str, ...] = ()
    gas_burnt: int = CALL_GAS
    receipt: Receipt | None = None
    changed_data: bool = False

    @property
    def tokens_burnt(self) -> int:
        """In yoctoNEAR."""
        return self.gas_burnt * GAS_PRICE_YOCTO

    @property
    def failed(self) -> bool:
        """True if nothing of it has happened but the gas it cost."""
        return "Failure" in self.status


@dataclass
class Block:
    """A block; `prev_height` may lie further back than one."""

    height: int
    hash: str
    prev_hash: str
    prev_height: int | None
    timestamp_ns: int
    transactions: list[SignedTransaction] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


def hash_of(*parts: object) -> str:
    """A hash of whatever is to have one, in base58."""
    return to_base58(hashlib.sha256("/".join(map(str, parts)).encode()).digest())


def failure(error: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    """The status of a receipt whose action failed."""
    return {"Failure": {"ActionError": {"index": index, "kind": error}}}


def call_failure(words: str) -> dict[str, Any]:
    """The status of a receipt in which a contract failed, with these words."""
    return failure({"FunctionCallError": {"ExecutionError": words}})
