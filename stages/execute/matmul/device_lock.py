"""One job on a card at a time: a lock for each card that the operating system frees when its holder dies.

Prefect's own slots leak when a worker is killed, and two workers of one card would each find the other's memory taken.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from millrace.errors import Transient
from stages.locks.flock import is_ours_now

_POLL_SECONDS = 0.2
_NAME = re.compile(r"[^A-Za-z0-9._-]")


class DeviceBusy(Transient):
    """Another job has the card, and kept it for as long as we were ready to wait."""


@contextmanager
def hold_device(
    folder: Path,
    identity: str,
    *,
    patience_seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the card called `identity` (its UUID or PCI address) until the block or the process ends.

    Waits for `patience_seconds`; then raises DeviceBusy. Processes agree if they use the same `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{_NAME.sub('_', identity)}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = clock() + patience_seconds
        while not is_ours_now(descriptor):
            if clock() >= deadline:
                hint = "one challenge at a time on each card; see docs/workers.md"
                raise DeviceBusy(f"the device {identity} is in use by another job", hint=hint)
            sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
