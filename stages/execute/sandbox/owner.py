"""Names that tell which process something belongs to, so that only what the dead left behind is swept."""

from __future__ import annotations

import itertools
import os
import re
from functools import cache
from pathlib import Path

_counter = itertools.count(1)
_NAME = re.compile(r"^millrace-(\d+)-(\d+)-\d+(?:-(\d+))?$")
_STATE, _START_TIME = 0, 19  # fields of /proc/<pid>/stat behind the program's name, see proc(5)


def new_name() -> str:
    """A name for something of this process, never used before.

    It is `millrace-<pid>-<start time>-<count>-<pid namespace>`.
    """
    pid = os.getpid()
    return f"millrace-{pid}-{_start_time(pid)}-{next(_counter)}-{pid_namespace()}"


def is_orphan(name: str) -> bool:
    """Whether `name` is one of ours and the process it names is gone; a recycled pid has another start time.

    A name from another pid namespace (a worker in a container that shares this machine's control groups) is never an
    orphan: its pid means nothing here.
    """
    match = _NAME.match(name)
    if match is None or (match[3] is not None and int(match[3]) != pid_namespace()):
        return False
    return _start_time(int(match[1])) != int(match[2])


def is_own(path: Path) -> bool:
    """Whether the file or folder belongs to the user we run as; False if it is gone."""
    try:
        return path.lstat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False


@cache
def pid_namespace() -> int:
    """The inode number of this process's pid namespace; 0 where the kernel does not tell."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it does not live any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[_STATE] in "ZX" else int(fields[_START_TIME])
