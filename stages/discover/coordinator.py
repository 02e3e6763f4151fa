"""The work that a coordinator handed out: on disk before anything is begun for it, until the coordinator is told.

A coordinator has no lease and asks for nothing back: what it gave out and what is not here is lost.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from millrace.limits import MIB
from millrace.settings import Settings
from protocols.coordinator.executions import ClaimedJob, JobType, PolledExecution, Pricing
from protocols.coordinator.tasks import CompileTask, ExecuteTask, Task
from protocols.http_json import origin_of
from protocols.ipfs.atomic import write_atomically
from protocols.near.job import OffchainVmJob, handed_id
from stages.discover.validator import set_aside
from stages.submit.coordinator import Report, Reports

_MOST_ENDED = 10_000
"""How much ended work is kept, the newest: duplicates are known by it."""

_PRUNE_EVERY = 100
_LEAST_FREE_BYTES = 64 * MIB

_logger = logging.getLogger(__name__)


class Handed(BaseModel):
    """A piece of work: a task of the EARLY API or a request of the later one, and what is known of it."""

    model_config = ConfigDict(frozen=True)

    task: Annotated[CompileTask | ExecuteTask, Field(discriminator="type")] | None = None
    execution: PolledExecution | None = None
    again: PolledExecution | None = Field(default=None, description="It came once more while it was at work")
    taken_at: float = Field(description="Unix time")
    times: int = Field(default=0, description="How often it was taken before")
    asked: bool = Field(default=False, description="A claim was sent; its answer may have been lost")
    claimed: tuple[ClaimedJob, ...] = ()
    pricing: Pricing | None = None
    alone: bool = Field(default=False, description="It may be ours without our knowing as what: done, and not told")
    job: OffchainVmJob | None = Field(default=None, description="As the contract has it, once it was looked up")
    ended: bool = False
    success: bool = False

    @property
    def job_id(self) -> str:
        """`<request id>-<data id>`."""
        work = self.execution or self.task
        assert work is not None
        return handed_id(work.request_id, work.data_id)

    @property
    def request_id(self) -> int:
        """The contract's number of the request."""
        work = self.execution or self.task
        assert work is not None
        return work.request_id

    def claimed_to(self, what: JobType) -> ClaimedJob | None:
        """The claimed job of that type, if there is one."""
        return next((job for job in self.claimed if job.job_type is what), None)

    @property
    def checksum(self) -> str:
        """What the coordinator files the module under, if it said so."""
        if isinstance(self.task, ExecuteTask):
            return self.task.wasm_checksum
        return next((job.wasm_checksum for job in self.claimed if job.wasm_checksum), None) or ""

    @property
    def is_ours(self) -> bool:
        """Whether there is something to do: a task is whoever's it was given to."""
        return self.task is not None or bool(self.claimed) or self.alone

    @property
    def only_compiles(self) -> bool:
        """Whether a module is all that is wanted of us."""
        if self.claimed:
            return self.claimed_to(JobType.execute) is None
        return self.execution is not None and self.execution.compile_only


class Desk:
    """One file a piece of work in `folder`, which is one coordinator's; processes may share it.

    Every change is made alone, so that what comes while other work on the same request ends is not lost between them.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._open, self._ended = folder / "open", folder / "ended"
        self._count = 0
        self.reports = Reports(folder / "reports")

    def has_space(self) -> bool:
        """Whether the disk has room for what a poll may bring: what cannot be kept is lost for everybody."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._folder).free >= _LEAST_FREE_BYTES

    def take(self, work: Task | PolledExecution) -> bool:
        """Have the work on the disk from now on; whether it is something new to do. OSError if the disk fails."""
        is_task = not isinstance(work, PolledExecution)
        fresh = Handed(
            task=work if not isinstance(work, PolledExecution) else None,
            execution=work if isinstance(work, PolledExecution) else None,
            taken_at=self._clock(),
        )
        with self._alone():
            standing = _read(self._open / _file_of(fresh.job_id))
            if standing is not None:
                if not is_task:
                    self._write(self._open, standing.model_copy(update={"again": work}))
                return False
            before = _read(self._ended / _file_of(fresh.job_id))
            if is_task and before is not None and before.success:
                _logger.info("request %s was handed out again, and has its answer", fresh.job_id)
                return False
            times = 0 if before is None else before.times + 1
            self._write(self._open, fresh.model_copy(update={"times": times}))
            return True

    def find(self, job_id: str) -> Handed | None:
        """The work on that job, also if it has ended; None if it never came, or too long ago."""
        return _read(self._open / _file_of(job_id)) or _read(self._ended / _file_of(job_id))

    def open(self) -> list[Handed]:
        """All that has not ended, oldest first."""
        found = [_read(path) for path in self._open.glob("*.json")]
        return sorted((each for each in found if each is not None), key=lambda each: each.taken_at)

    def change(self, job_id: str, **update: Any) -> Handed | None:
        """Note something about the work, on the disk when this returns; None if there is none."""
        with self._alone():
            for place in (self._open, self._ended):
                if (standing := _read(place / _file_of(job_id))) is not None:
                    changed = standing.model_copy(update=update)
                    self._write(place, changed)
                    return changed
        return None

    def end(self, handed: Handed, reports: Sequence[Report], *, success: bool) -> None:
        """Nothing is left to do but to tell these reports, which are on the disk when this returns.

        Doing it again changes nothing. If the work came again meanwhile, it is open once more: that is not ended by
        whoever had it before.
        """
        job_id = handed.job_id
        with self._alone():
            standing = _read(self._open / _file_of(job_id))
            if standing is None or standing.times != handed.times:
                return
            for report in reports:
                self.reports.put(report)
            ended = standing.model_copy(update={"ended": True, "success": success, "again": None})
            self._write(self._ended, ended)
            if standing.again is not None:
                again = Handed(execution=standing.again, taken_at=self._clock(), times=standing.times + 1)
                self._write(self._open, again)
            else:
                (self._open / _file_of(job_id)).unlink()
            self._count += 1
            if self._count % _PRUNE_EVERY == 1:
                for path in sorted(self._ended.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-_MOST_ENDED]:
                    path.unlink(missing_ok=True)

    def _write(self, place: Path, handed: Handed) -> None:
        content = handed.model_dump_json(exclude={"job": {"key"}}).encode()
        write_atomically(place / _file_of(handed.job_id), [content])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def desk_of(settings: Settings) -> Desk:
    """The work of the settings' coordinator: another one's job numbers say nothing about it."""
    origin = origin_of(settings.coordinator.url) or ""
    return Desk(settings.data_dir / "coordinator" / hashlib.sha256(origin.encode()).hexdigest()[:16], time.time)


def desks_of(settings: Settings) -> list[Desk]:
    """The work of every coordinator that this worker ever had: what was begun is followed to its end."""
    return [Desk(path.parent, time.time) for path in (settings.data_dir / "coordinator").glob("*/lock")]


def _file_of(job_id: str) -> str:
    return f"{hashlib.sha256(job_id.encode()).hexdigest()}.json"


def _read(path: Path) -> Handed | None:
    try:
        return Handed.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None  # somebody ended it meanwhile
    except ValidationError:
        set_aside(path)
        return None
