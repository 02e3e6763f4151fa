"""Accounts as each commitment level sees them, indexed by the program that owns them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from solders.account import Account


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """One version of an account."""

    lamports: int
    owner: str
    content: bytes
    executable: bool = False

    @classmethod
    def of(cls, account: Account | None) -> Self | None:
        """What the virtual machine holds, or None for an account without lamports, which does not exist."""
        if account is None or account.lamports == 0:
            return None
        return cls(account.lamports, str(account.owner), bytes(account.data), account.executable)


class AccountHistory:
    """Every account's versions, from the last finalized one on.

    Memory is bounded by what changed within the last 32 slots: an older version goes as soon as a
    finalized one has replaced it.
    """

    def __init__(self) -> None:
        self._versions: dict[str, list[tuple[int, StoredAccount | None]]] = {}
        self._owned: dict[str, dict[str, None]] = {}

    def __contains__(self, address: str) -> bool:
        return address in self._versions

    def record(self, address: str, slot: int, account: StoredAccount | None, finalized_slot: int) -> None:
        """Note the account as it is after `slot`; slots of one account never go back."""
        versions = self._versions.setdefault(address, [])
        if versions and versions[-1][0] == slot:
            versions.pop()
        versions.append((slot, account))
        if account is not None:
            self._owned.setdefault(account.owner, {})[address] = None
        self._prune(address, versions, finalized_slot)

    def replace(self, address: str, account: StoredAccount) -> None:
        """Set an account as if it had been so from the first slot on, whatever it was."""
        self._versions[address] = [(0, account)]
        self._owned.setdefault(account.owner, {})[address] = None

    def at(self, address: str, slot: int) -> StoredAccount | None:
        """The account as `slot` saw it; None if it did not exist then."""
        for since, account in reversed(self._versions.get(address, ())):
            if since <= slot:
                return account
        return None

    def owned_by(self, program: str, slot: int) -> Iterator[tuple[str, StoredAccount]]:
        """Address and content of the accounts that `program` owned as `slot` saw it, oldest first."""
        for address in self._owned.get(program, ()):
            account = self.at(address, slot)
            if account is not None and account.owner == program:
                yield address, account

    def revert(self, address: str, slot: int) -> None:
        """Forget what became of the account after `slot`, one that is not finalized."""
        versions = self._versions[address]
        versions[:] = [version for version in versions if version[0] <= slot] or [(0, None)]

    def credit(self, address: str, lamports: int, empty: StoredAccount) -> None:
        """Give lamports as if the account had always had them, at every commitment level."""
        versions = self._versions.setdefault(address, [(0, None)])
        versions[:] = [
            (slot, replace(account or empty, lamports=lamports + (account.lamports if account else 0)))
            for slot, account in versions
        ]
        self._owned.setdefault(empty.owner, {}).setdefault(address)

    def _prune(self, address: str, versions: list[tuple[int, StoredAccount | None]], finalized_slot: int) -> None:
        final = max((index for index, (slot, _) in enumerate(versions) if slot <= finalized_slot), default=0)
        dropped, versions[:] = versions[:final], versions[final:]
        owners = {account.owner for _, account in versions if account is not None}
        for _, account in dropped:
            if account is not None and account.owner not in owners:
                self._owned[account.owner].pop(address, None)
