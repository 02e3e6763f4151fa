"""Control groups: what the kernel lets all processes of a run use together."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from millrace.limits import Limits

_logger = logging.getLogger(__name__)

OWN_PROCESSES = 2
"""Processes of bubblewrap itself in each group, beside the job's."""

CPU_PERIOD_MICROSECONDS = 100_000
SMALLEST_QUOTA_MICROSECONDS = 1_000

MISSING_EXIT_CODE = 97
"""Exit code of the starting shell when it could not join its group."""


class Group(Protocol):
    """The control group of one run."""

    def wrap(self, command: Sequence[str]) -> list[str]:
        """`command`, changed so that it joins the group before anything else, or as it is: see `take`."""
        ...

    def take(self, pid: int) -> None:
        """Move the process that `command` became, our child, into the group if it does not join by itself.

        OSError if the kernel refuses. It must not have children yet.
        """
        ...

    def kill(self) -> bool:
        """SIGKILL everything in the group until nothing is left; False if something would not die."""
        ...

    def oom_kills(self) -> int:
        """How many of the group's processes the kernel killed for want of memory, whosever limit it was."""
        ...

    def reached_memory_limit(self) -> bool:
        """Whether the group ever wanted more than its own limit: else a kill is not its own doing."""
        ...

    def cpu_seconds(self) -> float | None:
        """CPU time of all processes the group ever had; None if not measured."""
        ...

    def peak_memory_bytes(self) -> int | None:
        """The most memory the group had at once; None if not measured."""
        ...

    def close(self) -> None:
        """Remove the group. OSError if the kernel does not let go of it in time."""
        ...


class Hierarchy(Protocol):
    """Where groups are made on this machine."""

    @property
    def name(self) -> str:
        """Which kind of control groups these are, for receipts and diagnosis."""
        ...

    def create(self, name: str, limits: Limits) -> Group:
        """A new group with these limits. OSError if the kernel refuses."""
        ...

    def sweep(self) -> list[str]:
        """Kill and remove the groups of workers that are gone; returns their names."""
        ...

    def weaknesses(self) -> list[str]:
        """What is limited less than asked for, one sentence each."""
        ...


def join(folders: Sequence[Path], command: Sequence[str], *, file: str = "cgroup.procs") -> list[str]:
    """`command`, behind a shell that moves itself into the groups at `folders` first, by way of `file` in each."""
    steps = "".join(f'echo 0 > "${n}/{file}" || exit {MISSING_EXIT_CODE}; ' for n in range(1, len(folders) + 1))
    return ["/bin/sh", "-c", f'{steps}shift {len(folders)}; exec "$@"', "sh", *map(str, folders), *command]


def kill_all(processes: Callable[[], set[int]], *, within_seconds: float = 5.0) -> bool:
    """SIGKILL what `processes` lists until it lists nothing; False if that takes longer than `within_seconds`.

    Each process is held by a pidfd and looked up once more before it is killed, so that a recycled pid never hits
    a process of somebody else.
    """
    deadline = time.monotonic() + within_seconds
    while pids := processes():
        if time.monotonic() > deadline:
            return False
        held = {pid: fd for pid in pids if (fd := _hold(pid)) is not None}
        still_there = processes()
        for pid, fd in held.items():
            if pid in still_there:
                _kill(fd)
            os.close(fd)
        time.sleep(0.002)
    return True


def remove(group: Group) -> bool:
    """Kill what is left in a group and remove it; False if the kernel does not let go of it, which is logged."""
    try:
        if group.kill():
            group.close()
            return True
        what = "something in it does not die"
    except OSError as error:
        what = str(error)
    _logger.warning("a dead worker's control group stays behind: %s", what)
    return False


def remove_folder(folder: Path, *, within_seconds: float = 2.0) -> None:
    """Remove a group's folder; the kernel keeps it busy for a moment after its last process died.

    Raises OSError if it is still busy after `within_seconds`.
    """
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def pids_in(folder: Path) -> set[int]:
    """The processes in the group at `folder`; none if it is gone."""
    try:
        return {int(line) for line in (folder / "cgroup.procs").read_text().split()}
    except (FileNotFoundError, OSError) as error:
        if isinstance(error, FileNotFoundError) or error.errno == 19:  # ENODEV: removed while being read
            return set()
        raise


def counter(file: Path, name: str) -> int:
    """The number behind `name` in a file of `name number` lines; 0 if it has none."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def quota_microseconds(cpus: float) -> int:
    """CPU time per period that makes `cpus` cores."""
    return max(SMALLEST_QUOTA_MICROSECONDS, round(cpus * CPU_PERIOD_MICROSECONDS))


def _hold(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
