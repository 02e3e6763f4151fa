"""What a contract sees of the chain while it runs, and what it asks of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from localnet.near.receipts import Receipt, hash_of
from protocols.near.contract import RESUME_LIMIT_BYTES
from protocols.near.transactions import FunctionCall

LOG_LIMIT_BYTES = 16_384
"""Of all that one receipt logs."""


class ContractError(Exception):
    """The contract, or the host in its place, gives up: the message becomes the receipt's ExecutionError."""


def panic(words: str) -> ContractError:
    """What a contract's own panic looks like from outside."""
    return ContractError(f"Smart contract panicked: {words}")


@dataclass(frozen=True)
class Promise:
    """A return value that another receipt will have."""

    receipt_id: str


@dataclass
class Environment:
    """One receipt's run in the block at `height`.

    `resume` tells whether the yielded promise with that data id could be resumed. What the contract logs and sends
    gathers here; the runtime carries it out if the receipt succeeds.
    """

    contract_id: str
    receipt: Receipt
    height: int
    timestamp_ns: int
    deposit_yocto: int
    resume: Callable[[str, bytes], bool]
    logs: list[str] = field(default_factory=list)
    outgoing: list[Receipt] = field(default_factory=list)
    yielded: list[Receipt] = field(default_factory=list)

    @property
    def predecessor_id(self) -> str:
        """Who called."""
        return self.receipt.predecessor_id

    @property
    def signer_id(self) -> str:
        """Who signed the transaction that this comes from."""
        return self.receipt.signer_id

    def log(self, line: str) -> None:
        """Log a line. Raises ContractError past the limit."""
        self.logs.append(line)
        total = sum(len(each.encode()) for each in self.logs)
        if total > LOG_LIMIT_BYTES:
            self.logs.pop()
            raise ContractError(f"The length of a log message {total} exceeds the limit {LOG_LIMIT_BYTES}")

    def transfer(self, account_id: str, yocto: int) -> None:
        """Send yoctoNEAR of the contract's."""
        self.outgoing.append(self._receipt(account_id, transfer_yocto=yocto))

    def call(self, account_id: str, call: FunctionCall) -> Promise:
        """Call another contract."""
        receipt = self._receipt(account_id, calls=(call,))
        self.outgoing.append(receipt)
        return Promise(receipt.receipt_id)

    def yield_create(self, method: str, args: bytes) -> tuple[str, Promise]:
        """Yield: the data id (hex) to resume with, and the promise of the callback's result."""
        data_id = hash_of("data", self.receipt.receipt_id, len(self.yielded))
        callback = self._receipt(self.contract_id, calls=(FunctionCall(method, args),), data_id=data_id)
        self.yielded.append(callback)
        return data_id, Promise(callback.receipt_id)

    def yield_resume(self, data_id: str, payload: bytes) -> bool:
        """Resume; False if the chain has no such promise (any more). Raises ContractError for too long a payload."""
        if len(payload) > RESUME_LIMIT_BYTES:
            raise ContractError(
                f"Yield resume payload is {len(payload)} bytes which exceeds the {RESUME_LIMIT_BYTES} byte limit"
            )
        return self.resume(data_id, payload)

    def _receipt(self, receiver_id: str, **carries: Any) -> Receipt:
        number = len(self.outgoing) + len(self.yielded)
        return Receipt(
            receipt_id=hash_of("receipt", self.receipt.receipt_id, number),
            predecessor_id=self.contract_id,
            receiver_id=receiver_id,
            signer_id=self.receipt.signer_id,
            signer_public_key=self.receipt.signer_public_key,
            transaction_hash=self.receipt.transaction_hash,
            **carries,
        )


class LocalContract(Protocol):
    """A contract of this localnet; `state` is copied before each receipt, and put back if that fails."""

    state: Any

    def call(self, method: str, args: bytes, env: Environment) -> bytes | Promise:
        """Run a method. Raises ContractError."""
        ...

    def view(self, method: str, args: bytes) -> bytes:
        """Run a view method. Raises ContractError."""
        ...
