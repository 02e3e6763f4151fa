"""The node: mempool, blocks and accounts around its rules, and the moments at which it can be made to misbehave."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from localnet.block_schedule import BlockSchedule
from localnet.computechain.blocks import Block, BlockStore
from localnet.computechain.events import EventHub
from localnet.computechain.ledger import Account, Change, Ledger
from localnet.computechain.mempool import Mempool
from localnet.computechain.proposer import Proposer
from localnet.computechain.receipts import Receipts
from localnet.computechain.rules import refusal
from localnet.computechain.spending import FAUCET_KEY
from localnet.faults import Faults
from protocols.computechain.networks import NetworkParameters
from protocols.computechain.transaction import Transaction

WEI_PER_CPC = 10**18
SWEEP_SECONDS = 30.0
"""How often the node looks for transactions that are too old, apart from after each block."""


class Node:
    """One node that makes every block of its chain; every method may be called from any thread.

    Arguments: `clock` gives Unix time in seconds; a block is made every `block_seconds` of it, by default the
    network's. The header's timestamps are slots of the network's own length, however fast blocks really come.
    `keep_alive_seconds` of silence bring a comment to those who listen to events. `faults` are the HTTP server's, and
    count besides what was `rejected`, `dropped`, `nonce_taken` and `rolled_back` on request.
    """

    def __init__(
        self,
        network: NetworkParameters,
        *,
        block_seconds: float | None = None,
        clock: Callable[[], float] = time.time,
        keep_alive_seconds: float = 15.0,
    ) -> None:
        self.lock = threading.RLock()
        self.network = network
        self.mempool = Mempool()
        self.events = EventHub(keep_alive_seconds)
        self.faults = Faults()
        self._now = clock
        self._schedule = BlockSchedule(clock, network.block_seconds if block_seconds is None else block_seconds)
        self._proposer = Proposer(network, int(clock()))
        self._blocks = BlockStore()
        self._receipts = Receipts()
        self._ledger = Ledger()
        self._ledger.apply(Change(FAUCET_KEY.address, network.premine_cpc * WEI_PER_CPC))
        self._swept_at = clock()
        self._rounds: Counter[int] = Counter()
        self._rejections: list[str] = []
        self._to_drop = 0
        self._doomed: set[str] = set()
        self._of_strangers: list[Transaction] = []

    def height(self) -> int:
        """The height of the newest block that can be read; -1 before the first."""
        with self._settled():
            return self._blocks.height(self._now())

    def block(self, height: int) -> Block | None:
        """The block at that height; None if there is none, or none to read yet."""
        with self._settled():
            return self._blocks.get(height, self._now())

    def account(self, address: str) -> Account:
        """Balance and nonce as of the newest block, readable or not; any text is an address."""
        with self._settled():
            return self._ledger.account(address)

    def next_nonce(self, address: str) -> int:
        """The first nonce that neither the newest block nor the pool has used."""
        with self._settled():
            return self.mempool.next_nonce(address, self._ledger.account(address).nonce)

    def receipt(self, tx_hash: str) -> dict[str, Any] | None:
        """What the node says of a transaction; None if it never heard of it."""
        with self._settled():
            height = self._blocks.height_of(tx_hash, self._now())
            block = None if height is None else self._blocks.get(height, self._now())
            return self._receipts.answer(tx_hash, block, self._blocks.height(self._now()))

    def landed(self, address: str) -> list[str]:
        """Hashes of the transactions from that address that are in blocks, oldest first."""
        with self._settled():
            return [sent.hash for sent in self._blocks.transactions() if sent.from_address == address]

    def receive(self, transaction: Transaction) -> str | None:
        """What the node does with a transaction that it is sent; the reason in its words if it rejects it."""
        with self._settled():
            if self._rejections:
                self.faults.note("rejected")
                return self._rejections.pop(0)
            account = self._ledger.account(transaction.from_address)
            problem = refusal(transaction, self.network, self.mempool, account)
            problem = problem or self.mempool.place(transaction, account.nonce, self._now())
            if problem is None:
                self._receipts.accept(transaction.hash, self._now())
                if self._to_drop > 0:
                    self._to_drop -= 1
                    self._doomed.add(transaction.hash)
            return problem

    def settle(self) -> None:
        """Make the blocks that have fallen due, and give up what is too old."""
        with self.lock:
            for at in self._schedule.due():
                self._make_block(at, 0)
            if self._now() - self._swept_at >= SWEEP_SECONDS:
                self._sweep(self._now())

    def _make_block(self, at: float, missed_rounds: int) -> None:
        tip = self._blocks.tip
        before = tip.header if tip else None
        height = before.height + 1 if before else 0
        draft = self._proposer.fill(self._ledger, self._of_strangers, self.mempool, self._doomed)
        block = self._proposer.seal(draft, before, self._rounds[height] + missed_rounds)
        self._blocks.append(block, at)
        self.faults.note("nonce_taken", sum(each in draft.transactions for each in self._of_strangers))
        self._of_strangers.clear()
        for dropped in draft.dropped:
            self.faults.note("dropped", dropped.hash in self._doomed)
            self._doomed.discard(dropped.hash)
            self.mempool.remove(dropped.hash)
        for sender in self.mempool.everybody():
            self.mempool.tidy(sender, self._ledger.account(sender).nonce)
        for included in block.transactions:
            self.events.confirmed(included.hash, height)
        self._sweep(at)

    def _sweep(self, now: float) -> None:
        self._swept_at = now
        for tx_hash, reason in self.mempool.expire(now):
            self._doomed.discard(tx_hash)
            self.events.failed(tx_hash, reason)

    @contextmanager
    def _settled(self) -> Iterator[None]:
        with self.lock:
            self.settle()
            yield
