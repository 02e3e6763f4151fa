"""Control groups for an ordinary user: a transient scope of the user's own systemd for each run.

A scope vanishes with its last process, and with it the counters. So an idle `cat` stays in it, reading a pipe whose
other end we hold, until the counters have been read.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from millrace.limits import Limits
from stages.execute.sandbox.cgroup import OWN_PROCESSES
from stages.execute.sandbox.cgroup_v2 import GroupV2

_ANCHOR_PROCESSES = 1
_NEEDED = {"memory", "pids", "cpu"}
_START = 'cat <&"$1" >/dev/null 2>&1 & eval "exec $1<&-"; shift; exec "$@"'


class UserScopes:
    """Scopes of the user's systemd, asked for with `systemd-run --user --scope`."""

    name = "systemd user scope (cgroup v2)"

    def __init__(self, root: Path, runtime_folder: Path, systemd_run: str, systemctl: str) -> None:
        """`root` is where cgroup v2 is mounted, `runtime_folder` the user's XDG_RUNTIME_DIR."""
        self._root = root
        self._runtime_folder = runtime_folder
        self._systemd_run = systemd_run
        self._systemctl = systemctl

    def create(self, name: str, limits: Limits) -> ScopeGroup:
        """A scope that comes into being with the run."""
        properties = [
            "Delegate=yes",
            f"MemoryMax={limits.memory_bytes}",
            "MemorySwapMax=0",
            f"TasksMax={limits.processes + OWN_PROCESSES + _ANCHOR_PROCESSES}",
            f"CPUQuota={limits.cpus * 100:.0f}%",
        ]
        unit = f"{name}.scope"
        arguments = [f"--unit={unit}", *(f"--property={value}" for value in properties)]
        start = [self._systemd_run, "--user", "--scope", "--quiet", "--collect", *arguments, "--"]
        environment = ["/usr/bin/env", "-i", f"XDG_RUNTIME_DIR={self._runtime_folder}"]
        return ScopeGroup([*environment, *start], lambda: self._folder_of(unit))

    def sweep(self) -> list[str]:
        """Nothing to do: systemd removes a scope with its last process."""
        return []

    def weaknesses(self) -> list[str]:
        """What root would have and an ordinary user has not."""
        return ["jobs run under your own user id: their processes count against your limits, as yours do"]

    def works(self) -> bool:
        """Whether a scope can really be had and the controllers we need are handed down to it."""
        try:
            group = self.create(f"millrace-probe-{os.getpid()}", Limits())
            try:
                answer = subprocess.run(
                    group.wrap(["/bin/cat", "/proc/self/cgroup"]),
                    pass_fds=group.pass_fds,
                    env={},
                    capture_output=True,
                    text=True,
                    timeout=10,
                    check=True,
                )
                folder = self._root / answer.stdout.strip().rpartition("::/")[2]
                return set((folder / "cgroup.controllers").read_text().split()) >= _NEEDED
            finally:
                group.close()
        except (OSError, subprocess.SubprocessError):
            return False

    def _folder_of(self, unit: str) -> Path:
        answer = subprocess.run(
            [self._systemctl, "--user", "show", "--value", "--property=ControlGroup", unit],
            env={"XDG_RUNTIME_DIR": str(self._runtime_folder)},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        path = answer.stdout.strip()
        if not path:
            raise FileNotFoundError(f"systemd knows no control group of {unit}")
        return self._root / path.lstrip("/")


class ScopeGroup:
    """One run's scope."""

    def __init__(self, start: list[str], folder: object) -> None:
        """`start` is the command that opens the scope, `folder` a function that finds its group once it is there."""
        self._start = start
        self._find_folder = folder
        self._anchor_end, self._our_end = os.pipe()
        self.pass_fds: Sequence[int] = (self._anchor_end,)

    @cached_property
    def _group(self) -> GroupV2:
        assert callable(self._find_folder)
        return GroupV2(self._find_folder())

    def wrap(self, command: Sequence[str]) -> list[str]:
        """`command`, in a scope of its own beside the anchor."""
        return [*self._start, "/bin/sh", "-c", _START, "sh", str(self._anchor_end), *command]

    def started(self) -> None:
        """Leave the anchor's end of the pipe to the anchor."""
        self._close_anchor_end()

    def kill(self) -> bool:
        """Nothing but the anchor is left once the box's first process is dead, which the supervisor sees to."""
        return True

    def oom_kills(self) -> int:
        """The kernel's own count."""
        return self._group.oom_kills()

    def cpu_seconds(self) -> float | None:
        """CPU time of the whole scope."""
        return self._group.cpu_seconds()

    def peak_memory_bytes(self) -> int | None:
        """The high-water mark of the whole scope."""
        return self._group.peak_memory_bytes()

    def close(self) -> None:
        """Let the anchor go, and the scope with it."""
        self._close_anchor_end()
        if self._our_end >= 0:
            os.close(self._our_end)
            self._our_end = -1

    def _close_anchor_end(self) -> None:
        if self._anchor_end >= 0:
            os.close(self._anchor_end)
            self._anchor_end = -1
            self.pass_fds = ()


def user_scopes(root: Path) -> UserScopes | None:
    """The scopes of this user's systemd; None where there is none to ask, or it cannot limit what we need."""
    systemd_run, systemctl = (shutil.which(name, path="/usr/bin:/bin") for name in ("systemd-run", "systemctl"))
    runtime_folder = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    if not (systemd_run and systemctl and Path("/run/systemd/system").exists() and runtime_folder.is_dir()):
        return None
    scopes = UserScopes(root, runtime_folder, systemd_run, systemctl)
    return scopes if scopes.works() else None
