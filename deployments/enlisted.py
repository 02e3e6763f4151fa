"""Which workers live on this machine, and what they found when they started.

A worker's file is locked by its process until that ends, however it ends: a lock answers whether it lives.

state/workers/<pool>-<host>-<pid>.json
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.finding import Level

_ours: list[int] = []
"""Descriptors that are kept open until this process ends, also through an exec."""


class Checked(BaseModel):
    """One thing that a worker tried out before it began to serve; `at` in Unix seconds."""

    model_config = ConfigDict(frozen=True)

    name: str
    level: Level
    text: str
    at: float


class Enlisted(BaseModel):
    """What a worker says of itself."""

    model_config = ConfigDict(frozen=True)

    pool: str
    kind: str
    pid: int
    began_at: float
    checks: tuple[Checked, ...] = ()


@dataclass(frozen=True)
class LivingWorker:
    """A worker whose process lives; `looked_at` is when it last heard from the Prefect server, in Unix seconds."""

    told: Enlisted
    looked_at: float


class Workers:
    """The workers that share the data folder `data_dir`."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "state" / "workers"

    def enlist(self, pool: str, kind: str, checks: tuple[Checked, ...]) -> None:
        """Note that this process is a worker, from now until it ends; files of those that ended are removed.

        It may become another program by exec, and stays enlisted.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._forget_dead()
        told = Enlisted(pool=pool, kind=kind, pid=os.getpid(), began_at=time.time(), checks=checks)
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".writing-")
        os.write(descriptor, told.model_dump_json().encode())
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.set_inheritable(descriptor, True)
        Path(temporary).replace(self._path(pool))
        _ours.append(descriptor)

    def looked(self, pool: str) -> None:
        """This worker has heard from the Prefect server; nothing happens if it is not enlisted."""
        with suppress(OSError):
            os.utime(self._path(pool))

    def living(self) -> list[LivingWorker]:
        """Those whose process lives, by pool."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            with suppress(OSError, ValidationError), _opened(path) as (descriptor, dead):
                if not dead:
                    told = Enlisted.model_validate_json(path.read_bytes())
                    found.append(LivingWorker(told, os.fstat(descriptor).st_mtime))
        return found

    def _forget_dead(self) -> None:
        for path in self._folder.glob("*.json"):
            with suppress(OSError), _opened(path) as (_, dead):
                if dead:
                    path.unlink(missing_ok=True)

    def _path(self, pool: str) -> Path:
        return self._folder / f"{quote(pool, safe='')}-{socket.gethostname()}-{os.getpid()}.json"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, bool]]:
    """The file, and whether its worker has ended."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            dead = True
        except BlockingIOError:
            dead = False
        yield descriptor, dead
    finally:
        os.close(descriptor)
