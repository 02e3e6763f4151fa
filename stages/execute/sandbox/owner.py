"""Names that tell which process something belongs to, so that only what the dead left behind is swept."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

_counter = itertools.count(1)
_NAME = re.compile(r"^millrace-(\d+)-(\d+)-\d+$")
_STATE, _START_TIME = 0, 19  # fields of /proc/<pid>/stat behind the program's name, see proc(5)


def new_name() -> str:
    """A name for something of this process: `millrace-<pid>-<start time>-<count>`, never used before."""
    pid = os.getpid()
    return f"millrace-{pid}-{_start_time(pid)}-{next(_counter)}"


def is_orphan(name: str) -> bool:
    """Whether `name` is one of ours and the process it names is gone; a recycled pid has another start time."""
    match = _NAME.match(name)
    return match is not None and _start_time(int(match[1])) != int(match[2])


def _start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it does not live any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[_STATE] in "ZX" else int(fields[_START_TIME])
