"""Locks between processes that the system releases the moment their holder ends, however it ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO

from protocols.ipfs.atomic import disk_of

_POLL_SECONDS = 0.05


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, waiting for as long as others do: for short work only. The file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@asynccontextmanager
async def alone(path: Path, timeout_seconds: float) -> AsyncIterator[None]:
    """Hold the lock at `path`, which may be for long and is one of many: its file goes with its last holder.

    Raises TimeoutError if others have it for longer than `timeout_seconds`, StoreFault if it cannot be made.
    """
    with disk_of(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_seconds
    while (lock := _taken(path)) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{path} is held by somebody else")
        await asyncio.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        _give_up(path, lock)


def _taken(path: Path) -> IO[str] | None:
    with disk_of(path.parent):
        lock = path.open("a")
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A holder that ended meanwhile took the file away: then ours is a lock on nothing.
        if os.path.samestat(path.stat(), os.fstat(lock.fileno())):
            return lock
    lock.close()
    return None


def _give_up(path: Path, lock: IO[str]) -> None:
    path.unlink(missing_ok=True)
    lock.close()
