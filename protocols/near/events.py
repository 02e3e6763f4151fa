"""The requests of one height, and a cursor over heights; where they come from is a `BlockSource`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from millrace.errors import Transient
from protocols.near.answers import ExecutionOutcome
from protocols.near.contract import ExecutionRequest
from protocols.near.request_events import requests_in


@dataclass(frozen=True)
class RequestContext:
    """Where a request was made, for the guest's environment; None for what the source does not tell."""

    contract_id: str
    block_height: int | None
    block_timestamp_ns: int | None
    receipt_id: str | None
    gas_burnt: int | None
    transaction_hash: str | None = None
    predecessor_id: str | None = None
    signer_public_key: str | None = None


@dataclass(frozen=True)
class SeenRequest:
    """A request and where it was made."""

    request: ExecutionRequest
    context: RequestContext


@dataclass(frozen=True)
class SeenHeight:
    """What is at a height: nothing (`skipped`: the chain has no block there), or a block and the requests in it.

    `unreadable` are the contract's announcements that no request can be read from, in words.
    """

    height: int
    skipped: bool = False
    block_hash: str = ""
    prev_hash: str = ""
    timestamp_ns: int = 0
    requests: tuple[SeenRequest, ...] = ()
    unreadable: tuple[str, ...] = ()


class BlockSource(Protocol):
    """Where blocks can be read from."""

    async def at(self, height: int) -> SeenHeight | None:
        """What is at that height; None if the chain has not come so far.

        Raises Transient if it cannot be told now: the height is to be read again, however often.
        """
        ...


class CheckedSource:
    """A `BlockSource` that believes `blocks` in everything but that a height has none: that is asked of `nodes`.

    A server of blocks says so of one that it has not got yet, or has lost, as well.
    """

    def __init__(self, blocks: BlockSource, nodes: BlockSource) -> None:
        self._blocks = blocks
        self._nodes = nodes

    async def at(self, height: int) -> SeenHeight | None:
        """As `BlockSource.at`."""
        seen = await self._blocks.at(height)
        return seen if seen is None or not seen.skipped else await self._nodes.at(height)


class GapInChain(Transient):
    """A block does not follow the one before it: a height that was said to be empty was not, or the chain forked."""


@dataclass(frozen=True)
class Cursor:
    """How far a chain has been read: the next height to read, and the last block that was.

    Whoever reads persists it, after it has taken care of a height's requests and never before.
    """

    next_height: int
    last_height: int | None = None
    last_hash: str = ""

    def after(self, seen: SeenHeight) -> Cursor:
        """The cursor once what was `seen` at `next_height` is taken care of.

        Raises GapInChain if its block does not follow the last one: continue with `rewound`.
        """
        if seen.height != self.next_height:
            raise ValueError(f"height {self.next_height} was to be read, not {seen.height}")
        if seen.skipped:
            return Cursor(self.next_height + 1, self.last_height, self.last_hash)
        if self.last_hash and seen.prev_hash != self.last_hash:
            raise GapInChain(f"the block at {seen.height} does not follow the one read before, at {self.last_height}")
        return Cursor(self.next_height + 1, seen.height, seen.block_hash)

    def rewound(self) -> Cursor:
        """Back to right behind the last block, to read again the heights that were said to be empty.

        If there are none, the last block itself is the wrong one, and forgotten.
        """
        if self.last_height is None or self.last_height + 1 == self.next_height:
            return Cursor(max(self.next_height - 1, 0))
        return Cursor(self.last_height + 1, self.last_height, self.last_hash)


def requests_of(
    outcome: ExecutionOutcome, context: RequestContext, standards: frozenset[str]
) -> tuple[tuple[SeenRequest, ...], tuple[str, ...]]:
    """The requests in the logs of one receipt, and what cannot be read; neither, if the receipt failed.

    A failed receipt keeps its logs, and none of what they announce has happened.
    """
    if not outcome.status.succeeded or outcome.executor_id != context.contract_id:
        return (), ()
    found = requests_in(outcome.logs, standards)
    return tuple(SeenRequest(request, context) for request in found.requests), found.unreadable
