"""Control groups where nobody delegated any to us: a transient systemd scope for each run.

A scope vanishes with its last process, and with it the counters. So an idle `sleep` stays in it until they have been
read; should the worker die, it ends by itself soon after the run's time is up.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from millrace.limits import Limits
from stages.execute.sandbox.cgroup import OWN_PROCESSES
from stages.execute.sandbox.cgroup_v2 import GroupV2
from stages.execute.sandbox.owner import new_name

_ANCHOR_PROCESSES = 1
_NEEDED = {"memory", "pids", "cpu"}
_START = 'sleep "$1" </dev/null >/dev/null 2>&1 & shift; exec "$@"'
_ANCHOR_GRACE_SECONDS = 30
_LET_BE = "OOMPolicy=continue"
"""systemd 253 and later end a scope in which something was killed for want of memory, counters and all; earlier ones
do not, and do not know the property (systemd.scope(5))."""


class SystemdScopes:
    """Scopes of the machine's systemd for root, of the user's own for everybody else."""

    def __init__(self, root: Path, systemd_run: str, systemctl: str, runtime_folder: Path | None) -> None:
        """`root` is where cgroup v2 is mounted; `runtime_folder` the user's XDG_RUNTIME_DIR, None as root."""
        self.name = "systemd scope (cgroup v2)"
        self._root = root
        self._systemd_run = systemd_run
        self._systemctl = systemctl
        self._user = ["--user"] if runtime_folder else []
        self._environment = {"XDG_RUNTIME_DIR": str(runtime_folder)} if runtime_folder else {}
        self._let_be = [_LET_BE]

    def create(self, name: str, limits: Limits) -> ScopeGroup:
        """A scope that comes into being with the run."""
        properties = [
            f"MemoryMax={limits.memory_bytes}",
            "MemorySwapMax=0",
            f"TasksMax={limits.processes + OWN_PROCESSES + _ANCHOR_PROCESSES}",
            f"CPUQuota={max(1, round(limits.cpus * 100))}%",
            *self._let_be,
        ]
        environment = ["/usr/bin/env", "-i", *(f"{key}={value}" for key, value in self._environment.items())]
        scope = [self._systemd_run, *self._user, "--scope", "--quiet", "--collect", f"--unit={name}.scope"]
        start = [*environment, *scope, *(f"--property={value}" for value in properties), "--"]
        anchor_seconds = math.ceil(limits.wall_seconds) + _ANCHOR_GRACE_SECONDS
        return ScopeGroup(start, anchor_seconds, lambda: self._folder_of(f"{name}.scope"))

    def sweep(self) -> list[str]:
        """Nothing to do: systemd removes a scope with its last process."""
        return []

    def weaknesses(self) -> list[str]:
        """None of the limits: the kernel enforces them all."""
        return []

    def works(self) -> bool:
        """Whether a scope can really be had and the controllers we need are handed down to it."""
        if self._hands_down():
            return True
        self._let_be = []
        return self._hands_down()

    def _hands_down(self) -> bool:
        try:
            return self._controllers() >= _NEEDED
        except (OSError, subprocess.SubprocessError):
            return False

    def _controllers(self) -> set[str]:
        group = self.create(new_name(), Limits())
        try:
            command = group.wrap(["/bin/cat", "/proc/self/cgroup"])
            answer = subprocess.run(command, env={}, capture_output=True, text=True, timeout=10, check=True)
            folder = self._root / answer.stdout.strip().rpartition("::/")[2]
            return set((folder / "cgroup.controllers").read_text().split())
        finally:
            group.close()

    def _folder_of(self, unit: str) -> Path:
        answer = subprocess.run(
            [self._systemctl, *self._user, "show", "--value", "--property=ControlGroup", unit],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return self._root / answer.stdout.strip().lstrip("/") if answer.stdout.strip() else self._root / "gone"


class ScopeGroup:
    """One run's scope."""

    def __init__(self, start: Sequence[str], anchor_seconds: int, find_folder: Callable[[], Path]) -> None:
        """`start` is the command that opens the scope; `find_folder` finds its group once it is there."""
        self._start = start
        self._anchor_seconds = anchor_seconds
        self._find_folder = find_folder

    @cached_property
    def _group(self) -> GroupV2 | None:
        """The scope's group; None if it is gone in spite of the anchor."""
        folder = self._find_folder()
        return GroupV2(folder) if folder.is_dir() else None

    def wrap(self, command: Sequence[str]) -> list[str]:
        """`command`, in a scope of its own beside the anchor."""
        return [*self._start, "/bin/sh", "-c", _START, "sh", str(self._anchor_seconds), *command]

    def take(self, pid: int) -> None:
        """systemd has put it there."""

    def kill(self) -> bool:
        """Nothing but the anchor outlives the box's first process, which the supervisor has killed."""
        return True

    def oom_kills(self) -> int:
        """The kernel's own count; 1 if the scope is gone: ended from outside, mostly for want of memory."""
        return self._group.oom_kills() if self._group else 1

    def reached_memory_limit(self) -> bool:
        """Whether memory ran out at the scope's own limit.

        systemd lets a scope be whose own limit is reached (see `_LET_BE`): a scope that is gone was ended for the
        machine's sake, or by a person.
        """
        return self._group is not None and self._group.reached_memory_limit()

    def cpu_seconds(self) -> float | None:
        """CPU time of the whole scope."""
        return self._group.cpu_seconds() if self._group else None

    def peak_memory_bytes(self) -> int | None:
        """The high-water mark of the whole scope."""
        return self._group.peak_memory_bytes() if self._group else None

    def close(self) -> None:
        """End the anchor, and the scope with it; systemd removes the group."""
        if self._group:
            self._group.kill()


def systemd_scopes(root: Path) -> SystemdScopes | None:
    """The scopes systemd offers us; None where there is no systemd to ask, or it cannot limit what we need."""
    systemd_run, systemctl = (shutil.which(name, path="/usr/bin:/bin") for name in ("systemd-run", "systemctl"))
    if not (systemd_run and systemctl and Path("/run/systemd/system").exists()):
        return None
    runtime_folder = None
    if os.geteuid() != 0:
        runtime_folder = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
        if not runtime_folder.is_dir():
            return None
    scopes = SystemdScopes(root, systemd_run, systemctl, runtime_folder)
    return scopes if scopes.works() else None
