"""Locks of one machine: an `flock` for each key, which the kernel lets go when its holder dies, however it dies."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from stages.locks.holder import Holder, Wait

_LONGEST_LINE_BYTES = 4096


@dataclass
class _Held:
    holder: str
    path: Path
    file: IO[bytes]
    expiry: threading.Timer | None = None

    def let_go(self) -> None:
        if self.expiry is not None:
            self.expiry.cancel()
        # While it is ours, for nobody else's file may lose its name; and before it is closed, because a child that was
        # forked meanwhile keeps the lock on this file.
        self.path.unlink(missing_ok=True)
        self.file.close()


class FileLocks:
    """Prefect's `LockManager` on files in `folder`, for one stage of one job; what it holds ends with its block.

    `job_key` is told to whoever waits. Two of them are two parties, in one process as well. A lock whose holder is
    killed is free at once, and its file is taken over by the next one.
    """

    def __init__(self, folder: Path, job_key: str) -> None:
        self._folder = folder
        self._job_key = job_key
        self._held: dict[str, _Held] = {}
        self._guard = threading.RLock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Prefect does not let go when it is cancelled between taking a lock and using it, nor while it stores a result.
        with self._guard:
            for key in list(self._held):
                self._held.pop(key).let_go()

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Wait for the lock, `acquire_timeout` seconds at most; whether `holder` has it now, or had it before."""
        wait = Wait(acquire_timeout)
        while not self._take(key, holder, hold_timeout):
            if not wait.goes_on(self._owner(key)):
                return False
            time.sleep(wait.pause())
        wait.over()
        return True

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """As `acquire_lock`, beside the event loop. Whoever is cancelled while it waits has nothing."""
        wait = Wait(acquire_timeout)
        while not self._take(key, holder, hold_timeout):
            if not wait.goes_on(self._owner(key)):
                return False
            await asyncio.sleep(wait.pause())
        wait.over()
        return True

    def release_lock(self, key: str, holder: str) -> None:
        """Let the lock go. ValueError if `holder` does not have it."""
        with self._guard:
            if not self.is_lock_holder(key, holder):
                raise ValueError(f"{holder} does not hold the lock on {key}")
            self._held.pop(key).let_go()

    def is_locked(self, key: str) -> bool:
        """Whether anybody has the lock."""
        # Asking takes a shared lock for a moment; who fails to get its own meanwhile looks again.
        try:
            with self._path(key).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether `holder` has the lock, from us."""
        with self._guard:
            return key in self._held and self._held[key].holder == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody has the lock, `timeout` seconds at most; whether it came to that."""
        wait = Wait(timeout)
        while self.is_locked(key):
            if not wait.goes_on(self._owner(key)):
                return False
            time.sleep(wait.pause())
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """As `wait_for_lock`, beside the event loop."""
        wait = Wait(timeout)
        while self.is_locked(key):
            if not wait.goes_on(self._owner(key)):
                return False
            await asyncio.sleep(wait.pause())
        return True

    # ---- files ----

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.lock"

    def _take(self, key: str, holder: str, hold_timeout: float | None) -> bool:
        """One look that waits for nothing; whether `holder` has the lock now."""
        with self._guard:
            if key in self._held:
                return self._held[key].holder == holder
            path = self._path(key)
            file = _locked(path)
            if file is None:
                return False
            file.truncate(0)
            file.write(Holder.here(self._job_key).line().encode())
            file.flush()
            held = self._held[key] = _Held(holder, path, file)
            if hold_timeout is not None:
                held.expiry = threading.Timer(hold_timeout, self._expire, (key, held))
                held.expiry.daemon = True
                held.expiry.start()
            return True

    def _expire(self, key: str, held: _Held) -> None:
        with self._guard:
            if self._held.get(key) is held:
                self._held.pop(key).let_go()

    def _owner(self, key: str) -> Holder | None:
        try:
            with self._path(key).open("rb") as file:
                return Holder.read(file.read(_LONGEST_LINE_BYTES).decode(errors="replace"))
        except FileNotFoundError:
            return None


def _locked(path: Path) -> IO[bytes] | None:
    """The file at `path`, locked by us; None if another has it, or took it away just now."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A holder that ended since we opened the file took its name away: nobody else would find our lock.
        if os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
    file.close()
    return None
