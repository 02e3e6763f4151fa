"""The lock that the system gives on an open file: it is freed at the very moment its holder ends, however it ends."""

from __future__ import annotations

import fcntl


def is_ours_now(descriptor: int) -> bool:
    """Whether the lock on the file was free, and is ours until the descriptor is closed; never waits."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
