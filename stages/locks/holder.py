"""Who has a lock, in words, and what a waiter tells about waiting for it."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from millrace.text import printable

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_LONGEST_SHOWN = 300
_logger = logging.getLogger("millrace.locks")


@dataclass(frozen=True)
class Holder:
    """The process that has a lock, and for which job."""

    job: str
    host: str
    pid: int
    since: float
    """Unix time at which it got the lock, by its own clock."""

    @classmethod
    def here(cls, job_key: str) -> Holder:
        """This process, from now on."""
        return cls(job=job_key, host=socket.gethostname(), pid=os.getpid(), since=round(time.time(), 3))

    @classmethod
    def read(cls, text: str) -> Holder | None:
        """The holder that `line` wrote down; None where it cannot be told, for it may be half written."""
        try:
            told = json.loads(text)
            return cls(job=str(told["job"]), host=str(told["host"]), pid=int(told["pid"]), since=float(told["since"]))
        except (ValueError, TypeError, KeyError):
            return None

    def line(self, **more: str) -> str:
        """One line of JSON, with whatever else the lock has to remember."""
        return json.dumps({**asdict(self), **more})

    def __str__(self) -> str:
        try:
            since = f"{datetime.fromtimestamp(self.since, UTC):%H:%M:%S} UTC"
        except (ValueError, OverflowError, OSError):
            since = "a time that cannot be"
        # Read from a file or a server that others write to.
        return printable(f"{self.job or 'somebody'} (process {self.pid} on {self.host}, since {since})", _LONGEST_SHOWN)


class Wait:
    """One wait for a lock: its deadline, its pauses, and what the log says about it."""

    def __init__(self, timeout: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Wait for `timeout` seconds at most, 0 for one look, without end if None."""
        self._clock = clock
        self._began = clock()
        self._deadline = None if timeout is None else self._began + timeout
        self._pause = _FIRST_PAUSE_SECONDS
        self._told: Holder | None = None
        self._waited = False

    def goes_on(self, holder: Holder | None) -> bool:
        """Whether to look again after a pause; tells for whom, once for each of them."""
        if self._deadline is not None and self._clock() >= self._deadline:
            return False
        # A holder that cannot be told yet may have taken the lock this very moment: it is named at the next look.
        if holder is not None and holder != self._told:
            _logger.info("waits for %s, which is at the same work", holder)
            self._told = holder
        self._waited = True
        return True

    def pause(self) -> float:
        """Seconds until the next look: longer each time, and never beyond the deadline."""
        pause, self._pause = self._pause, min(self._pause * 1.5, _LONGEST_PAUSE_SECONDS)
        if self._deadline is None:
            return pause
        return max(0.0, min(pause, self._deadline - self._clock()))

    def over(self) -> None:
        """The lock is ours: tell how long it took, if it took any time."""
        if self._waited:
            _logger.info("waited %.1f s", self._clock() - self._began)
