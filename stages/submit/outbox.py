"""The outbox: every signed submission, kept for good before it is sent, until the chain's answer is final.

The invariant: of one job at most one signature can still land. A new generation is taken only after the former one
is marked expired or failed. Where the records are is the store's business: a folder, or the Redis of a fleet.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import Permanent, UnknownOutcome
from millrace.network import Fate, SignedSubmission
from stages.submit.outbox_folder import FolderStore
from stages.submit.outbox_store import Kept, Place, Store, name_of

_DEAD = (Fate.expired, Fate.failed)

_logger = logging.getLogger(__name__)


class OutboxDamaged(Permanent):
    """A record of the outbox cannot be read; what was signed for that job is not known any more."""


class StillAlive(UnknownOutcome):
    """A new signature was asked for while an older one may still land."""


class Entry(BaseModel):
    """One generation of a job's submission, and what is known of its fate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    submission: SignedSubmission
    fate: Fate = Fate.unknown


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    job_key: str
    entries: tuple[Entry, ...]


class Outbox:
    """The durable record of what was signed; several processes may use it at once, and machines if its store can.

    Every method that reads a job's record raises OutboxDamaged if it cannot be read. In a fleet, each raises Transient
    if the store does not answer, and each that writes if this machine has joined one since.
    """

    def __init__(self, place: Path | Store) -> None:
        """`place` is this machine's folder for it, or any other store."""
        self._store: Store = FolderStore(place) if isinstance(place, Path) else place

    # ---- signing, one at a time a job ----

    @asynccontextmanager
    async def lock(self, job_key: str) -> AsyncIterator[None]:
        """Hold the job's signing lock; waits for it. It is freed when its holder dies."""
        async with self._store.lock(job_key):
            yield

    @asynccontextmanager
    async def lane_lock(self, lane: str) -> AsyncIterator[None]:
        """Hold the lane's signing lock, as `lock` does; without a lane there is nothing to hold.

        Taken after the job's own, never before it.
        """
        if not lane:
            yield
            return
        async with self._store.lane_lock(lane):
            yield

    @asynccontextmanager
    async def followers_turn(self) -> AsyncIterator[bool]:
        """Whether it is this machine's turn, for the block, to see that somebody follows each of `unsettled`."""
        async with self._store.followers_turn() as ours:
            yield ours

    # ---- reading ----

    def history(self, job_key: str) -> tuple[Entry, ...]:
        """All generations of the job's submission, oldest first; empty if nothing was ever signed for it."""
        return _entries(self._store.read(job_key), job_key)

    def latest(self, job_key: str) -> SignedSubmission | None:
        """The job's newest submission, settled or not; None if nothing was ever signed for it."""
        entries = self.history(job_key)
        return entries[-1].submission if entries else None

    def recorded(self, job_key: str, generation: int) -> SignedSubmission | None:
        """The job's submission of that generation; None if it was never recorded."""
        found = [e.submission for e in self.history(job_key) if e.submission.generation == generation]
        return found[0] if found else None

    def fate(self, submission: SignedSubmission) -> Fate:
        """What is known of that submission's fate so far; unknown if it was never recorded."""
        found = [e.fate for e in self.history(submission.job_key) if e.submission == submission]
        return found[0] if found else Fate.unknown

    def unsettled(self) -> list[SignedSubmission]:
        """The newest submission of every job whose fate is not final; damaged records are logged, see `damaged`."""
        return [record.entries[-1].submission for record in self._live_records()]

    def in_lane(self, lane: str) -> list[SignedSubmission]:
        """What was signed in that lane and is not dead, in the order of its nonces; nothing without a lane.

        One that has landed is among them until it is final: the chain may yet take it back.
        """
        if not lane:
            return []
        newest = [record.entries[-1] for record in self._live_records()]
        alive = [entry.submission for entry in newest if entry.fate not in _DEAD and entry.submission.lane == lane]
        return sorted(alive, key=lambda submission: submission.nonce or 0)

    def _live_records(self) -> Iterator[_Record]:
        for kept in self._store.live():
            try:
                yield _record(kept)
            except OutboxDamaged as error:
                _logger.error("%s", error)

    def damaged(self) -> list[Place]:
        """The records that cannot be read, each one a job whose fate a person has to look up."""
        return [kept.place for kept in self._store.all() if _is_damaged(kept)]

    def damaged_live(self) -> list[Place]:
        """Of `damaged`, those that may stand for a submission which is still to be followed."""
        return [kept.place for kept in self._store.live() if _is_damaged(kept)]

    # ---- writing ----

    def ensure_next(self, job_key: str, generation: int) -> None:
        """Return if a submission of that generation may be signed now.

        Raises StillAlive if the one before it is not known to be dead, Permanent if it is not the next one.
        """
        _ensure_next(job_key, self.history(job_key), generation)

    def record(self, submission: SignedSubmission) -> None:
        """Write down a submission of the next generation; it is kept for good when this returns.

        Raises as `ensure_next`, and Transient if a lock that we hold is lost or nobody can tell whether it is written
        down. Recording the same submission again changes nothing.
        """

        def with_it(kept: Kept | None) -> bytes | None:
            entries = _entries(kept, submission.job_key)
            if any(entry.submission == submission for entry in entries):
                return None
            _ensure_next(submission.job_key, entries, submission.generation)
            return _written(submission.job_key, (*entries, Entry(submission=submission)))

        # A chain that has ended the job may take that back: what is signed then is followed like any other.
        self._store.change(submission.job_key, with_it, revive=True)

    def mark(self, submission: SignedSubmission, fate: Fate) -> None:
        """Note what the chain says about a recorded submission. Permanent if it was never recorded."""

        def marked(kept: Kept | None) -> bytes | None:
            entries = _entries(kept, submission.job_key)
            if all(entry.submission != submission for entry in entries):
                raise Permanent(
                    f"the outbox has no submission {submission.transaction_id} of {submission.job_key}",
                    hint="was the data folder replaced while the worker ran?",
                )
            changed = tuple(
                entry.model_copy(update={"fate": fate}) if entry.submission == submission else entry
                for entry in entries
            )
            return _written(submission.job_key, changed) if changed != entries else None

        self._store.change(submission.job_key, marked)

    def settle(self, job_key: str) -> None:
        """Put the job's record away: its fate is final. Settling twice changes nothing."""
        self._store.settle(job_key)


