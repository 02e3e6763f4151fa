"""Control groups of the first version: one hierarchy a controller, made at each one's root by root."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from millrace.limits import Limits
from stages.execute.sandbox.cgroup import (
    CPU_PERIOD_MICROSECONDS,
    OWN_PROCESSES,
    counter,
    join,
    kill_all,
    pids_in,
    quota_microseconds,
    remove,
    remove_folder,
)
from stages.execute.sandbox.owner import is_orphan, is_own

_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_CHARGE_BYTES = 64 * 4096
"""What the kernel takes from a limit at a time (MEMCG_CHARGE_BATCH): so close to it, the next page may be refused."""


@dataclass(frozen=True)
class HierarchiesV1:
    """The four hierarchies below `root`, usually /sys/fs/cgroup."""

    root: Path

    @property
    def name(self) -> str:
        """As receipts show it."""
        return "cgroup v1"

    @property
    def usable(self) -> bool:
        """Whether all four are mounted and we may make groups in them."""
        return all(os.access(self.root / name / "cgroup.procs", os.W_OK) for name in _CONTROLLERS)

    def create(self, name: str, limits: Limits) -> GroupV1:
        """A new group in every hierarchy. OSError if the kernel refuses; what was made until then is removed."""
        group = self._group(name)
        try:
            for folder in group.unique_folders:
                folder.mkdir()
            group.limit(limits)
        except OSError:
            group.close()
            raise
        return group

    def sweep(self) -> list[str]:
        """Kill and remove the groups of this user's workers that are gone; returns their names."""
        found = [folder for name in _CONTROLLERS for folder in (self.root / name).glob("millrace-*")]
        orphans = sorted({folder.name for folder in found if is_orphan(folder.name) and is_own(folder)})
        return [name for name in orphans if remove(self._group(name))]

    def weaknesses(self) -> list[str]:
        """Swap, where the kernel does not count it."""
        if (self.root / "memory" / "memory.memsw.limit_in_bytes").exists() or not _has_swap():
            return []
        return ["the kernel does not count swap (swapaccount=0): a job may use swap beyond its memory limit"]

    def _group(self, name: str) -> GroupV1:
        return GroupV1({controller: self.root / controller / name for controller in _CONTROLLERS})


@dataclass(frozen=True)
class GroupV1:
    """One run's groups, a folder a controller."""

    folders: dict[str, Path]

    @property
    def unique_folders(self) -> list[Path]:
        """The folders without those that are the same one: cpu and cpuacct are often mounted together."""
        return list({folder.parent.resolve(): folder for folder in self.folders.values()}.values())

    def limit(self, limits: Limits) -> None:
        """Write the limits. OSError if the kernel refuses one."""
        memory, pids, cpu = self.folders["memory"], self.folders["pids"], self.folders["cpu"]
        (memory / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
        if (with_swap := memory / "memory.memsw.limit_in_bytes").exists():
            with_swap.write_text(str(limits.memory_bytes))
        (pids / "pids.max").write_text(str(limits.processes + OWN_PROCESSES))
        (cpu / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_MICROSECONDS))
        (cpu / "cpu.cfs_quota_us").write_text(str(quota_microseconds(limits.cpus)))

    def wrap(self, command: Sequence[str]) -> list[str]:
        """`command`, joining every group first.

        By `tasks`, which moves the one thread that the shell has: for a thread that moves itself the kernel takes no
        lock, while for `cgroup.procs` it waits some 10 ms until no process of the machine is forking.
        """
        return join(self.unique_folders, command, file="tasks")

    def take(self, pid: int) -> None:
        """It has joined by itself."""

    def kill(self) -> bool:
        """SIGKILL everything in any of the groups."""
        return kill_all(lambda: set().union(*(pids_in(folder) for folder in self.unique_folders)))

    def oom_kills(self) -> int:
        """The kernel's own count."""
        return counter(self.folders["memory"] / "memory.oom_control", "oom_kill")

    def reached_memory_limit(self) -> bool:
        """Whether memory ever stood at one of this group's own limits.

        Read from the high-water marks: recent kernels (seen on 6.18) leave `failcnt` at 0.
        """
        memory = self.folders["memory"]
        kinds = [kind for kind in ("memory", "memory.memsw") if (memory / f"{kind}.limit_in_bytes").exists()]
        return any(
            int((memory / f"{kind}.max_usage_in_bytes").read_text()) + _CHARGE_BYTES
            > int((memory / f"{kind}.limit_in_bytes").read_text())
            for kind in kinds
        )

    def cpu_seconds(self) -> float | None:
        """CPU time, counted in nanoseconds."""
        return int((self.folders["cpuacct"] / "cpuacct.usage").read_text()) / 1e9

    def peak_memory_bytes(self) -> int | None:
        """The high-water mark, page cache and tmpfs included."""
        return int((self.folders["memory"] / "memory.max_usage_in_bytes").read_text())

    def close(self) -> None:
        """Remove the groups."""
        for folder in self.unique_folders:
            remove_folder(folder)


def _has_swap() -> bool:
    return len(Path("/proc/swaps").read_text().splitlines()) > 1
