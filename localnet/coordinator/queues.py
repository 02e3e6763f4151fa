"""Queues as Redis has them: whoever pops an entry has it, for good, and whoever waits is woken by the next one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

TASKS = "tasks"
COMPILE = "compile"
EXECUTE = "execute"


class Queues:
    """First in, first out. An entry that was popped is gone, whether or not its answer ever arrives."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entries: dict[str, deque[Any]] = {TASKS: deque(), COMPILE: deque(), EXECUTE: deque()}
        self._closed = False
        self._waiting = 0

    def push(self, queue: str, entry: Any) -> None:
        """Put an entry at the end."""
        with self._changed:
            self._entries[queue].append(entry)
            self._changed.notify_all()

    def pop(self, queues: Sequence[str], timeout_seconds: float) -> Any:
        """The oldest entry of the first of `queues` that has one, waited for; None if none comes, or at the end."""
        end = time.monotonic() + timeout_seconds
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                while not self._closed:
                    for name in queues:
                        if self._entries[name]:
                            return self._entries[name].popleft()
                    if not self._changed.wait(max(0.0, end - time.monotonic())):
                        return None
                return None
            finally:
                self._waiting -= 1

    def await_polls(self, count: int = 1, timeout_seconds: float = 20.0) -> None:
        """Return once so many polls wait at the same time. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting >= count, timeout_seconds):
                raise TimeoutError(f"{self._waiting} polls wait, not {count}")

    def lengths(self) -> dict[str, int]:
        """How many entries each queue has."""
        with self._changed:
            return {name: len(entries) for name, entries in self._entries.items()}

    def close(self) -> None:
        """Send everybody who waits away."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
