"""The jobs that a PoC validator pushed and that have no answer yet: on disk before anything is begun for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import Permanent
from protocols.ipfs.atomic import write_atomically
from protocols.validator.job import PocJob


class Received(BaseModel):
    """A job and when it came, in Unix seconds."""

    model_config = ConfigDict(frozen=True)

    job: PocJob
    received_at: float


class Inbox:
    """One file a job in `folder`; processes may share it."""

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

    def close(self, job_id: str) -> None:
        """It has an answer: nothing is left to do."""
        self._path(job_id).unlink(missing_ok=True)

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(job_id.encode()).hexdigest()}.json"


def _read(path: Path) -> Received | None:
    try:
        return Received.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None  # somebody answered it meanwhile
    except ValidationError:
        raise Permanent(
            f"{path} is damaged", hint="move it away: the validator does not get its answer, or sends the job again"
        ) from None
