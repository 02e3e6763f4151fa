"""Transactions that wait for a block, and those that wait for a lower nonce first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from protocols.computechain.transaction import Transaction

EXPIRED = "Transaction expired (TTL exceeded)"
EXPIRED_PARKED = "Transaction expired in pending queue (TTL exceeded)"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction and the time at which the node got it."""

    transaction: Transaction
    since: float


class Mempool:
    """What the node holds in memory and nowhere else.

    The limits are the node's; a test may lower them.
    """

    def __init__(self) -> None:
        self.most = 100_000
        self.most_per_sender = 1_000
        self.most_parked_per_sender = 64
        self.life_seconds = 3_600.0
        self._pool: dict[str, Waiting] = {}
        self._by_nonce: dict[str, dict[int, Transaction]] = {}
        self._parked: dict[str, list[Waiting]] = {}

    def __len__(self) -> int:
        return len(self._pool)

    def __contains__(self, tx_hash: str) -> bool:
        return tx_hash in self._pool

    def count_of(self, sender: str) -> int:
        """How many of the sender's transactions are in the pool."""
        return len(self._by_nonce.get(sender, ()))

    def parked(self, sender: str) -> list[Transaction]:
        """The sender's transactions that wait for a lower nonce, in the order they came."""
        return [waiting.transaction for waiting in self._parked.get(sender, ())]

    def next_nonce(self, sender: str, confirmed: int) -> int:
        """The first nonce that neither the account nor the pool has used; parked ones do not count."""
        nonces = self._by_nonce.get(sender, {})
        while confirmed in nonces:
            confirmed += 1
        return confirmed

    def place(self, transaction: Transaction, confirmed: int, now: float) -> str | None:
        """Take a transaction by its nonce: into the pool, aside, or not at all; then with the node's words for it."""
        sender = transaction.from_address
        expected = self.next_nonce(sender, confirmed)
        if transaction.nonce < expected:
            return "nonce_too_low"
        if transaction.nonce == expected:
            self._add(Waiting(transaction, now))
            return None
        parked = self._parked.setdefault(sender, [])
        if len(parked) >= self.most_parked_per_sender:
            return "queued_limit_exceeded"
        parked.append(Waiting(transaction, now))  # also one that is parked already: the node does not look
        return None

    def at(self, sender: str, nonce: int) -> Transaction | None:
        """The pool's transaction of that sender and nonce, if it has one."""
        return self._by_nonce.get(sender, {}).get(nonce)

    def senders(self) -> list[str]:
        """Whose transactions are in the pool."""
        return list(self._by_nonce)

    def remove(self, tx_hash: str) -> None:
        """Take a transaction out of the pool, if it is there."""
        waiting = self._pool.pop(tx_hash, None)
        if waiting is None:
            return
        sender = waiting.transaction.from_address
        del self._by_nonce[sender][waiting.transaction.nonce]
        if not self._by_nonce[sender]:
            del self._by_nonce[sender]

    def tidy(self, sender: str, confirmed: int) -> None:
        """After a block: what is below the account's nonce goes, and what was parked and fits now is promoted."""
        for nonce, transaction in list(self._by_nonce.get(sender, {}).items()):
            if nonce < confirmed:
                self.remove(transaction.hash)
        left = sorted(self._parked.pop(sender, []), key=lambda waiting: waiting.transaction.nonce)
        still = []
        for waiting in left:
            expected = self.next_nonce(sender, confirmed)
            if waiting.transaction.nonce == expected:
                self._add(waiting)
            elif waiting.transaction.nonce > expected:
                still.append(waiting)
        if still:
            self._parked[sender] = still

    def everybody(self) -> set[str]:
        """Everybody of whom there is anything, pooled or parked."""
        return {*self._by_nonce, *self._parked}

    def expire(self, now: float) -> Iterator[tuple[str, str]]:
        """Give up what is too old; hash and reason of each."""
        oldest = now - self.life_seconds
        for tx_hash in [tx_hash for tx_hash, waiting in self._pool.items() if waiting.since < oldest]:
            self.remove(tx_hash)
            yield tx_hash, EXPIRED
        for sender, parked in list(self._parked.items()):
            yield from ((one.transaction.hash, EXPIRED_PARKED) for one in parked if one.since < oldest)
            self._parked[sender] = [one for one in parked if one.since >= oldest]
            if not self._parked[sender]:
                del self._parked[sender]

    def clear(self) -> None:
        """Forget everything, as a restart does."""
        self._pool.clear()
        self._by_nonce.clear()
        self._parked.clear()

    def _add(self, waiting: Waiting) -> None:
        transaction = waiting.transaction
        self._pool[transaction.hash] = waiting
        self._by_nonce.setdefault(transaction.from_address, {})[transaction.nonce] = transaction
