"""What must not be there when everything has ended: processes, locks that are held, temporary files."""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

_KEPT = {"database.lock"}
"""Locks of whoever keeps the database, who is not one of the workers."""

_TEMPORARY = ("*.tmp", "*.partial", ".writing-*", "tmp/*")


def leftovers(data_dir: Path, but: Collection[int] = ()) -> list[str]:
    """Everything of that data folder's workers that nobody needs any more; processes in `but` are left out."""
    return [
        *(f"process {each.pid}: {_line(each)}" for each in processes_of(data_dir) if each.pid not in but),
        *(f"lock held: {path}" for path in _held(data_dir)),
        *(f"lease: {path.name}" for path in (data_dir / "leases").glob("*.lease")),
        *(f"temporary: {path}" for pattern in _TEMPORARY for path in data_dir.rglob(pattern)),
    ]


def processes_of(data_dir: Path) -> Iterator[psutil.Process]:
    """The processes that were started with that data folder, or work on what is in it."""
    for process in psutil.process_iter():
        try:
            named = process.environ().get("MILLRACE_DATA_DIR", "") == str(data_dir)
            if (named or str(data_dir) in _line(process)) and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue  # it has ended meanwhile, or is the kernel's


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:160]
    except psutil.Error:
        return ""


def _held(data_dir: Path) -> Iterator[Path]:
    for path in (*data_dir.rglob("*.lock"), *(data_dir / "leases").glob("*")):
        if path.name in _KEPT:
            continue
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield path
