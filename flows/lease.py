"""Which flow runs have a living process on this machine: a lock per flow run that dies with its holder.

Prefect learns of a dead process late or never. An flock is released by the system at the very moment the process
ends, however it ends, so asking for the lock answers the question exactly.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path


class Holder(Enum):
    """What a lease says about the flow run's process."""

    alive = "alive"
    gone = "gone"
    elsewhere = "elsewhere"  # no lease here: it ran on another machine, or never began


@contextmanager
def hold_lease(folder: Path, flow_run_id: str) -> Iterator[None]:
    """Hold the lease of this flow run until the block or the process ends, whichever comes first.

    A second process that runs the same flow run by accident goes on without the lease: what must not happen twice
    is guarded by the outbox, not by this.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{flow_run_id}.lease"
    with path.open("a+") as lease:
        held = False
        with suppress(BlockingIOError):
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
            lease.truncate(0)
            json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}, lease)
            lease.flush()
        try:
            yield
        finally:
            if held:
                path.unlink(missing_ok=True)


def holder_of(folder: Path, flow_run_id: str) -> Holder:
    """Whether the process that ran this flow run on this machine still lives."""
    try:
        with (folder / f"{flow_run_id}.lease").open() as lease:
            fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return Holder.elsewhere
    except BlockingIOError:
        return Holder.alive
    return Holder.gone
