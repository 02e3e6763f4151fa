"""What NEAR's RPC answers, as far as it is read here."""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from millrace.errors import MillraceError
from protocols.near.keys import hash_bytes
from protocols.near.rpc_errors import execution_failure

U64 = Annotated[int, Field(ge=0, lt=1 << 64)]
Yocto = Annotated[int, Field(ge=0, lt=1 << 128)]
"""An amount in yoctoNEAR (10^-24 NEAR); the RPC writes it as a decimal string."""


def _checked_hash(value: Any) -> Any:
    if isinstance(value, str):
        hash_bytes(value)
    return value


CryptoHash = Annotated[str, BeforeValidator(_checked_hash)]
"""32 bytes in base58."""


class Part(BaseModel):
    """A part of an answer; members that are not read here are left out."""

    model_config = ConfigDict(frozen=True)


class WaitUntil(StrEnum):
    """How far a sent transaction has to be before the node answers."""

    none = "NONE"
    included = "INCLUDED"
    executed_optimistic = "EXECUTED_OPTIMISTIC"
    included_final = "INCLUDED_FINAL"
    executed = "EXECUTED"
    final = "FINAL"

    @property
    def is_executed(self) -> bool:
        """True if, this far, the first receipt and all that its result depends on have run."""
        return self in (WaitUntil.executed_optimistic, WaitUntil.executed, WaitUntil.final)


class AccessKey(Part):
    """An access key's state: the next transaction's nonce must be larger than `nonce`."""

    nonce: U64
    permission: Any
    block_height: U64
    block_hash: CryptoHash


class Account(Part):
    """An account's balance."""

    amount: Yocto
    locked: Yocto = 0
    block_height: U64
    block_hash: CryptoHash


def _bytes(value: Any) -> bytes:
    if not isinstance(value, list) or any(type(number) is not int or not 0 <= number < 256 for number in value):
        raise ValueError("no list of bytes")
    return bytes(value)


class ViewResult(Part):
    """What a view call returned, and the block it looked at."""

    result: Annotated[bytes, BeforeValidator(_bytes)]
    logs: list[str] = []
    block_height: U64
    block_hash: CryptoHash


class BlockHeader(Part):
    """A block's header; `prev_height` is missing in very old ones."""

    height: U64
    hash: CryptoHash
    prev_hash: CryptoHash
    prev_height: U64 | None = None
    timestamp: U64


class Block(Part):
    """A block."""

    header: BlockHeader


class SyncInfo(Part):
    """How far a node is."""

    latest_block_height: U64
    latest_block_hash: CryptoHash
    syncing: bool


class NodeStatus(Part):
    """What a node says of itself; `chain_id` is mainnet, testnet or a local chain's name."""

    chain_id: str
    sync_info: SyncInfo


class ExecutionStatus(Part):
    """What became of a transaction or receipt, in whichever of the RPC's two forms."""

    kind: Literal["unknown", "pending", "failure", "value", "receipt"]
    value: bytes = b""
    receipt_id: str = ""
    failure: Any = None

    @property
    def succeeded(self) -> bool:
        """True if it ran and did what it should: only then its logs count."""
        return self.kind in ("value", "receipt")


def _status(value: Any) -> Any:
    if isinstance(value, ExecutionStatus):
        return value
    if value == "Unknown":
        return ExecutionStatus(kind="unknown")
    if value in ("NotStarted", "Started"):
        return ExecutionStatus(kind="pending")
    if isinstance(value, dict) and len(value) == 1:
        ((name, content),) = value.items()
        if name == "Failure":
            return ExecutionStatus(kind="failure", failure=content)
        if name == "SuccessReceiptId" and isinstance(content, str):
            return ExecutionStatus(kind="receipt", receipt_id=content)
        if name == "SuccessValue" and isinstance(content, str):
            try:
                return ExecutionStatus(kind="value", value=base64.b64decode(content, validate=True))
            except binascii.Error:
                raise ValueError("a value is not base64") from None
    raise ValueError("no execution status")


Status = Annotated[ExecutionStatus, BeforeValidator(_status)]


class ExecutionOutcome(Part):
    """What one transaction or receipt did."""

    logs: list[str]
    receipt_ids: list[str] = []
    gas_burnt: U64
    tokens_burnt: Yocto = 0
    executor_id: str
    status: Status


class OutcomeWithId(Part):
    """An outcome, and the block in which it happened; `id` is the transaction's hash or the receipt's id."""

    id: str
    block_hash: CryptoHash
    outcome: ExecutionOutcome


class OutcomeProof(Part):
    """What a light client gets; the proof itself is not read."""

    outcome_proof: OutcomeWithId


class TransactionView(Part):
    """A transaction as a node sees it now; nothing but `reached` is there before it is included."""

    reached: WaitUntil = Field(alias="final_execution_status")
    status: Status = ExecutionStatus(kind="pending")
    transaction_outcome: OutcomeWithId | None = None
    receipts_outcome: list[OutcomeWithId] = []

    @property
    def failure(self) -> MillraceError | None:
        """Why it failed, as an error of ours; None if it succeeded or has not ended.

        Only of the transaction itself: a contract's callback in another's transaction is not in sight here.
        """
        return execution_failure(self.status.failure) if self.status.kind == "failure" else None

    @property
    def succeeded(self) -> bool:
        """True once it ran and did what it should."""
        return self.status.succeeded

    @property
    def fee_yocto(self) -> int:
        """What its gas has cost so far."""
        mine = [self.transaction_outcome] if self.transaction_outcome else []
        return sum(one.outcome.tokens_burnt for one in (*mine, *self.receipts_outcome))

    @property
    def logs(self) -> list[str]:
        """Of the transaction's receipts, in the RPC's order."""
        return [line for one in self.receipts_outcome for line in one.outcome.logs]


class StateChanges(Part):
    """Which receipts changed an account's data in a block."""

    class Change(Part):
        """One change."""

        class Cause(Part):
            """Why: a receipt's processing names the receipt."""

            type: str
            receipt_hash: str = ""

        cause: Cause

    block_hash: CryptoHash
    changes: list[Change]

    def receipts(self) -> list[str]:
        """Ids of the receipts whose processing changed it, each once, in order."""
        causes = (change.cause for change in self.changes)
        return list(dict.fromkeys(cause.receipt_hash for cause in causes if cause.type == "receipt_processing"))


class ActionReceipt(Part):
    """Who signed for a receipt."""

    signer_id: str
    signer_public_key: str


class ReceiptKind(Part):
    """What a receipt carries; `action` is None for one that only brings data."""

    action: ActionReceipt | None = Field(default=None, alias="Action")


class Receipt(Part):
    """A receipt: what was sent from one account to another."""

    predecessor_id: str
    receiver_id: str
    receipt_id: str
    receipt: ReceiptKind

    @property
    def signer_public_key(self) -> str | None:
        """The key that signed the transaction it comes from; None for one that only brings data."""
        return None if self.receipt.action is None else self.receipt.action.signer_public_key


class ReceiptOrigin(Part):
    """The transaction that a receipt comes from."""

    transaction_hash: CryptoHash
    sender_account_id: str
