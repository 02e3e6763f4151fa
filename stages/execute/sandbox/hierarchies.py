"""Which control groups this machine lets us use."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from stages.execute.sandbox.cgroup import Hierarchy
from stages.execute.sandbox.cgroup_scope import systemd_scopes
from stages.execute.sandbox.cgroup_v1 import HierarchiesV1
from stages.execute.sandbox.cgroup_v2 import delegated_hierarchy

ROOT = Path("/sys/fs/cgroup")


@cache
def find_hierarchy() -> Hierarchy | None:
    """The best control groups to be had: version 2 delegated to us, else version 1, else systemd scopes, else None."""
    if (ROOT / "cgroup.controllers").exists():
        return delegated_hierarchy(ROOT, ROOT / own_group().lstrip("/")) or systemd_scopes(ROOT)
    version_1 = HierarchiesV1(ROOT)
    return version_1 if version_1.usable else None


def own_group(listing: str | None = None) -> str:
    """This process's group in the version-2 tree, e.g. /system.slice/millrace.service; "/" if it is in none."""
    text = Path("/proc/self/cgroup").read_text() if listing is None else listing
    return next((line[3:] for line in text.splitlines() if line.startswith("0::")), "/")
