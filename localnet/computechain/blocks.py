"""Blocks as the RPC shows them, and where they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from localnet.computechain.ledger import Change
from protocols.computechain.block import Header
from protocols.computechain.transaction import Transaction


@dataclass(frozen=True)
class Block:
    """A header, its transactions and signature, and by which steps it changed the accounts."""

    header: Header
    transactions: tuple[Transaction, ...]
    pq_signature: str
    changes: tuple[Change, ...]

    def as_json(self) -> dict[str, Any]:
        """The body of `GET /block/{height}`."""
        header = {**self.header.model_dump(), "zk_state_proof_hash": None, "zk_compute_proof_hash": None}
        return {
            "header": header,
            "txs": [transaction.model_dump() for transaction in self.transactions],
            "pq_signature": self.pq_signature,
            "pq_sig_scheme_id": 1,  # "Dilithium3", which in fact is secp256k1
        }


class BlockStore:
    """The chain of blocks; one can be made and not be readable yet, as between the node's two steps."""

    def __init__(self) -> None:
        self.delay_seconds = 0.0
        self._blocks: list[Block] = []
        self._made_at: list[float] = []
        self._heights: dict[str, int] = {}

    @property
    def tip(self) -> Block | None:
        """The newest block, readable or not."""
        return self._blocks[-1] if self._blocks else None

    def height(self, now: float) -> int:
        """The height of the newest block that can be read; -1 if there is none."""
        height = len(self._blocks) - 1
        while self.delay_seconds > 0 and height >= 0 and self._made_at[height] + self.delay_seconds > now:
            height -= 1
        return height

    def get(self, height: int, now: float) -> Block | None:
        """The block at that height, if there is one to read."""
        return self._blocks[height] if 0 <= height <= self.height(now) else None

    def height_of(self, tx_hash: str, now: float) -> int | None:
        """In which readable block a transaction is."""
        height = self._heights.get(tx_hash)
        return height if height is not None and height <= self.height(now) else None

    def transactions(self) -> Iterator[Transaction]:
        """Everything that is in a block, readable or not, oldest first."""
        return chain.from_iterable(block.transactions for block in self._blocks)

    def append(self, block: Block, made_at: float) -> None:
        """Put a block on top."""
        self._blocks.append(block)
        self._made_at.append(made_at)
        for transaction in block.transactions:
            self._heights[transaction.hash] = block.header.height

    def pop(self) -> Block:
        """Take the newest block away. Raises IndexError if there is none."""
        block = self._blocks.pop()
        self._made_at.pop()
        for transaction in block.transactions:
            del self._heights[transaction.hash]
        return block
