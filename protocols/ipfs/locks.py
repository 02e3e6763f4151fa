"""Locks between processes that the system releases the moment their holder ends, however it ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO

from protocols.ipfs.atomic import disk_of
from protocols.ipfs.errors import StoreFault

SUFFIX = ".lock"

_POLL_SECONDS = 0.05
_SHORT_POLL_SECONDS = 0.01
_SHORT_WORK_SECONDS = 60.0


class HeldElsewhere(TimeoutError):
    """Somebody else holds the lock, for longer than we wait."""


@contextmanager
def held(
    path: Path,
    timeout_seconds: float = _SHORT_WORK_SECONDS,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the lock at `path`, for short work only, and never on the event loop: waiting blocks. The file stays.

    Raises StoreFault if others have it for longer than `timeout_seconds` by `clock`, which `sleep` waits for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = clock() + timeout_seconds
    with path.open("a") as file:
        while not _locked(file):
            if clock() >= deadline:
                raise StoreFault(
                    f"{path} is held by somebody else for more than {timeout_seconds:.1f} s",
                    hint="is one of our processes stopped while it has that file open?",
                )
            sleep(_SHORT_POLL_SECONDS)
        yield


def _locked(file: IO[str]) -> bool:
    """Whether the lock on `file` was free, and now is ours until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@asynccontextmanager
async def alone(path: Path, timeout_seconds: float) -> AsyncIterator[None]:
    """Hold the lock at `path`, which may be for long and is one of many: its file goes with its last holder.

    Files of holders that were killed are removed from its folder by whoever comes next. Raises HeldElsewhere if others
    have it for longer than `timeout_seconds`, StoreFault if it cannot be made.
    """
    with disk_of(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    deadline = time.monotonic() + timeout_seconds
    while (lock := _taken(path)) is None:
        if time.monotonic() >= deadline:
            raise HeldElsewhere(f"{path} is held by somebody else")
        await asyncio.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        _give_up(path, lock)


def _taken(path: Path) -> IO[str] | None:
    with disk_of(path.parent):
        lock = path.open("a")
    with suppress(FileNotFoundError):
        # A holder that ended meanwhile took the file away: then ours is a lock on nothing.
        if _locked(lock) and os.path.samestat(path.stat(), os.fstat(lock.fileno())):
            return lock
    lock.close()
    return None


def _sweep(folder: Path) -> None:
    """Remove the locks that nobody holds. Taking each first keeps this from happening to one that was just made."""
    for path in folder.glob(f"*{SUFFIX}"):
        if (lock := _taken(path)) is not None:
            _give_up(path, lock)


def _give_up(path: Path, lock: IO[str]) -> None:
    path.unlink(missing_ok=True)
    lock.close()
