"""A user id of its own for every run that goes on at the same time, whichever worker process started it.

Two runs under one uid could signal each other through a shared user and would share the kernel's per-user limits. A
lock of the operating system guards each uid: it is free again the moment its holder is dead.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages.locks.flock import is_ours_now

LOCK_FOLDER = Path("/run/millrace/slots")
"""One for the whole machine: workers with different data folders must not meet either."""


@dataclass(frozen=True)
class Slots:
    """The uids `first_uid` to `first_uid + count - 1`."""

    first_uid: int
    count: int
    folder: Path = LOCK_FOLDER

    @contextmanager
    def acquire(self) -> Iterator[int]:
        """A uid that nobody else on this machine has until the block ends.

        Raises OSError if all are in use, or if the lock folder is not root's alone.
        """
        uid, fd = self.take()
        try:
            yield uid
        finally:
            # Closing is not enough: a child forked meanwhile holds a copy of the descriptor.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def take(self) -> tuple[int, int]:
        """A uid, and the descriptor with which it is held until every copy of that is closed: a process can inherit it.

        Raises OSError as `acquire` does.
        """
        self._make_folder()
        for uid in range(self.first_uid, self.first_uid + self.count):
            fd = os.open(self.folder / f"{uid}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            if is_ours_now(fd):
                return uid, fd
            os.close(fd)
        raise OSError(f"all {self.count} sandbox slots are in use: raise MILLRACE_SANDBOX__SLOTS or run fewer at once")

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise OSError(f"{self.folder} must be a folder that only its owner can change")
