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
from typing import IO

import psutil

_GLANCE_SECONDS = 0.2
"""Longer than `holder_of` needs to look: it holds the lock for that moment."""


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
    lease = _taken(path)
    try:
        yield
    finally:
        if lease is not None:
            path.unlink(missing_ok=True)
            lease.close()


def _taken(path: Path) -> IO[str] | None:
    """The lease at `path`, locked by us; None if another process keeps it."""
    deadline = time.monotonic() + _GLANCE_SECONDS
    while True:
        lease = path.open("a+")
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, lease):
                lease.truncate(0)
                json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}, lease)
                lease.flush()
                return lease
        except BlockingIOError:
            if time.monotonic() > deadline:
                lease.close()
                return None
            time.sleep(0.005)
        lease.close()


def _is_at(path: Path, lease: IO[str]) -> bool:
    """Whether the file we locked still has its name: a holder that ended meanwhile took it away."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(lease.fileno()))
    return False


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


def end_holder(folder: Path, flow_run_id: str) -> bool:
    """End the process that holds this lease, and what it started, by SIGKILL; whether there was one to end.

    The process that the lease names is believed to be its holder only if it has the file open: pids are used again,
    and another container may have the same host name and folder.
    """
    path = folder / f"{flow_run_id}.lease"
    if holder_of(folder, flow_run_id) is not Holder.alive:
        return False
    try:
        held = json.loads(path.read_text())
        process = psutil.Process(held["pid"])
        if held["host"] != socket.gethostname() or not _has_open(process.pid, path):
            return False
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    except (OSError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
        return False
    return True


def _has_open(pid: int, path: Path) -> bool:
    """Whether that process has this very file open. OSError or FileNotFoundError if it cannot be told."""
    wanted = path.stat()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.path.samestat(descriptor.stat(), wanted):
                return True
    return False
