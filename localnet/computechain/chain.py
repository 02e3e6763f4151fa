"""The chain in this process: the node, and what a test, a demo or an operator may do to it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from localnet.computechain.ledger import Change
from localnet.computechain.node import Node
from localnet.computechain.spending import FAUCET_KEY, transfer
from localnet.faults import EVERY_CALL, Fault
from protocols.computechain.keys import ComputeKey
from protocols.computechain.networks import NetworkParameters

CALLS = ("status", "block", "balance", "nonce", "send", "receipt", "events", "validators", "metrics")
"""The RPC's calls by name, for faults and counters."""


class Chain(Node):
    """A node with all controls; every method may be called from any thread.

    Arguments: as `Node` has them. `calls` counts the HTTP server's requests by call.
    """

    def __init__(
        self,
        network: NetworkParameters,
        *,
        block_seconds: float | None = None,
        clock: Callable[[], float] = time.time,
        keep_alive_seconds: float = 15.0,
    ) -> None:
        super().__init__(network, block_seconds=block_seconds, clock=clock, keep_alive_seconds=keep_alive_seconds)
        self.calls: Counter[str] = Counter()

    def make_block(self, count: int = 1, missed_rounds: int = 0) -> int:
        """Make blocks at once, frozen or not, each after so many rounds without one; returns the newest height."""
        with self._settled():
            for _ in range(count):
                self._make_block(self._now(), missed_rounds)
            return self.height()

    def freeze(self) -> int:
        """Make no blocks but by `make_block`, until `thaw`; returns the height."""
        with self._settled():
            self._schedule.freeze()
            return self.height()

    def thaw(self) -> int:
        """Let blocks come by themselves again; returns the height."""
        with self._settled():
            self._schedule.thaw()
            return self.height()

    def set_block_seconds(self, seconds: float) -> None:
        """Let that much time lie between blocks from now on."""
        with self._settled():
            self._schedule.set_block_seconds(seconds)

    def fund(self, address: str, wei: int) -> int:
        """Give wei out of nothing and without a block, to stay there over a rollback; returns the balance."""
        with self._settled():
            self._ledger.apply(Change(address, int(wei)))
            return self._ledger.account(address).balance_wei

    def transfer(self, to_address: str, wei: int, private_key: str = FAUCET_KEY.private_bytes.hex()) -> str:
        """Send wei by a transaction, from the faucet if no key is given; returns its hash.

        Raises ValueError, in the node's words, if the node rejects it.
        """
        key = ComputeKey(bytes.fromhex(private_key))
        with self._settled():
            transaction = transfer(key, to_address, int(wei), self.next_nonce(key.address), self.network)
            if (problem := self.receive(transaction)) is not None:
                raise ValueError(problem)
            return transaction.hash

    def take_nonce(self, private_key: str, nonce: int | None = None) -> str:
        """Let a stranger with this key use its nonce, by default the account's: on top of the next block, past this
        node's mempool, and before anything that waits there. Returns the hash of the stranger's transaction."""
        key = ComputeKey(bytes.fromhex(private_key))
        with self._settled():
            wanted = self._ledger.account(key.address).nonce if nonce is None else nonce
            transaction = transfer(key, FAUCET_KEY.address, 1, wanted, self.network)
            self._of_strangers.append(transaction)
            return transaction.hash

    def restart(self) -> None:
        """Restart the node: blocks stay, the mempool is lost, streams of events end."""
        with self._settled():
            self.mempool.clear()
            self._doomed.clear()
            self._receipts.restart()
            self.events.disconnect()

    def rollback(self, blocks: int = 1, keep_transactions: bool = False) -> int:
        """Take the newest blocks back, as a sync with other nodes does; returns the height that is left.

        Their transactions go nowhere, or with `keep_transactions` back into the mempool. Blocks at the same heights
        will have other hashes. Raises ValueError if there are not so many blocks.
        """
        with self._settled():
            tip = self._blocks.tip
            if not 0 < blocks <= (tip.header.height + 1 if tip else 0):
                raise ValueError(f"cannot take {blocks} blocks back")
            taken = [self._blocks.pop() for _ in range(blocks)]
            self.faults.note("rolled_back", sum(len(block.transactions) for block in taken))
            for block in taken:
                self._ledger.revert(block.changes)
                self._rounds[block.header.height] += 1
            for transaction in (each for block in reversed(taken) for each in block.transactions if keep_transactions):
                nonce = self._ledger.account(transaction.from_address).nonce
                self.mempool.place(transaction, nonce, self._now())
            return self.height()

    def reject_next(self, error: str, times: int = 1) -> None:
        """Reject the next transactions that are sent, with these words."""
        with self.lock:
            self._rejections += [error] * times

    def drop_next(self, times: int = 1) -> None:
        """Let the proposer drop the next transactions that are accepted, as it does with malformed ones."""
        with self.lock:
            self._to_drop = times

    def stick_receipts(self, stuck: bool = True) -> None:
        """Leave every receipt "pending", also of what is in a block."""
        with self.lock:
            self._receipts.stuck = stuck

    def forge_receipt(
        self, tx_hash: str, status: str, error: str | None = None, block_height: int | None = None
    ) -> None:
        """Say this of a transaction from now on, whatever the blocks say."""
        with self.lock:
            self._receipts.forge(tx_hash, status, error, block_height)

    def delay_storage(self, seconds: float) -> None:
        """Let blocks be readable only so long after they were made; nonces and balances are ahead of them."""
        with self.lock:
            self._blocks.delay_seconds = seconds

    def silence_events(self, silent: bool = True) -> None:
        """Lose every event; keep-alives go on."""
        with self.lock:
            self.events.silent = silent

    def fail(
        self,
        call: str,
        times: int = 1,
        status: int = 503,
        kind: str = "status",
        seconds: float = 30.0,
        retry_after_seconds: int | None = None,
    ) -> None:
        """Let the next requests of a call meet a fault; see `CALLS` and `localnet.faults`. Call `*` is every call.

        Raises ValueError for an unknown call or kind.
        """
        if call not in (*CALLS, EVERY_CALL):
            raise ValueError(f"no call is named {call!r}; known: {', '.join(CALLS)}")
        with self.lock:
            self.faults.add(call, Fault(times, kind, status, seconds, retry_after_seconds))

    def clear_faults(self) -> None:
        """Behave from now on; what is dropped, rolled back or lost already stays so."""
        with self.lock:
            self.faults.clear()
            self._rejections.clear()
            self._to_drop = 0
            self._receipts.stuck = self.events.silent = False
            self._blocks.delay_seconds = 0.0
