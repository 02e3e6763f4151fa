"""Discover ComputeChain's challenges: one for each block that the operator wants, none missed without a word.

The chain names no jobs; a block is one. What is new is found by asking for the height: the node's event stream
announces no block, and only hints at those with transactions (`computechain_hints`). Each look costs that one question
and one block for each that is new, because a block's hash is what the next one calls its predecessor. A small file
keeps what was seen, so that nothing is lost between two processes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import Transient
from protocols.computechain.job import ComputeChainJob
from protocols.computechain.rpc import ComputeChainRpc

_logger = logging.getLogger(__name__)


class _Window(BaseModel):
    """The blocks that may still get a challenge of ours, as far as they were seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lowest: int
    """The first height that is ours: before it we were not there, or were told what was missed."""
    hashes: dict[int, str] = {}
    begun: frozenset[str] = frozenset()
    """Hashes of those blocks whose challenge has a flow run."""


class ComputeChainDiscovery:
    """The challenges of one chain for one address.

    Arguments: `job_of` makes the job of a height and a block hash; a block is wanted if `every_blocks` divides its
    height; at most `backlog_blocks` of the newest blocks are looked at; `folder` keeps what was seen.
    """

    def __init__(
        self,
        rpc: ComputeChainRpc,
        job_of: Callable[[int, str], ComputeChainJob],
        folder: Path,
        *,
        name: str,
        every_blocks: int,
        backlog_blocks: int,
    ) -> None:
        """`name` tells chain and address apart from others in the same folder."""
        self.newest = -1
        """The height of the chain at the last look."""
        self._rpc = rpc
        self._job_of = job_of
        self._every_blocks = every_blocks
        self._backlog_blocks = backlog_blocks
        self._path = folder / f"computechain-{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"

    async def pending(self) -> list[ComputeChainJob]:
        """The challenges of the blocks in the window, oldest first, whether they were begun or not.

        The first look ever begins with the newest block that is wanted, if that is not too old. What leaves the window
        without having been begun is logged.

        Raises Transient if the chain cannot be asked now, or moves while it is read.
        """
        status = await self._rpc.status()
        self.newest = status.height
        if status.height < 0:
            return []
        before = self._former(status.height)
        lowest = max(before.lowest, status.height - self._backlog_blocks + 1)
        self._tell_missed(before, range(before.lowest, lowest))
        hashes = await self._hashes(before, range(lowest, status.height + 1), status.last_hash)
        self._write(_Window(lowest=lowest, hashes=hashes, begun=before.begun & set(hashes.values())))
        return [self._job_of(height, hashes[height]) for height in self._wanted(hashes)]

    def begun(self, jobs: Sequence[ComputeChainJob]) -> None:
        """These have a flow run: they are not missed when they leave the window."""
        window = self._read()
        if window is not None:
            seen = {job.block_hash for job in jobs} & set(window.hashes.values())
            self._write(window.model_copy(update={"begun": window.begun | seen}))

    def _former(self, height: int) -> _Window:
        """What was seen before; nothing on the first look, or if the chain was begun anew since."""
        window = self._read()
        if window is not None and height < window.lowest - self._backlog_blocks:
            _logger.warning("the chain is at %d and was beyond %d: beginning anew", height, window.lowest)
            window = None
        newest_wanted = height - height % self._every_blocks
        return window or _Window(lowest=max(newest_wanted, height - self._backlog_blocks + 1))

    async def _hashes(self, before: _Window, heights: range, newest_hash: str) -> dict[int, str]:
        """The hash of the block at each of these heights, read downwards until they are what we knew before."""
        found: dict[int, str] = {}
        expected = newest_hash
        for height in reversed(heights):
            if before.hashes.get(height) == expected:
                return {h: before.hashes[h] for h in heights if h <= height} | found
            block = await self._rpc.block(height)
            if block is None or block.hash != expected:
                raise Transient(f"block {height} is not the one that the block after it names: the chain is moving")
            found[height] = expected
            expected = block.header.prev_hash
        return found

    def _wanted(self, heights: Iterable[int]) -> list[int]:
        return sorted(height for height in heights if height % self._every_blocks == 0)

    def _tell_missed(self, window: _Window, gone: range) -> None:
        missed = [height for height in self._wanted(gone) if window.hashes.get(height) not in window.begun]
        if missed:
            _logger.warning(
                "%d challenges missed, of blocks %d to %d: no more than %d blocks are caught up with"
                " (MILLRACE_COMPUTECHAIN__BACKLOG_BLOCKS)",
                len(missed),
                missed[0],
                missed[-1],
                self._backlog_blocks,
            )

    def _read(self) -> _Window | None:
        try:
            return _Window.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            _logger.warning("%s cannot be read: beginning anew with the newest block", self._path)
            return None

    def _write(self, window: _Window) -> None:
        """On disk whole or not at all; what is lost with a crash of the machine is only seen again."""
        if window == self._read():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(f".{os.getpid()}")
        partial.write_text(window.model_dump_json())
        partial.replace(self._path)
