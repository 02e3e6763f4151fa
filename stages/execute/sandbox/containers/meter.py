"""What a container used: counted by a control group around the one that Docker makes, and ends, for it.

Docker forgets what a container used the moment it ends. A group of ours around its own outlives it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/sys/fs/cgroup")

_COUNTED = ("memory", "cpuacct")
_FOLDER = "millrace"


@dataclass(frozen=True)
class Meter:
    """The groups of version 1 around the containers of one user id, one container at a time, in `root`.

    They stay, empty, as do those that Docker makes for its other controllers: as many as there are slots.
    """

    root: Path
    uid: int

    @property
    def parent(self) -> str:
        """As Docker is told it."""
        return f"/{_FOLDER}/{self.uid}"

    def reset(self) -> bool:
        """Begin to count at zero. False if something of another worker's still runs in there, which would count too."""
        try:
            for folder in map(self._group, _COUNTED):
                # A daemon that was killed leaves its containers' own groups in there, empty.
                for inner, _, _ in os.walk(folder, topdown=False):
                    Path(inner).rmdir()
                folder.mkdir(parents=True)
        except OSError:
            return False
        return True

    def cpu_seconds(self) -> float | None:
        """CPU time of all that ran inside, the container's own first process included; None if nothing did."""
        nanoseconds = int((self._group("cpuacct") / "cpuacct.usage").read_text())
        return nanoseconds / 1e9 if nanoseconds else None

    def peak_memory_bytes(self) -> int | None:
        """The most memory it had at once; None if it had none: then Docker's groups are not where ours are."""
        return int((self._group("memory") / "memory.max_usage_in_bytes").read_text()) or None

    def _group(self, controller: str) -> Path:
        return self.root / controller / self.parent.lstrip("/")


def meters_for(told: dict[str, Any], root: Path = ROOT) -> Path | None:
    """Where the groups around containers can be made, by what the daemon `told` of itself; None if they cannot.

    That is where Docker makes its own groups (systemd does not), of version 1, and where we see them from their root:
    in a container with groups of its own we would make ours in another place.
    """
    if (told.get("CgroupDriver"), str(told.get("CgroupVersion", "1"))) != ("cgroupfs", "1"):
        return None
    tops = [root / controller for controller in _COUNTED]
    # Only the very first group of a tree has this file.
    ours = all((top / "release_agent").exists() and os.access(top, os.W_OK) for top in tops)
    return root if ours and _counts_what_is_inside(root / "memory") else None


def _counts_what_is_inside(memory: Path) -> bool:
    """Whether a group counts the memory of those inside it, as it always does since Linux 5.11."""
    choice = memory / "memory.use_hierarchy"
    return not choice.exists() or choice.read_text().strip() == "1"
