"""What an engine has used so far, as the kernel tells: for runs that are killed and cannot say so themselves."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_UTIME, _STIME = 11, 12  # fields of /proc/<pid>/stat behind the program's name, see proc(5)


@dataclass(frozen=True)
class Used:
    """CPU time in seconds and the most memory in bytes; None where the process was gone already."""

    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None


def used_by(pid: int) -> Used:
    """What the process with that number has used until now; it must be a child that was not waited for."""
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        status = (folder / "status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return Used()
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    peak = next((int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM")), None)
    return Used(ticks / os.sysconf("SC_CLK_TCK"), peak)
