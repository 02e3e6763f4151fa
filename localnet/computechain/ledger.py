"""Balances and nonces, changed in steps that can be taken back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """What the chain knows of an address; any string is one, and an unknown one has nothing."""

    balance_wei: int = 0
    nonce: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a block: what an address gains and by how much its nonce rises."""

    address: str
    wei: int = 0
    nonces: int = 0


class Ledger:
    """Every account's newest state."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def account(self, address: str) -> Account:
        """The account of an address."""
        return self._accounts.get(address, Account())

    def apply(self, change: Change) -> None:
        """Take one step."""
        before = self.account(change.address)
        self._accounts[change.address] = Account(before.balance_wei + change.wei, before.nonce + change.nonces)

    def revert(self, changes: Iterable[Change]) -> None:
        """Take steps back; what was given outside of blocks since then stays."""
        for change in changes:
            self.apply(Change(change.address, -change.wei, -change.nonces))


def state_root(before: str, changes: Iterable[Change]) -> str:
    """A digest of the state: of the one before, and of the steps since. The node's own recipe is not modelled."""
    steps = "".join(f"/{change.address},{change.wei},{change.nonces}" for change in changes)
    return hashlib.sha256(f"{before}{steps}".encode()).hexdigest()
