"""Blocks: their hash, which the node does not tell, and their roots, which are computed and compared."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from millrace.errors import Permanent
from millrace.text import printable
from protocols.computechain.merkle import merkle_root
from protocols.computechain.transaction import SUBMIT_RESULT, ComputeResult, Transaction

NO_HASH = "0" * 64
"""The tx_root of a block without transactions, and what the first block names as the one before it."""


class WrongBlock(Permanent):
    """A block contradicts itself: the node that sent it errs, or lies."""


class Header(BaseModel):
    """A block's header; the fields that are hashed, in the order in which they are."""

    model_config = ConfigDict(frozen=True)

    height: int
    prev_hash: str
    timestamp: int
    chain_id: str
    proposer_address: str
    round: int
    tx_root: str
    state_root: str
    compute_root: str
    gas_used: int
    gas_limit: int

    @property
    def hash(self) -> str:
        """The block's hash, in hex. Raises ValueError for text that is not UTF-8."""
        text = "".join(str(getattr(self, name)) for name in type(self).model_fields)
        return hashlib.sha256(text.encode()).hexdigest()


class Block(BaseModel):
    """A block as a node sends it; nothing in it is checked before `check_block`."""

    model_config = ConfigDict(frozen=True)

    header: Header
    transactions: tuple[Transaction, ...] = Field(alias="txs")

    @property
    def hash(self) -> str:
        """The block's hash, computed from its header."""
        return self.header.hash

    def compute_results(self) -> list[ComputeResult]:
        """The results in it, in their order. Raises WrongBlock for one that no node would have taken in."""
        try:
            return [ComputeResult.model_validate(t.payload) for t in self.transactions if t.tx_type == SUBMIT_RESULT]
        except ValidationError:
            raise WrongBlock(f"block {self.header.height} has a result that cannot be read", hint=_HINT) from None


_HINT = "ask another node: this one's blocks do not fit together"


def check_block(block: Block) -> None:
    """Return if the block's roots are those of its transactions, and it can be hashed. Raises WrongBlock."""
    height = block.header.height
    try:
        tx_root = merkle_root([transaction.digest for transaction in block.transactions]) or NO_HASH
        compute_root = merkle_root([result.leaf() for result in block.compute_results()])
        _ = block.hash
    except ValueError:
        raise WrongBlock(f"block {height} has text that is not UTF-8", hint=_HINT) from None
    _compare(f"the tx_root of block {height}", block.header.tx_root, tx_root)
    _compare(f"the compute_root of block {height}", block.header.compute_root, compute_root)


def _compare(what: str, told: str, computed: str) -> None:
    if told != computed:
        raise WrongBlock(f"{what} is {printable(told, 100)!r}, computed is {computed!r}", hint=_HINT)
