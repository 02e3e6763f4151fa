"""Draining: this machine takes no new job until somebody says otherwise; what was begun is finished.

The mark is a file in the data folder, so that every process of the machine sees it, whatever starts or dies meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from millrace.errors import Declined, DeclineReason
from protocols.ipfs.atomic import write_atomically

HINT = "`millrace drain --end`, or starting the worker again, ends the draining"


class DrainMark:
    """The mark in the data folder `data_dir`."""

    def __init__(self, data_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = data_dir / "state" / "draining.json"
        self._clock = clock

    def set(self) -> None:
        """Drain from now on; it is on disk when this returns. Setting it again changes nothing."""
        if not self.is_set():
            write_atomically(self._path, [json.dumps({"since": self._clock()}).encode()])

    def is_set(self) -> bool:
        """Whether the machine drains: the file counts, whatever is in it."""
        return self._path.exists()

    def since(self) -> float | None:
        """Since when, in Unix seconds; None if the machine does not drain."""
        try:
            state = self._path.stat()
            return float(json.loads(self._path.read_bytes())["since"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return state.st_mtime

    def end(self) -> bool:
        """Take jobs again; whether the machine was draining."""
        was_set = self.is_set()
        self._path.unlink(missing_ok=True)
        return was_set

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Somebody waits for the machine to be empty inside: a worker that is started meanwhile takes nothing.

        Ended by the end of the block or of the process.
        """
        with self._path.open("rb") as mark:
            fcntl.flock(mark, fcntl.LOCK_SH)
            yield

    def end_at_start(self) -> bool:
        """Take jobs again, for a worker starts, unless somebody waits in `awaited`; whether it was draining until now.

        A worker that the system starts again because it died must not undo what an operator waits for.
        """
        with suppress(FileNotFoundError, BlockingIOError), self._path.open("rb") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self.end()
        return False


def ensure_taking(data_dir: Path) -> None:
    """Return if new jobs are taken. Declined(draining) otherwise, which passes."""
    if DrainMark(data_dir).is_set():
        raise Declined("this machine is draining and takes nothing new", reason=DeclineReason.draining, hint=HINT)
