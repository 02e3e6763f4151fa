"""Which flow runs have a living process on this machine: a lock per flow run that dies with its holder.

Prefect learns of a dead process late or never. An flock is released by the system at the very moment the process
ends, however it ends, so asking for the lock answers the question exactly.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any

import psutil

_logger = logging.getLogger(__name__)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_GLANCE_SECONDS = 0.2
"""Longer than `holder_of` needs to look: it holds the lock for that moment."""


class Holder(Enum):
    """What a lease says about the flow run's process."""

    alive = "alive"
    gone = "gone"
    elsewhere = "elsewhere"  # no lease here: it ran on another machine, or never began


@contextmanager
def hold_lease(folder: Path, flow_run_id: str, *, flow: str = "", about: str = "") -> Iterator[None]:
    """Hold the lease of this flow run until the block or the process ends, whichever comes first.

    Whoever asks what runs here is told the name of its flow, and what it is `about`; after the block also that the
    flow is over, if the process holds the lease for longer.

    A second process that runs the same flow run by accident goes on without the lease: what must not happen twice
    is guarded by the outbox, not by this. A process that holds it already goes on holding it after the block.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{flow_run_id}.lease"
    told = {"flow": flow, "about": about}
    if path not in _held and (handed_on := _handed_on(path)) is not None:
        _held[path] = handed_on
    if path in _held:
        _tell(_held[path], told)
        try:
            yield
        finally:
            _tell(_held[path], {**told, "over": True})
        return
    lease = _taken(path, told)
    if lease is not None:
        _held[path] = lease
    try:
        yield
    finally:
        if lease is not None:
            del _held[path]
            path.unlink(missing_ok=True)
            lease.close()


def hand_on_leases() -> None:
    """Let the program that this process is about to become keep the leases, until it ends."""
    for lease in _held.values():
        os.set_inheritable(lease.fileno(), True)


def _handed_on(path: Path) -> IO[str] | None:
    """The lease at `path`, if the program that this process was before has left it to us."""
    with suppress(OSError):
        wanted = path.stat()
        for descriptor in (int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
            with suppress(OSError):
                # What this program has opened itself, if only for a glance, is not inheritable.
                if os.path.samestat(os.fstat(descriptor), wanted) and os.get_inheritable(descriptor):
                    os.set_inheritable(descriptor, False)
                    return os.fdopen(descriptor, "a+")
    return None


_held: dict[Path, IO[str]] = {}
"""The leases of this process."""


def _taken(path: Path, told: dict[str, str]) -> IO[str] | None:
    """The lease at `path`, locked by us; None if another process keeps it."""
    deadline = time.monotonic() + _GLANCE_SECONDS
    while True:
        lease = path.open("a+")
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, lease):
                _tell(lease, told)
                return lease
        except BlockingIOError:
            if time.monotonic() > deadline:
                lease.close()
                return None
            time.sleep(0.005)
        lease.close()


def _tell(lease: IO[str], told: dict[str, Any]) -> None:
    """Write down who holds the lease, and for what; on a full disk nothing: what counts is that it is held."""
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), **told})
    os.ftruncate(lease.fileno(), 0)
    try:
        os.write(lease.fileno(), text.encode())
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _logger.warning("the lease %s does not say who holds it: %s", lease.name, error.strerror)


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


@dataclass(frozen=True)
class Lease:
    """What a living process says about the flow run that it works on; `since` is in Unix seconds, None if unknown."""

    flow_run_id: str
    flow: str
    about: str
    since: float | None
    over: bool = False
    """Whether the flow has ended, and its process has yet to."""

    @property
    def at_work(self) -> bool:
        """Whether the flow is between its first and its last line, as far as is known."""
        return bool(self.flow) and not self.over


def living(folder: Path) -> list[Lease]:
    """The flow runs that have a living process on this machine, in no order."""
    found = []
    for path in folder.glob("*.lease"):
        if holder_of(folder, path.stem) is Holder.alive:
            told = _told(path)
            since = told.get("since")
            found.append(
                Lease(
                    flow_run_id=path.stem,
                    flow=str(told.get("flow") or ""),
                    about=str(told.get("about") or ""),
                    since=float(since) if isinstance(since, int | float) else None,
                    over=bool(told.get("over")),
                )
            )
    return found


def without_holder(folder: Path) -> list[str]:
    """The ids of flow runs whose process died and left its lease, in no order."""
    return [path.stem for path in folder.glob("*.lease") if holder_of(folder, path.stem) is Holder.gone]


def forget(folder: Path, flow_run_id: str) -> bool:
    """Remove the lease of a flow run that has ended, unless a process holds it; returns whether it was removed."""
    path = folder / f"{flow_run_id}.lease"
    with suppress(FileNotFoundError, BlockingIOError), path.open() as lease:
        # Locked, so that nobody takes it between the look and the removal.
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, lease):
            path.unlink()
            return True
    return False


def _told(path: Path) -> dict[str, Any]:
    """What the lease says; nothing while its holder is writing it."""
    with suppress(OSError, ValueError):
        told = json.loads(path.read_text())
        return told if isinstance(told, dict) else {}
    return {}


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
