"""The jobs that a PoC validator pushed and that have no answer yet: on disk before anything is begun for them."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from protocols.ipfs.atomic import write_atomically
from protocols.validator.job import PocJob

_logger = logging.getLogger(__name__)


class Received(BaseModel):
    """A job and when it came, in Unix seconds."""

    model_config = ConfigDict(frozen=True)

    job: PocJob
    received_at: float


class Inbox:
    """One file a job in `folder`, which is one validator's; processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, received: Received) -> None:
        """Have it on the disk from now on. OSError if the disk does not take it."""
        write_atomically(self._path(received.job.job_id), [received.model_dump_json(exclude={"job": {"key"}}).encode()])

    def find(self, job_id: str) -> PocJob | None:
        """The job with the validator's own id, unless it was answered or never came."""
        received = _read(self._path(job_id))
        return received.job if received is not None else None

    def open(self) -> list[Received]:
        """All of them, oldest first."""
        found = [_read(path) for path in self._folder.glob("*.json")]
        return sorted((each for each in found if each is not None), key=lambda each: each.received_at)

    def count(self) -> int:
        """How many there are."""
        return sum(1 for _ in self._folder.glob("*.json"))

    def close(self, job_id: str) -> None:
        """It has an answer: nothing is left to do."""
        self._path(job_id).unlink(missing_ok=True)
        self._lock(job_id).unlink(missing_ok=True)

    @contextmanager
    def at_work(self, job_id: str) -> Iterator[None]:
        """Somebody works on the job until the block or the process ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._lock(job_id).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            try:
                yield
            finally:
                if not self._path(job_id).exists():
                    self._lock(job_id).unlink(missing_ok=True)

    def is_worked_on(self, job_id: str) -> bool:
        """Whether some process is `at_work` on the job."""
        try:
            with self._lock(job_id).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(job_id.encode()).hexdigest()}.json"

    def _lock(self, job_id: str) -> Path:
        return self._path(job_id).with_suffix(".lock")


def _read(path: Path) -> Received | None:
    try:
        return Received.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None  # somebody answered it meanwhile
    except ValidationError:
        set_aside(path)
        return None


def set_aside(path: Path) -> None:
    """A damaged file does not stop the others, and a person can look at it."""
    aside = path.with_suffix(".damaged")
    _logger.error("%s is damaged; it is now %s, and the validator may have to send its job again", path, aside.name)
    try:
        os.replace(path, aside)  # noqa: PTH105  (the pair of unlink, which it races with)
    except FileNotFoundError:
        return
