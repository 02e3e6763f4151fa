"""Where on ComputeChain a nonce was used, and by which transaction: the chain keeps no index of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from protocols.computechain.block import Block
from protocols.computechain.rpc import ComputeChainRpc
from protocols.computechain.transaction import SUBMIT_RESULT, Transaction

ROLLBACK_BLOCKS = 64
"""How far below the height it was signed at a transaction is looked for, in case blocks were taken back and redone."""


@dataclass(frozen=True)
class Use:
    """A transaction in its block, and the newest block's height when that was read."""

    transaction: Transaction
    block: Block
    tip: int

    @property
    def height(self) -> int:
        """The block's height."""
        return self.block.header.height

    @property
    def confirmations(self) -> int:
        """How many blocks there were from that one on, itself included."""
        return self.tip - self.height + 1


class BlockSearch:
    """Looks through blocks for transactions; remembers where it found one, and looks there first."""

    def __init__(self, rpc: ComputeChainRpc) -> None:
        self._rpc = rpc
        self._found_at: dict[tuple[str, int], int] = {}

    async def use_of(self, address: str, nonce: int, signed_at: int) -> Use | None:
        """What used that nonce; looks upwards from the block after `signed_at`, then below it.

        None also if the node has moved the account and not yet stored the block, or has taken blocks back: ask again.
        Raises Transient if the chain cannot be asked now.
        """
        tip = (await self._rpc.status()).height
        known = self._found_at.get((address, nonce))
        heights = [] if known is None else [known]
        heights += range(max(0, signed_at + 1), tip + 1)
        heights += range(min(signed_at, tip), max(-1, signed_at - ROLLBACK_BLOCKS), -1)
        use = await self._first(heights, tip, lambda sent: (sent.from_address, sent.nonce) == (address, nonce))
        if use is not None:
            self._found_at[address, nonce] = use.height
        return use

    async def result_for(self, address: str, task_id: str, since: int) -> Use | None:
        """A result of `address` for that task in a block above `since`, if there is one: the chain takes more of them.

        Raises Transient if the chain cannot be asked now.
        """
        tip = (await self._rpc.status()).height

        def is_it(sent: Transaction) -> bool:
            ours = (sent.tx_type, sent.from_address) == (SUBMIT_RESULT, address)
            return ours and sent.payload.get("task_id") == task_id

        return await self._first(range(since + 1, tip + 1), tip, is_it)

    async def _first(self, heights: Iterable[int], tip: int, wanted: Callable[[Transaction], bool]) -> Use | None:
        async for block in self._blocks(heights):
            for sent in block.transactions:
                if wanted(sent):
                    return Use(sent, block, max(tip, block.header.height))
        return None

    async def _blocks(self, heights: Iterable[int]) -> AsyncIterator[Block]:
        for height in heights:
            block = await self._rpc.block(height)
            if block is not None:
                yield block
