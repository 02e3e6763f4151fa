"""The answers that a PoC validator is to get: on disk until it has them, and a while longer, to be given again."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import Declined, DeclineReason
from millrace.network import Result
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from protocols.ipfs.atomic import write_atomically
from protocols.validator.job import PocJob
from protocols.validator.messages import JobRefused, JobResult
from stages.discover.validator import Inbox, set_aside

_MOST_TOLD = 10_000
"""How many delivered answers are kept, the newest."""

_PRUNE_EVERY = 100


class Answer(BaseModel):
    """A message for the validator, as it is sent, and which payload it is the answer to."""

    model_config = ConfigDict(frozen=True)

    message: JobResult | JobRefused
    payload_sha256: str
    made_at: float

    @property
    def job_id(self) -> str:
        """Whose answer it is."""
        return self.message.job_id


class Answers:
    """One file a job in `folder`, under `waiting` until it was delivered and under `told` from then on.

    The folder is one validator's. A job gets one answer: whoever comes second changes nothing. Processes may share the
    folder: each change is made alone.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._waiting, self._told = folder / "waiting", folder / "told"
        self._clock = clock
        self._delivered = 0

    def put(self, message: JobResult | JobRefused, payload: Mapping[str, Any]) -> Answer:
        """Have the answer on the disk from now on; returns it, or the one that the job has already."""
        with self._alone():
            if (standing := self._find(message.job_id)) is not None:
                return standing
            answer = Answer(message=message, payload_sha256=digest_of(payload), made_at=self._clock())
            write_atomically(self._waiting / _name(message.job_id), [answer.model_dump_json().encode()])
            return answer

    def find(self, job_id: str) -> Answer | None:
        """The job's answer, delivered or not; None if it has none, or had one too long ago."""
        with self._alone():  # else it might be moved from where it is looked for second to where it was not yet
            return self._find(job_id)

    def _find(self, job_id: str) -> Answer | None:
        return _read(self._waiting / _name(job_id)) or _read(self._told / _name(job_id))

    def waiting(self) -> list[Answer]:
        """What the validator has yet to be told, oldest first."""
        found = [_read(path) for path in self._waiting.glob("*.json")]
        return sorted((answer for answer in found if answer is not None), key=lambda answer: answer.made_at)

    def delivered(self, answer: Answer) -> None:
        """The validator has it, or will never take it."""
        with self._alone():
            self._move(answer.job_id, self._waiting, self._told)
            if self._delivered % _PRUNE_EVERY == 0:
                told = sorted(self._told.glob("*.json"), key=lambda path: path.stat().st_mtime)
                for path in told[:-_MOST_TOLD]:
                    path.unlink()
            self._delivered += 1

    def again(self, answer: Answer) -> None:
        """The validator asks once more: deliver the same answer again."""
        with self._alone():
            self._move(answer.job_id, self._told, self._waiting)

    def _move(self, job_id: str, source: Path, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        try:
            (source / _name(job_id)).replace(target / _name(job_id))
        except FileNotFoundError:
            return  # it is there already

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


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
    """Leave the answer for the validator and append the job's receipt; returns it, or the one the job has already.

    Raises Declined if the validator was told meanwhile that there will be no result.
    """
    ours = JobResult(
        job_id=job.job_id,
        worker_address=job.worker_address,
        result_hash=result.result_hash,
        proof=result.proof or None,
    )
    standing = answers.put(ours, job.payload).message
    if isinstance(standing, JobRefused):
        raise Declined(f"the job was refused before it was done: {standing.message}", reason=DeclineReason.closed)
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
    except ValidationError:
        set_aside(path)
        return None


def digest_of(payload: Mapping[str, Any]) -> str:
    """What tells payloads apart, in hex."""
    return hashlib.sha256(json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