def _ensure_next(job_key: str, entries: tuple[Entry, ...], generation: int) -> None:
    if generation != len(entries):
        raise Permanent(
            f"generation {generation} was to be signed, generation {len(entries)} is the next one", job=job_key
        )
    if entries and entries[-1].fate not in _DEAD:
        raise StillAlive(
            f"the transaction {entries[-1].submission.transaction_id} may still land",
            hint="confirm it first",
            job=job_key,
        )


def has_all_of(kept: Kept, other: bytes) -> bool:
    """Whether every submission of the record `kept` is in the record that `other` is the content of.

    Raises OutboxDamaged if either cannot be read.
    """
    there = {entry.submission.transaction_id for entry in _record(replace(kept, content=other)).entries}
    return {entry.submission.transaction_id for entry in _record(kept).entries} <= there


def _entries(kept: Kept | None, job_key: str) -> tuple[Entry, ...]:
    return _record(kept, job_key).entries if kept is not None else ()


def _written(job_key: str, entries: tuple[Entry, ...]) -> bytes:
    return _Record(job_key=job_key, entries=entries).model_dump_json(indent=1).encode()


def _record(kept: Kept, job_key: str = "") -> _Record:
    try:
        record = _Record.model_validate_json(kept.content)
    except ValidationError:
        record = None
    numbered = record is not None and [e.submission.generation for e in record.entries] == list(
        range(len(record.entries))
    )
    if record is None or not record.entries or not numbered or name_of(record.job_key) != kept.name:
        raise OutboxDamaged(
            f"{kept.place} cannot be read",
            job=job_key,
            hint="restore it, or look up on the chain what this worker sent, before moving it away",
        )
    return record


def _is_damaged(kept: Kept) -> bool:
    try:
        _record(kept)
    except OutboxDamaged:
        return True
    return False
