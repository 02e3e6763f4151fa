"""The temporary files of workers: a folder for each, removed by the next worker once nobody can need it.

tmp/w-<random>/         what its flow runs work in, and what its fork server listens at
tmp/w-<random>.lock     locked as long as the worker lives

A worker that is killed leaves its folder behind. Its flow runs may outlive it, so the folder stays as long as any
process works in it. Names are short: the path of a socket, which is somewhere below, must be.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import psutil

_ours: list[int] = []
"""Descriptors that are kept open until this process ends, also through an exec."""


def folder_of_worker(data_dir: Path) -> Path:
    """A new folder for this process, for nobody else to read."""
    everybodys = data_dir / "tmp"
    everybodys.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, lock = tempfile.mkstemp(dir=everybodys, prefix="w-", suffix=".lock")
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.set_inheritable(descriptor, True)
    _ours.append(descriptor)
    folder = Path(lock).with_suffix("")
    folder.mkdir(mode=0o700)
    return folder


def sweep_temporary(data_dir: Path) -> list[str]:
    """Remove the folders of workers that are gone, and in which no process works any more; returns their names."""
    left = [lock for lock in (data_dir / "tmp").glob("w-*.lock") if _is_free(lock)]
    used = _used() if left else set()
    swept = []
    for lock in left:
        folder = lock.with_suffix("")
        if str(folder) not in used:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)
            swept.append(folder.name)
    return sorted(swept)


def _is_free(lock: Path) -> bool:
    """Whether the worker is gone. One that begins just now has its folder only once it has the lock."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return lock.with_suffix("").exists()
    except (FileNotFoundError, BlockingIOError):
        return False


def _used() -> set[str]:
    """The folders that some process of this machine works in or was told to put its temporary files in, and all above.

    Processes of other users are not asked: they have no business there.
    """
    found: set[str] = set()
    for process in psutil.process_iter():
        try:
            places = [process.cwd(), process.environ().get("TMPDIR", "")]
        except (psutil.Error, OSError):
            continue
        for place in filter(None, places):
            path = Path(place)
            found |= {str(path), *map(str, path.parents)}
    return found
