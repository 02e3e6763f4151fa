"""The answers that a PoC validator is to get: on disk until it has them, and a while longer, to be given again."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from millrace.network import Result
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from protocols.validator.job import PocJob
from protocols.validator.messages import BUSY, JobRefused, JobResult
from stages.discover.validator import Inbox

_MOST_TOLD = 10_000
"""How many delivered answers are kept, the newest."""


class Answer(BaseModel):
    """A message for the validator, as it is sent."""

    model_config = ConfigDict(frozen=True)

    message: JobResult | JobRefused
    made_at: float

    @property
    def job_id(self) -> str:
        """Whose answer it is."""
        return self.message.job_id

    @property
    def passing(self) -> bool:
        """Whether the same job may get another answer if it is offered again."""
        return isinstance(self.message, JobRefused) and self.message.reason == BUSY


class Answers:
    """One file a job in `folder`, under `waiting` until it was delivered and under `told` from then on.

    A job gets one answer: whoever comes second changes nothing. Processes may share the folder.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._waiting, self._told = folder / "waiting", folder / "told"
        self._clock = clock

    def put(self, message: JobResult | JobRefused) -> None:
        """Have the answer on the disk from now on, unless the job has one."""
        if self.find(message.job_id) is not None:
            return
        self._waiting.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self._waiting, prefix=".writing-")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(Answer(message=message, made_at=self._clock()).model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename this fails if somebody else's answer is there by now.
            os.link(temporary, self._waiting / _name(message.job_id))
        except FileExistsError:
            return
        finally:
            Path(temporary).unlink(missing_ok=True)

    def find(self, job_id: str) -> Answer | None:
        """The job's answer, delivered or not; None if it has none, or had one too long ago."""
        return _read(self._waiting / _name(job_id)) or _read(self._told / _name(job_id))

    def waiting(self) -> list[Answer]:
        """What the validator has yet to be told, oldest first."""
        found = [_read(path) for path in self._waiting.glob("*.json")]
        return sorted((answer for answer in found if answer is not None), key=lambda answer: answer.made_at)

    def delivered(self, answer: Answer) -> None:
        """The validator has it, or will never take it."""
        self._move(answer.job_id, self._waiting, self._told)
        told = sorted(self._told.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in told[:-_MOST_TOLD]:
            path.unlink(missing_ok=True)

    def again(self, answer: Answer) -> None:
        """The validator asks once more: deliver the same answer again."""
        self._move(answer.job_id, self._told, self._waiting)

    def forget(self, answer: Answer) -> None:
        """The job is to get another answer."""
        for folder in (self._waiting, self._told):
            (folder / _name(answer.job_id)).unlink(missing_ok=True)

    def _move(self, job_id: str, source: Path, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        try:
            (source / _name(job_id)).replace(target / _name(job_id))
        except FileNotFoundError:
            return  # it is there already


def answer_job(
    job: PocJob,
    result: Result,
    draft: Receipt,
    *,
    inbox: Inbox,
    answers: Answers,
    receipts: ReceiptLog,
    clock: Callable[[], float],
) -> Receipt:
    """Leave the answer for the validator and append the job's receipt; returns it, or the one the job has already."""
    answers.put(
        JobResult(
            job_id=job.job_id,
            worker_address=job.worker_address,
            result_hash=result.result_hash,
            proof=result.proof or None,
        )
    )
    receipt = draft.model_copy(
        update={"outcome": JobOutcome.answered, "settled_at": datetime.fromtimestamp(clock(), UTC)}
    )
    receipts.append(receipt)
    inbox.close(job.job_id)
    return receipts.find(job.key) or receipt


def _name(job_id: str) -> str:
    return f"{hashlib.sha256(job_id.encode()).hexdigest()}.json"


def _read(path: Path) -> Answer | None:
    try:
        return Answer.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
