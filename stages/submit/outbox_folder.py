"""An outbox of one machine: a file for each job, in a folder on a local disk.

<sha256 of the job key>.json            jobs whose submission is being followed
settled/<first two digits>/<...>.json   jobs whose fate is final
locks/                                  lock files: a fixed number for the jobs, one for each lane
in-the-fleet                            is there once the records are a fleet's: nothing is kept here any more
joined/<sha256 of the job key>.joined   what the fleet has taken over
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from millrace.errors import Transient
from stages.locks.flock import is_ours_now
from stages.submit.outbox_store import Kept, Step, name_of

_LOCK_POLL_SECONDS = 0.05


class FolderStore:
    """Records in `folder`, each synced to the disk; locks that the operating system frees when their holder dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settled = folder / "settled"
        self._locks = folder / "locks"
        self.joined = folder / "in-the-fleet"
        """Is there once this machine is in a fleet, or has begun to join it."""
        self._settled.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._locks.mkdir(exist_ok=True, mode=0o700)

    def read(self, job_key: str) -> Kept | None:
        """The job's record; None if there is none."""
        # Twice, because it may be settled between the two looks.
        paths = (self._live_path(job_key), self._settled_path(job_key))
        return next((kept for path in (*paths, *paths) if (kept := _kept(path)) is not None), None)

    def live(self) -> Iterator[Kept]:
        """The records of jobs that are not settled, without those that are settled meanwhile."""
        yield from _all_of(self._folder.glob("*.json"))

    def all(self) -> Iterator[Kept]:
        """Every record there is."""
        yield from _all_of(self._folder.rglob("*.json"))

    def change(self, job_key: str, step: Step, *, revive: bool = False) -> None:
        """One writer at a time, for the milliseconds that it takes.

        Transient once the records are a fleet's: whoever opened this folder before does not know what is signed now,
        and the next flow run will.
        """
        with self._writing():
            if self.joined.exists():
                raise Transient(
                    "this machine has joined a fleet since this flow run began",
                    job=job_key,
                    hint="nothing is lost: its next attempt uses the fleet's outbox; start the worker anew for that",
                )
            kept = self.read(job_key)
            content = step(kept)
            if content is not None:
                live, settled = self._live_path(job_key), self._settled_path(job_key)
                stays = settled.exists() and not live.exists() and not revive
                _write(settled if stays else live, content)
                if not stays:
                    settled.unlink(missing_ok=True)

    def settle(self, job_key: str) -> None:
        """Move the job's file to the settled ones."""
        with self._writing():
            live, settled = self._live_path(job_key), self._settled_path(job_key)
            if live.exists():
                settled.parent.mkdir(exist_ok=True, mode=0o700)
                live.rename(settled)
                _sync_folder(settled.parent)
                _sync_folder(live.parent)

    def hand_over(self, check: Callable[[Kept], None], take: Callable[[Kept, bool], None]) -> None:
        """Let `take` keep every record elsewhere, told whether it is live, and put it out of the way here.

        Nothing is taken before `check` has let every live one pass. Nobody else writes meanwhile, nor ever after.
        """
        with self._writing():
            for kept in self.live():
                check(kept)
            # Before the first is taken: whoever dies on the way must not go on alone with what others follow.
            if not self.joined.exists():
                self.joined.touch(mode=0o600)
                _sync_folder(self._folder)
            for folder in (self._folder, *sorted(self._settled.iterdir())):
                for kept in _all_of(folder.glob("*.json")):
                    take(kept, folder == self._folder)
                    aside = self._folder / "joined"
                    aside.mkdir(exist_ok=True, mode=0o700)
                    (folder / f"{kept.name}.json").rename(aside / f"{kept.name}.joined")

    @asynccontextmanager
    async def lock(self, job_key: str) -> AsyncIterator[None]:
        """Hold the job's lock; waits for it."""
        # Few lock files for all jobs: two jobs that share one wait for each other, and nothing has to be cleaned up.
        async with _held(self._locks / f"{name_of(job_key)[:2]}.lock"):
            yield

    @asynccontextmanager
    async def lane_lock(self, lane: str) -> AsyncIterator[None]:
        """Hold the lane's lock; waits for it."""
        async with _held(self._locks / f"lane-{name_of(lane)}.lock"):
            yield

    @asynccontextmanager
    async def followers_turn(self) -> AsyncIterator[bool]:
        """Always ours: nobody else has this folder, and who reconciles a machine has a lock for that."""
        yield True

    def _live_path(self, job_key: str) -> Path:
        return self._folder / f"{name_of(job_key)}.json"

    def _settled_path(self, job_key: str) -> Path:
        name = name_of(job_key)
        return self._settled / name[:2] / f"{name}.json"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with (self._locks / "write.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _kept(path: Path) -> Kept | None:
    try:
        return Kept(path.stem, path, path.read_bytes())
    except FileNotFoundError:
        return None


def _all_of(paths: Iterator[Path]) -> Iterator[Kept]:
    for path in sorted(paths):
        kept = _kept(path)
        if kept is not None:
            yield kept


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


@asynccontextmanager
async def _held(path: Path) -> AsyncIterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not is_ours_now(descriptor):  # noqa: ASYNC110  (the holder may be another process)
            await asyncio.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
