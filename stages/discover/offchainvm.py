"""Discover OffchainVM requests: read the chain block by block and keep every request until it can be answered no more.

A request is on disk before the cursor moves past its block, so that a crash between the two shows it again and loses
nothing. The chain resumes a request for 200 blocks; after that there is nothing left to do for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from millrace.errors import Permanent, Transient
from protocols.near.contract import YIELD_TIMEOUT_BLOCKS
from protocols.near.events import BlockSource, Cursor, GapInChain, SeenHeight, SeenRequest
from protocols.near.job import OffchainVmJob, parse_job_id

_MOST_BLOCKS = 400
"""How many are read in one look, so that what was found is served before all of a backlog is read."""

_LOOK_SECONDS = 1.0
"""Between two looks for the next block: one comes about as often."""

_logger = logging.getLogger(__name__)


class _State(BaseModel):
    """How far the chain was read, and which requests have a flow run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cursor: Cursor
    begun: frozenset[str] = frozenset()


_STATE = TypeAdapter(_State)


class OffchainVmDiscovery:
    """The requests to one contract.

    Arguments: `source` has the blocks, `head` tells the newest final height, `job_of` makes the job of a request.
    `folder` keeps how far was read; `name` tells chain and contract apart from others in it. `start_block` is where to
    begin if nothing was read before, 0 for the newest final block.
    """

    def __init__(
        self,
        source: BlockSource,
        head: Callable[[], Awaitable[int]],
        job_of: Callable[[SeenRequest], OffchainVmJob],
        folder: Path,
        *,
        name: str,
        start_block: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._head = head
        self._job_of = job_of
        self._start_block = start_block
        self._clock, self._sleep = clock, sleep
        self._folder = folder / f"offchainvm-{hashlib.sha256(name.encode()).hexdigest()[:16]}"

    async def pending(self) -> list[OffchainVmJob]:
        """The requests that the chain would still resume, oldest first, whether they were begun or not.

        Raises Transient if no block can be read now and nothing is kept from before.
        """
        head = await self._head()
        state = self._read()
        if state is None:
            # Written before anything is read: the next look begins here too, and not at its own head.
            state = _State(cursor=Cursor(self._start_block or head))
            self._write(state)
        trouble: Transient | None = None
        try:
            state, _ = await self._follow(self._caught_up(state, head))
        except Transient as error:
            trouble = error
            state = self._read() or state
        kept = self._kept(state, head)
        if trouble is not None:
            if not kept:
                raise trouble
            _logger.warning("could not read on at %d: %s", state.cursor.next_height, trouble)
        return kept

    async def wait_for_news(self, seconds: float) -> None:
        """Return after `seconds`, or as soon as a block that has come meanwhile has a request."""
        deadline = self._clock() + seconds
        while (left := deadline - self._clock()) > 0:
            await self._sleep(min(left, _LOOK_SECONDS))
            state = self._read()
            if state is None:
                continue
            try:
                if (await self._follow(state))[1]:
                    return
            except Transient:
                # `pending` tries again, and says so.
                await self._sleep(max(deadline - self._clock(), 0.0))

    async def find(self, job_id: str) -> OffchainVmJob:
        """The request of that job id, kept here or read again where it was made; Permanent if there is none."""
        place = parse_job_id(job_id)
        if place is None:
            raise Permanent(f"{job_id!r} names no request", hint="give <height>-<request id>")
        kept = self._load(self._path(job_id))
        if kept is not None:
            return kept
        height, request_id = place
        seen = await self._source.at(height)
        if seen is None:
            raise Transient(f"the chain has not come to block {height} yet")
        for each in seen.requests:
            if each.request.request_id == request_id:
                return self._job_of(each)
        raise Permanent(f"block {height} has no request {request_id}", hint="give <height>-<request id>")

    def begun(self, jobs: Sequence[OffchainVmJob]) -> None:
        """These have a flow run: they are not missed once the chain resumes them no more."""
        state = self._read()
        if state is not None and (new := {job.job_id for job in jobs} - state.begun):
            self._write(state.model_copy(update={"begun": state.begun | new}))

    def _caught_up(self, state: _State, head: int) -> _State:
        """The state to read on from: requests so old that the chain resumes them no more are not looked for."""
        oldest = head - YIELD_TIMEOUT_BLOCKS
        cursor = state.cursor
        if cursor.next_height >= oldest:
            return state
        _logger.warning(
            "blocks %d to %d were not read while they could matter: whatever was asked there has timed out",
            cursor.next_height,
            oldest - 1,
        )
        return state.model_copy(update={"cursor": Cursor(oldest)})

    async def _follow(self, state: _State) -> tuple[_State, bool]:
        """Read up to the head, keeping what is found; how far it came is on disk even if this raises.

        Returns the state, and whether there was a request.
        """
        found = False
        for _ in range(_MOST_BLOCKS):
            seen = await self._source.at(state.cursor.next_height)
            if seen is None:
                break
            state = state.model_copy(update={"cursor": self._after(state, seen)})
            self._write(state)
            found = found or bool(seen.requests)
        return state, found

    def _after(self, state: _State, seen: SeenHeight) -> Cursor:
        try:
            after = state.cursor.after(seen)
        except GapInChain:
            self._write(state.model_copy(update={"cursor": state.cursor.rewound()}))
            raise
        for words in seen.unreadable:
            _logger.warning("block %d announces a request that cannot be read: %s", seen.height, words)
        for request in seen.requests:
            self.keep(self._job_of(request))
        return after

    # ---- files ----

    def _kept(self, state: _State, head: int) -> list[OffchainVmJob]:
        """What is kept and can still be answered; the rest is put away, with a word if nobody began it."""
        jobs = [job for path in self._folder.glob("requests/*.json") if (job := self._load(path)) is not None]
        alive = [job for job in jobs if head - job.height <= YIELD_TIMEOUT_BLOCKS]
        gone = [job for job in jobs if head - job.height > YIELD_TIMEOUT_BLOCKS]
        for job in gone:
            if job.job_id not in state.begun:
                _logger.warning("the request %s timed out before anybody began it", job.key)
            self._path(job.job_id).unlink(missing_ok=True)
        if gone:
            self._write(state.model_copy(update={"begun": state.begun & {job.job_id for job in alive}}))
        return sorted(alive, key=lambda job: (job.height, job.request.request_id))

    def _path(self, job_id: str) -> Path:
        return self._folder / "requests" / f"{job_id}.json"

    def keep(self, job: OffchainVmJob) -> None:
        """Have the job as it is now on disk when this returns."""
        path = self._path(job.job_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, job.model_dump_json(exclude={"key"}), sync=True)

    def _load(self, path: Path) -> OffchainVmJob | None:
        try:
            return OffchainVmJob.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            # `find` reads it from the chain again; here it would stop everything else.
            _logger.warning("%s cannot be read", path)
            return None

    def _read(self) -> _State | None:
        try:
            return _STATE.validate_json((self._folder / "state.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            _logger.warning("%s cannot be read: beginning anew", self._folder / "state.json")
            return None

    def _write(self, state: _State) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # What a crash of the machine takes from this file is only read again.
        _replace(self._folder / "state.json", _STATE.dump_json(state).decode(), sync=False)


def _replace(path: Path, text: str, *, sync: bool) -> None:
    """On disk whole or not at all."""
    partial = path.with_suffix(f".{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)
    if sync:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
