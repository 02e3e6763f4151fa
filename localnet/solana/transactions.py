"""The transactions that landed, findable by signature and by the addresses they touched."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from solders.transaction import VersionedTransaction

MOST_TRANSACTIONS = 100_000
"""How many are remembered; the oldest go first."""


@dataclass(frozen=True)
class Execution:
    """What running a transaction came to; `error` is the RPC's JSON form, None for success."""

    error: Any
    logs: list[str]
    compute_units: int
    fee_lamports: int
    return_data: tuple[str, bytes] | None = None


@dataclass(frozen=True)
class LandedTransaction:
    """A transaction in a block, whether it succeeded there or not."""

    signature: str
    slot: int
    transaction: VersionedTransaction
    addresses: tuple[str, ...]
    execution: Execution
    balances_before: tuple[int, ...]
    balances_after: tuple[int, ...]
    unit_price: int = 0  # micro-lamports per compute unit


class TransactionLog:
    """Landed transactions in the order they landed."""

    def __init__(self, most: int = MOST_TRANSACTIONS) -> None:
        self._most = most
        self._by_signature: OrderedDict[str, LandedTransaction] = OrderedDict()
        self._by_address: dict[str, OrderedDict[str, None]] = {}
        self.count = 0

    def add(self, landed: LandedTransaction) -> None:
        """Append one, and forget the oldest if there are too many."""
        self._by_signature[landed.signature] = landed
        self.count += 1
        for address in landed.addresses:
            self._by_address.setdefault(address, OrderedDict())[landed.signature] = None
        if len(self._by_signature) > self._most:
            self._forget(next(iter(self._by_signature)))

    def take_back(self, slot: int) -> list[LandedTransaction]:
        """Forget those that landed at or after `slot`, as if they never had; returns them, newest first."""
        undone = self.since(slot)
        for landed in undone:
            self._forget(landed.signature)
        self.count -= len(undone)
        return undone

    def _forget(self, signature: str) -> None:
        for address in self._by_signature.pop(signature).addresses:
            signatures = self._by_address[address]
            signatures.pop(signature, None)
            if not signatures:
                del self._by_address[address]

    def get(self, signature: str) -> LandedTransaction | None:
        """The transaction of that signature, if it landed and is remembered."""
        return self._by_signature.get(signature)

    def touching(self, address: str) -> list[LandedTransaction]:
        """The transactions that named the address, oldest first."""
        return [self._by_signature[signature] for signature in self._by_address.get(address, ())]

    def since(self, slot: int) -> list[LandedTransaction]:
        """Those that landed at or after `slot`, newest first."""
        found = []
        for landed in reversed(self._by_signature.values()):
            if landed.slot < slot:
                break
            found.append(landed)
        return found
