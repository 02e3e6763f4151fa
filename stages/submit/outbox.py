"""The outbox: every signed submission, on disk before it is sent, until the chain's answer is final.

outbox/<sha256 of the job key>.json            jobs whose submission is being followed
outbox/settled/<first two digits>/<...>.json   jobs whose fate is final
outbox/locks/                                  lock files: a fixed number for the jobs, one for each lane

The invariant: of one job at most one signature can still land. A new generation is taken only after the former one
is marked expired or failed.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import Permanent, UnknownOutcome
from millrace.network import Fate, SignedSubmission

_DEAD = (Fate.expired, Fate.failed)
_LOCK_POLL_SECONDS = 0.05

_logger = logging.getLogger(__name__)


class OutboxDamaged(Permanent):
    """A file of the outbox cannot be read; what was signed for that job is not known any more."""


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
    """The durable record of what was signed, in `folder`; several processes may use it at once.

    Every method that reads a job's record raises OutboxDamaged if the file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settled = folder / "settled"
        self._locks = folder / "locks"
        self._settled.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._locks.mkdir(exist_ok=True, mode=0o700)

    # ---- signing, one at a time a job ----

    @asynccontextmanager
    async def lock(self, job_key: str) -> AsyncIterator[None]:
        """Hold the job's signing lock; waits for it. The operating system frees it when its holder dies."""
        # Few lock files for all jobs: two jobs that share one wait for each other, and nothing has to be cleaned up.
        async with _held(self._locks / f"{_name(job_key)[:2]}.lock"):
            yield

    @asynccontextmanager
    async def lane_lock(self, lane: str) -> AsyncIterator[None]:
        """Hold the lane's signing lock, as `lock` does; without a lane there is nothing to hold.

        Taken after the job's own, never before it.
        """
        if not lane:
            yield
            return
        async with _held(self._locks / f"lane-{_name(lane)}.lock"):
            yield

    # ---- reading ----

    def history(self, job_key: str) -> tuple[Entry, ...]:
        """All generations of the job's submission, oldest first; empty if nothing was ever signed for it."""
        path = self._path(job_key)
        return _read(path, job_key).entries if path is not None else ()

    def latest(self, job_key: str) -> SignedSubmission | None:
        """The job's newest submission, settled or not; None if nothing was ever signed for it."""
        entries = self.history(job_key)
        return entries[-1].submission if entries else None

    def recorded(self, job_key: str, generation: int) -> SignedSubmission | None:
        """The job's submission of that generation; None if it was never recorded."""
        found = [e.submission for e in self.history(job_key) if e.submission.generation == generation]
        return found[0] if found else None

    def unsettled(self) -> list[SignedSubmission]:
        """The newest submission of every job whose fate is not final; damaged files are logged, see `damaged`."""
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
        for path in sorted(self._folder.glob("*.json")):
            try:
                yield _read(path)
            except FileNotFoundError:
                continue  # settled by somebody else since the listing
            except OutboxDamaged as error:
                _logger.error("%s", error)

    def damaged(self) -> list[Path]:
        """The files that cannot be read, each one a job whose fate a person has to look up."""
        return [path for path in sorted(self._folder.rglob("*.json")) if _is_damaged(path)]

    # ---- writing ----

    def ensure_next(self, job_key: str, generation: int) -> None:
        """Return if a submission of that generation may be signed now.

        Raises StillAlive if the one before it is not known to be dead, Permanent if it is not the next one.
        """
        _ensure_next(job_key, self.history(job_key), generation)

    def record(self, submission: SignedSubmission) -> None:
        """Write down a submission of the next generation; it is on disk when this returns.

        Raises as `ensure_next`. Recording the same submission again changes nothing.
        """
        with self._writing():
            entries = self.history(submission.job_key)
            if any(entry.submission == submission for entry in entries):
                return
            _ensure_next(submission.job_key, entries, submission.generation)
            self._write(submission.job_key, (*entries, Entry(submission=submission)))

    def mark(self, submission: SignedSubmission, fate: Fate) -> None:
        """Note what the chain says about a recorded submission. Permanent if it was never recorded."""
        with self._writing():
            entries = self.history(submission.job_key)
            if all(entry.submission != submission for entry in entries):
                raise Permanent(
                    f"the outbox has no submission {submission.transaction_id} of {submission.job_key}",
                    hint="was the data folder replaced while the worker ran?",
                )
            marked = tuple(
                entry.model_copy(update={"fate": fate}) if entry.submission == submission else entry
                for entry in entries
            )
            if marked != entries:
                self._write(submission.job_key, marked)

    def settle(self, job_key: str) -> None:
        """Put the job's record away: its fate is final. Settling twice changes nothing."""
        with self._writing():
            live, settled = self._live_path(job_key), self._settled_path(job_key)
            if live.exists():
                settled.parent.mkdir(exist_ok=True, mode=0o700)
                live.rename(settled)
                _sync_folder(settled.parent)
                _sync_folder(live.parent)

    # ---- files ----

    def _live_path(self, job_key: str) -> Path:
        return self._folder / f"{_name(job_key)}.json"

    def _settled_path(self, job_key: str) -> Path:
        name = _name(job_key)
        return self._settled / name[:2] / f"{name}.json"

    def _path(self, job_key: str) -> Path | None:
        # Twice, because it may be settled between the two looks.
        paths = (self._live_path(job_key), self._settled_path(job_key))
        return next((path for path in (*paths, *paths) if path.exists()), None)

    def _write(self, job_key: str, entries: tuple[Entry, ...]) -> None:
        path = self._path(job_key) or self._live_path(job_key)
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(_Record(job_key=job_key, entries=entries).model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, for the milliseconds that it takes."""
        with (self._locks / "write.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


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


def _name(job_key: str) -> str:
    return hashlib.sha256(job_key.encode()).hexdigest()


def _read(path: Path, job_key: str = "") -> _Record:
    try:
        record = _Record.model_validate_json(path.read_bytes())
    except ValidationError:
        record = None
    numbered = record is not None and [e.submission.generation for e in record.entries] == list(
        range(len(record.entries))
    )
    if record is None or not record.entries or not numbered or _name(record.job_key) != path.stem:
        raise OutboxDamaged(
            f"{path} cannot be read",
            job=job_key,
            hint="restore it, or look up on the chain what this worker sent, before moving the file away",
        )
    return record


def _is_damaged(path: Path) -> bool:
    try:
        _read(path)
    except FileNotFoundError:
        return False
    except OutboxDamaged:
        return True
    return False


@asynccontextmanager
async def _held(path: Path) -> AsyncIterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _locked(descriptor):  # noqa: ASYNC110  (the holder may be another process)
            await asyncio.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
