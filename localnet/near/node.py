"""The node: blocks, transactions and receipts around the runtime."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from localnet.block_schedule import BlockSchedule
from localnet.faults import Faults
from localnet.near.accounts import Accounts, refusal
from localnet.near.pool import Pool, converted
from localnet.near.receipts import GAS_PRICE_YOCTO, TRANSACTION_GAS, Block, Outcome, Receipt, hash_of
from localnet.near.runtime import Runtime, Yield
from protocols.near.keys import public_key_text, to_base58
from protocols.near.lanes import VALIDITY_BLOCKS
from protocols.near.transactions import SignedTransaction

NO_HASH = "1" * 32
GENESIS_HEIGHT = 1_000
MOST_TRANSACTION_BYTES = 1_572_864
_WAKE_SECONDS = 0.02


@dataclass(frozen=True)
class Picture:
    """Accounts, contracts' states by account, yields, and receipts that are to run next, as of one block."""

    accounts: Accounts
    states: dict[str, Any]
    yields: dict[str, Yield] = field(default_factory=dict)
    queue: tuple[Receipt, ...] = ()


@dataclass
class Included:
    """A transaction in a block."""

    signed: SignedTransaction
    outcome: Outcome


class Node:
    """One node that makes every block; every method may be called from any thread.

    Arguments: `clock` gives Unix time in seconds; a block is made every `block_seconds` of it; `validity_blocks` is
    how many blocks a transaction's block hash may be old; a block is final once `finality_lag` others follow it (on
    the real chain two or three). `faults` are the HTTP server's, and count besides what was `rejected`, `dropped`,
    `nonce_taken` and `rolled_back` on request.
    """

    def __init__(
        self,
        chain_id: str,
        *,
        block_seconds: float,
        clock: Callable[[], float] = time.time,
        validity_blocks: int = VALIDITY_BLOCKS,
        finality_lag: int = 0,
    ) -> None:
        self.lock = threading.RLock()
        self.chain_id = chain_id
        self.runtime = Runtime()
        self.pool = Pool()
        self.faults = Faults()
        self.stopping = threading.Event()
        self._now = clock
        self._schedule = BlockSchedule(clock, block_seconds)
        self._validity_blocks = validity_blocks
        self._finality_lag = finality_lag
        self._pictures: dict[int, Picture] = {}
        self._blocks: dict[int, Block] = {}
        self._heights: dict[str, int] = {}
        self._final_height = GENESIS_HEIGHT
        self._queue: list[Receipt] = []
        self._included: dict[str, Included] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._to_skip = 0
        self._rejections: list[Any] = []
        self._of_strangers: list[SignedTransaction] = []
        genesis = Block(GENESIS_HEIGHT, hash_of("block", chain_id, GENESIS_HEIGHT), NO_HASH, None, int(clock() * 1e9))
        self.genesis_hash = genesis.hash
        self._append(genesis)

    def height(self) -> int:
        """The height of the newest block."""
        with self._settled():
            return self.tip.height

    @property
    def tip(self) -> Block:
        """The newest block."""
        return self._blocks[max(self._blocks)]

    def final_block(self) -> Block:
        """The newest block that is final."""
        with self._settled():
            return self._blocks[self._final_height]

    def picture_at(self, block: Block) -> Picture:
        """Accounts and contracts as of a recent block; as of now for one that nobody kept a picture of."""
        with self.lock:
            states = {name: contract.state for name, contract in self.runtime.contracts.items()}
            return self._pictures.get(block.height) or Picture(self.runtime.accounts, states)

    def block(self, reference: int | str) -> Block | None:
        """The block at a height or with a hash; None if there is none (now)."""
        with self._settled():
            height = self._heights.get(reference) if isinstance(reference, str) else reference
            return None if height is None else self._blocks.get(height)

    def included(self, transaction_hash: str) -> Included | None:
        """The transaction if it is in a block."""
        with self._settled():
            return self._included.get(transaction_hash)

    def sent_by(self, account_id: str) -> list[str]:
        """Hashes of the account's transactions in blocks, oldest first."""
        with self._settled():
            return [each for each, found in self._included.items() if found.signed.transaction.signer_id == account_id]

    def outcome(self, receipt_id: str) -> Outcome | None:
        """What a receipt did; None if it has not run, or never was."""
        with self._settled():
            return self._outcomes.get(receipt_id)

    def status_of(self, included: Included) -> Any:
        """The transaction's status: that of the receipt which its result comes from."""
        outcome = self.last_outcome(included)
        return "Started" if outcome is None else outcome.status

    def last_outcome(self, included: Included) -> Outcome | None:
        """The outcome that the transaction's result comes from; None while there is none."""
        with self.lock:
            outcome: Outcome | None = included.outcome
            while outcome is not None and "SuccessReceiptId" in outcome.status:
                outcome = self._outcomes.get(outcome.status["SuccessReceiptId"])
            return outcome

    def outcomes_of(self, transaction_hash: str) -> list[Outcome]:
        """What the transaction's receipts did so far, oldest first."""
        with self._settled():
            return [
                outcome
                for outcome in self._outcomes.values()
                if outcome.receipt is not None and outcome.receipt.transaction_hash == transaction_hash
            ]

    def refusal(self, signed: SignedTransaction) -> Any:
        """Why the node refuses a transaction (an InvalidTxError); None if it does not."""
        with self._settled():
            if self._rejections:
                self.faults.note("rejected")
                return self._rejections.pop(0)
            size = len(signed.to_bytes())
            if size > MOST_TRANSACTION_BYTES:
                return {"TransactionSizeExceeded": {"size": size, "limit": MOST_TRANSACTION_BYTES}}
            if not signed.verifies:
                return "InvalidSignature"
            height = self._heights.get(to_base58(signed.transaction.block_hash))
            if height is None or self.tip.height - height > self._validity_blocks:
                return "Expired"
            return refusal(signed.transaction, self.runtime.accounts, self.tip.height)

    def receive(self, signed: SignedTransaction) -> Any:
        """Take a transaction into the pool; returns the InvalidTxError if it is refused."""
        with self._settled():
            if signed.hash in self.pool:
                return None
            problem = self.refusal(signed)
            if problem is None and not self.pool.add(signed):
                self.faults.note("dropped")
            return problem

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until `condition`, which is asked every now and then; False if `seconds` did not suffice."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= deadline or self.stopping.wait(_WAKE_SECONDS):
                return False
        return True

    def settle(self) -> None:
        """Make the blocks that have fallen due."""
        with self.lock:
            for at in self._schedule.due():
                self._make_block(at)

    def _make_block(self, at: float) -> None:
        before = self.tip
        height = before.height + 1 + self._to_skip
        self._to_skip = 0
        timestamp_ns = max(before.timestamp_ns + 1, int(at * 1e9))
        identity = hash_of("block", self.chain_id, height, before.hash, timestamp_ns)
        block = Block(height, identity, before.hash, before.height, timestamp_ns)
        incoming, self._queue = [*self._queue, *self.runtime.timed_out(height)], []
        for receipt in incoming:
            outcome, made = self.runtime.run(receipt, height, timestamp_ns)
            block.outcomes.append(outcome)
            self._outcomes[receipt.receipt_id] = outcome
            self._queue += made
        strangers, self._of_strangers = self._of_strangers, []
        for signed in (*strangers, *self.pool.take()):
            self._include(signed, block)
        self.faults.note("nonce_taken", sum(signed in block.transactions for signed in strangers))
        self._append(block)
        if self._finality_lag:
            self._take_picture(height)

    def _include(self, signed: SignedTransaction, block: Block) -> None:
        """Put a transaction into the block, unless it has become invalid since: then nobody hears of it again."""
        transaction = signed.transaction
        if refusal(transaction, self.runtime.accounts, block.height) is not None:
            return
        account = self.runtime.accounts[transaction.signer_id]
        key = account.keys[public_key_text(transaction.public_key)]
        key.nonce = transaction.nonce
        fee = TRANSACTION_GAS * GAS_PRICE_YOCTO
        if key.allowance_yocto is not None:
            key.allowance_yocto -= fee
        account.balance_yocto -= fee + sum(call.deposit_yocto for call in transaction.calls)
        outcome, receipt = converted(signed, block.height)
        block.transactions.append(signed)
        self._included[signed.hash] = Included(signed, outcome)
        self._queue.append(receipt)

    def _take_picture(self, height: int) -> None:
        states = {name: copy.deepcopy(contract.state) for name, contract in self.runtime.contracts.items()}
        accounts = copy.deepcopy(self.runtime.accounts)
        self._pictures[height] = Picture(accounts, states, dict(self.runtime.yields), tuple(self._queue))
        for old in [each for each in self._pictures if each < height - 10 - self._finality_lag]:
            del self._pictures[old]

    def _append(self, block: Block) -> None:
        self._blocks[block.height] = block
        self._heights[block.hash] = block.height
        final = block
        for _ in range(self._finality_lag):
            if final.prev_height is not None:
                final = self._blocks[final.prev_height]
        # What was final stays so, also while the blocks built in the place of others are fewer than those were.
        self._final_height = max(self._final_height, final.height)

    def _take_back(self, blocks: int) -> None:
        """Undo the newest blocks, none of them final: what was in them has not happened."""
        for _ in range(blocks):
            gone = self._blocks.pop(self.tip.height)
            del self._heights[gone.hash]
            self._pictures.pop(gone.height, None)
        height, picture = self.tip.height, copy.deepcopy(self._pictures[self.tip.height])
        self.runtime.accounts, self.runtime.yields = picture.accounts, picture.yields
        for name, contract in self.runtime.contracts.items():
            contract.state = picture.states[name]
        self._queue = list(picture.queue)
        undone = [each for each, found in self._included.items() if found.outcome.height > height]
        for each in undone:
            del self._included[each]
        self._outcomes = {each: outcome for each, outcome in self._outcomes.items() if outcome.height <= height}
        self.faults.note("rolled_back", len(undone))

    @contextmanager
    def _settled(self) -> Iterator[None]:
        with self.lock:
            self.settle()
            yield
