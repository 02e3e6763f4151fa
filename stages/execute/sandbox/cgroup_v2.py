"""Control groups of the second version: one tree, of which a part has been delegated to us.

A service with `Delegate=yes` gets its own subtree. The kernel allows limits only on groups whose parent holds no
processes itself, so the worker's processes move into a leaf first (cgroup-v2.rst, "No Internal Process Constraint").
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from millrace.limits import Limits
from stages.execute.sandbox.cgroup import (
    CPU_PERIOD_MICROSECONDS,
    OWN_PROCESSES,
    counter,
    kill_all,
    pids_in,
    quota_microseconds,
    remove,
    remove_folder,
)
from stages.execute.sandbox.owner import is_orphan, is_own

LEAF = "millrace-worker"
"""The group that the worker's own processes move to."""

_CONTROLLERS = ("memory", "pids", "cpu")
_DELEGATED = ("user.delegate", "trusted.delegate")


@dataclass(frozen=True)
class HierarchyV2:
    """The delegated subtree at `base`."""

    base: Path

    @property
    def name(self) -> str:
        """As receipts show it."""
        return "cgroup v2"

    def create(self, name: str, limits: Limits) -> GroupV2:
        """A new group. OSError if the kernel refuses; it is removed again then."""
        group = GroupV2(self.base / name)
        group.folder.mkdir()
        try:
            group.limit(limits)
        except OSError:
            group.close()
            raise
        return group

    def sweep(self) -> list[str]:
        """Kill and remove the groups of this user's workers that are gone; returns their names."""
        found = sorted(self.base.glob("millrace-*"))
        orphans = [folder for folder in found if is_orphan(folder.name) and is_own(folder)]
        return [folder.name for folder in orphans if remove(GroupV2(folder))]

    def weaknesses(self) -> list[str]:
        """None: every limit is the kernel's."""
        return []


@dataclass(frozen=True)
class GroupV2:
    """One run's group."""

    folder: Path

    def limit(self, limits: Limits) -> None:
        """Write the limits. OSError if the kernel refuses one."""
        (self.folder / "memory.max").write_text(str(limits.memory_bytes))
        if (swap := self.folder / "memory.swap.max").exists():
            swap.write_text("0")
        (self.folder / "memory.oom.group").write_text("1")
        (self.folder / "pids.max").write_text(str(limits.processes + OWN_PROCESSES))
        (self.folder / "cpu.max").write_text(f"{quota_microseconds(limits.cpus)} {CPU_PERIOD_MICROSECONDS}")

    def wrap(self, command: Sequence[str]) -> list[str]:
        """`command` as it is: see `take`."""
        return list(command)

    def take(self, pid: int) -> None:
        """Move it from outside, while it is on its way through its first steps.

        Here the kernel waits some 10 ms until no process of the machine is forking, whoever is moved (a thread that
        moves itself it spares in version 1 only). Joining by itself, the box would wait out all of it.
        """
        with suppress(ProcessLookupError):  # it has ended, and will say why
            (self.folder / "cgroup.procs").write_text(str(pid))

    def kill(self) -> bool:
        """Kill the whole group at once; one by one where the kernel (before 5.14) has no `cgroup.kill`."""
        if (switch := self.folder / "cgroup.kill").exists():
            switch.write_text("1")
        return kill_all(lambda: pids_in(self.folder))

    def oom_kills(self) -> int:
        """The kernel's own count."""
        return counter(self.folder / "memory.events", "oom_kill")

    def reached_memory_limit(self) -> bool:
        """Whether memory ran out at this group's own limit: `oom` counts there, `oom_kill` where the victim was."""
        return counter(self.folder / "memory.events", "oom") > 0

    def cpu_seconds(self) -> float | None:
        """CPU time, counted in microseconds."""
        return counter(self.folder / "cpu.stat", "usage_usec") / 1e6

    def peak_memory_bytes(self) -> int | None:
        """The high-water mark; None before Linux 5.19, which has none."""
        peak = self.folder / "memory.peak"
        return int(peak.read_text()) if peak.exists() else None

    def close(self) -> None:
        """Remove the group."""
        remove_folder(self.folder)


def delegated_hierarchy(root: Path, own: Path) -> HierarchyV2 | None:
    """The subtree that we may divide, ready for groups; None if nobody gave us one.

    `root` is where cgroup v2 is mounted, `own` the group of this process.
    """
    if own.name == LEAF:
        base = own.parent
    elif own == root or _is_delegated(own):
        base = own
    else:
        return None
    available = (base / "cgroup.controllers").read_text().split()
    if not set(_CONTROLLERS) <= set(available) or not os.access(base / "cgroup.subtree_control", os.W_OK):
        return None
    try:
        if base == own:
            _move_down(base)
        (base / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in _CONTROLLERS))
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTSUP):
            return None
        raise
    return HierarchyV2(base)


def _is_delegated(group: Path) -> bool:
    """Whether the service starter gave us this group's subtree; systemd says so in an attribute.

    Where no systemd runs (a container with a tree of its own), a group we may write is ours.
    """
    if not Path("/run/systemd/system").exists():
        return True
    for name in _DELEGATED:
        try:
            if os.getxattr(group, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _move_down(base: Path) -> None:
    """Move the processes of `base`, which are all the worker's, into the leaf."""
    if base == Path("/sys/fs/cgroup") and not _in_container(base):
        return  # the machine's root group: exempt from the rule, and full of others' processes
    leaf = base / LEAF
    leaf.mkdir(exist_ok=True)
    for pid in pids_in(base):
        try:
            (leaf / "cgroup.procs").write_text(str(pid))
        except ProcessLookupError:
            continue


def _in_container(base: Path) -> bool:
    """The machine's root group is the only one without a `cgroup.type`."""
    return (base / "cgroup.type").exists()
