"""A tree of control groups, version 2, with the kernel's rules and without its powers: for machines without one.

The rules are those of cgroup-v2.rst: files exist only where a controller has been handed down, a group that hands
controllers down holds no processes itself, values out of range are refused, a group with processes or children cannot
be removed. Nothing is limited. `cgroup.kill` does kill, by signal.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import PosixPath

PAGE_BYTES = 4096
ALL = "cpuset cpu io memory hugetlb pids rdma misc"

_CORE = {"cgroup.procs": "", "cgroup.subtree_control": "", "cgroup.kill": "", "cgroup.type": "domain\n"}
_FILES = {
    "memory": {
        "memory.max": "max\n",
        "memory.swap.max": "max\n",
        "memory.oom.group": "0\n",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
        "memory.peak": "0\n",
    },
    "pids": {"pids.max": "max\n"},
    "cpu": {"cpu.max": "max 100000\n"},
}


class CgroupPath(PosixPath):
    """A path in such a tree; only what is done through it follows the rules."""

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if exist_ok and self.is_dir():
            return
        super().mkdir(mode, parents, exist_ok)
        _fill(self, (self.parent / "cgroup.subtree_control").read_text())

    def write_text(self, data: str, *args: object, **kwargs: object) -> int:  # type: ignore[override]
        if not self.exists():
            raise PermissionError(errno.EACCES, "the kernel makes these files, nobody else", str(self))
        stored = _RULES.get(self.name, _as_it_is)(self.parent, data.strip())
        return super().write_text(stored)

    def rmdir(self) -> None:
        if (self / "cgroup.procs").read_text().split() or any(child.is_dir() for child in self.iterdir()):
            raise OSError(errno.EBUSY, "processes or groups are left in it", str(self))
        shutil.rmtree(self)


def mount(folder: os.PathLike[str], controllers: str = ALL) -> CgroupPath:
    """The root of a new tree at `folder`, which must not exist."""
    root = CgroupPath(folder)
    os.mkdir(root)  # noqa: PTH102 - the root has no parent to take controllers from
    _fill(root, controllers)
    return root


def service(root: CgroupPath, name: str, *pids: int, controllers: str = ALL) -> CgroupPath:
    """A group as systemd makes one for a service with `Delegate=yes`, with the service's processes in it."""
    _put(root / "cgroup.subtree_control", controllers)
    group = root / name
    group.mkdir()
    _put(group / "cgroup.procs", "".join(f"{pid}\n" for pid in pids))
    return group


def _fill(group: CgroupPath, controllers: str) -> None:
    _put(group / "cgroup.controllers", controllers)
    for name, content in _CORE.items():
        _put(group / name, content)
    _put(group / "cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0\n")
    _add_files(group, controllers.split())


def _add_files(group: CgroupPath, controllers: list[str]) -> None:
    for controller in controllers:
        for name, content in _FILES.get(controller, {}).items():
            if not (group / name).exists():
                _put(group / name, content)


def _put(file: CgroupPath, content: str) -> None:
    PosixPath(file).write_text(content)


def _pids(group: CgroupPath) -> list[str]:
    return (group / "cgroup.procs").read_text().split()


def _is_root(group: CgroupPath) -> bool:
    return not (group.parent / "cgroup.procs").exists()


def _refuse(number: int, why: str) -> OSError:
    return OSError(number, why)


def _as_it_is(group: CgroupPath, text: str) -> str:
    return text


def _subtree_control(group: CgroupPath, text: str) -> str:
    """ "No Internal Process Constraint": only the root may hold processes and hand controllers down."""
    if _pids(group) and not _is_root(group):
        raise _refuse(errno.EBUSY, "the group holds processes")
    handed = (group / "cgroup.subtree_control").read_text().split()
    for word in text.split():
        if word[0] != "+" or word[1:] not in (group / "cgroup.controllers").read_text().split():
            raise _refuse(errno.ENOENT, f"{word} is not available here")
        handed = [*handed, *([] if word[1:] in handed else [word[1:]])]
    for child in group.iterdir():
        if child.is_dir():
            _put(child / "cgroup.controllers", " ".join(handed))
            _add_files(child, handed)
    return " ".join(handed)


def _procs(group: CgroupPath, text: str) -> str:
    if (group / "cgroup.subtree_control").read_text().split() and not _is_root(group):
        raise _refuse(errno.EBUSY, "the group hands controllers down")
    root = next(folder for folder in (group, *group.parents) if _is_root(folder))  # type: ignore[arg-type]
    for file in root.rglob("cgroup.procs"):
        kept = [pid for pid in file.read_text().split() if pid != text]
        PosixPath(file).write_text("".join(f"{pid}\n" for pid in kept))
    return "".join(f"{pid}\n" for pid in [*_pids(group), text])


def _kill(group: CgroupPath, text: str) -> str:
    if text != "1":
        raise _refuse(errno.EINVAL, "only 1 can be written")
    for file in group.rglob("cgroup.procs"):
        for pid in file.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        PosixPath(file).write_text("")
    return ""


def _bytes(group: CgroupPath, text: str) -> str:
    return f"{_number(text, 0, 2**63 - 1) // PAGE_BYTES * PAGE_BYTES}\n"


def _oom_group(group: CgroupPath, text: str) -> str:
    return f"{_number(text, 0, 1)}\n"


def _pids_max(group: CgroupPath, text: str) -> str:
    return f"{_number(text, 0, 4_194_304)}\n"


def _cpu_max(group: CgroupPath, text: str) -> str:
    quota, period = text.split()
    return f"{_number(quota, 1_000, 2**44)} {_number(period, 1_000, 1_000_000)}\n"


def _number(text: str, least: int, most: int) -> int:
    if not text.isdigit() or not least <= int(text) <= most:
        raise _refuse(errno.EINVAL, f"{text} is not between {least} and {most}")
    return int(text)


_RULES: dict[str, Callable[[CgroupPath, str], str]] = {
    "cgroup.subtree_control": _subtree_control,
    "cgroup.procs": _procs,
    "cgroup.kill": _kill,
    "memory.max": _bytes,
    "memory.swap.max": _bytes,
    "memory.oom.group": _oom_group,
    "pids.max": _pids_max,
    "cpu.max": _cpu_max,
}
