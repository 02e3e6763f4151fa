"""What a coordinator is to be told of the work that it handed out: on disk until it has it, and then never again."""

from __future__ import annotations

import base64
import hashlib
import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocols.coordinator.client import Coordinator
from protocols.coordinator.early import TaskReport
from protocols.coordinator.executions import ErrorCategory, JobReport
from protocols.ipfs.atomic import write_atomically
from stages.discover.validator import set_aside

_MOST_TOLD = 10_000
"""How many told reports are kept, the newest."""

_PRUNE_EVERY = 100

_logger = logging.getLogger(__name__)


class Report(BaseModel):
    """How a piece of work ended. `coordinators_id` is its job in the later API, None for a task of EARLY."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    request_id: int
    made_at: float = Field(description="Unix time")
    times: int = Field(default=0, description="How often the work was taken before")
    coordinators_id: int | None = None
    success: bool
    ran: bool = Field(default=True, description="False if its program never ran: EARLY has another call for that")
    error: str | None = None
    category: ErrorCategory | None = None
    output_base64: str | None = Field(default=None, description="What the module wrote, for EARLY")
    output: dict[str, Any] | None = Field(default=None, description="The same in the request's format, for the later")
    time_ms: int = 0
    instructions: int = 0
    wasm_checksum: str | None = None
    compile_result: str | None = None
    actual_cost_yocto: int = 0
    compile_cost_yocto: int = 0

    @property
    def name(self) -> str:
        """One report has it: whoever makes a second one of the same work changes nothing."""
        return (
            f"{self.job_id}#{self.times}" if self.coordinators_id is None else f"{self.job_id}/{self.coordinators_id}"
        )

    async def tell(self, coordinator: Coordinator) -> None:
        """Tell it (again). Raises as the calls of the coordinator's two APIs."""
        if self.coordinators_id is not None:
            return await coordinator.jobs.complete(self._of_job(self.coordinators_id))
        if not self.ran:
            return await coordinator.tasks.fail(self.request_id, self.error or "failed")
        output = None if self.output_base64 is None else base64.b64decode(self.output_base64)
        return await coordinator.tasks.complete(
            TaskReport(self.request_id, self.success, output, self.error, self.time_ms, self.instructions)
        )

    def _of_job(self, coordinators_id: int) -> JobReport:
        return JobReport(
            job_id=coordinators_id,
            success=self.success,
            time_ms=self.time_ms,
            instructions=self.instructions,
            output=self.output,
            error=self.error,
            error_category=self.category,
            wasm_checksum=self.wasm_checksum,
            actual_cost_yocto=self.actual_cost_yocto,
            compile_cost_yocto=self.compile_cost_yocto,
            compile_result=self.compile_result,
        )


class Reports:
    """One file a report in `folder`: under `waiting` until the coordinator has it, under `told` from then on."""

    def __init__(self, folder: Path) -> None:
        self._waiting, self._told = folder / "waiting", folder / "told"
        self._count = 0

    def put(self, report: Report) -> None:
        """Have the report on the disk from now on, unless there is one of that name."""
        name = _file_of(report)
        if not any((place / name).exists() for place in (self._waiting, self._told)):
            write_atomically(self._waiting / name, [report.model_dump_json().encode()])

    def waiting(self) -> list[Report]:
        """What the coordinator has yet to be told, oldest first."""
        found = [_read(path) for path in self._waiting.glob("*.json")]
        return sorted((each for each in found if each is not None), key=lambda each: each.made_at)

    def told(self, report: Report) -> None:
        """The coordinator has it, or will never take it."""
        self._told.mkdir(parents=True, exist_ok=True)
        try:
            (self._waiting / _file_of(report)).replace(self._told / _file_of(report))
        except FileNotFoundError:
            return
        self._count += 1
        if self._count % _PRUNE_EVERY == 0:
            for path in sorted(self._told.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-_MOST_TOLD]:
                path.unlink(missing_ok=True)


def _file_of(report: Report) -> str:
    return f"{hashlib.sha256(report.name.encode()).hexdigest()}.json"


def _read(path: Path) -> Report | None:
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        set_aside(path)
        return None
