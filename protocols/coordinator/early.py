"""The EARLY API of October 2025: tasks are asked for one by one and their end is told.

A task that was given out is gone: there is no lease and no way back, so persist it before anything else. A failed
one is told to `fail` and, other than the public worker does, should be resolved on the chain too.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from millrace.text import printable_lines
from protocols.coordinator.link import Link
from protocols.coordinator.tasks import CompileTask, Task, task_of, wire_source

LONGEST_POLL_SECONDS = 120
"""A coordinator waits no longer, whatever it is asked."""

POLL_MARGIN_SECONDS = 10.0
"""How much longer we wait for the answer than the coordinator waits for a task."""

MOST_ERROR_CHARACTERS = 20_000


@dataclass(frozen=True)
class TaskReport:
    """How a task ended: its output if it succeeded, its error if not; fuel used and milliseconds taken."""

    request_id: int
    success: bool
    output: bytes | None
    error: str | None
    execution_time_ms: int
    instructions: int


class EarlyTasks:
    """The calls under `/tasks`. All raise Transient, NotLetIn and Refused as `Link.call` does."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def poll(self, timeout_seconds: int = 60) -> Task | None:
        """The next task, waited for up to `timeout_seconds` (1 to 120); None if there was none.

        Raises MalformedTask for one that cannot be read, which is gone all the same. So is one that was given out
        to a poll that was cancelled meanwhile: to drain, let the last poll end.
        """
        document = await long_poll(self._link, "/tasks/poll", {}, timeout_seconds)
        return None if document is None else task_of(document)

    async def create(self, task: CompileTask) -> None:
        """Queue a task, as an event monitor does. Whoever creates it twice queues it twice."""
        fields = task.model_dump(mode="json", exclude={"type", "code_source"})
        await self._link.call("POST", "/tasks/create", {**fields, "code_source": wire_source(task.code_source)})

    async def complete(self, report: TaskReport) -> None:
        """Tell how a task ended; may be told again."""
        body = {
            "request_id": report.request_id,
            "success": report.success,
            "output": None if report.output is None else list(report.output),
            "error": None if report.error is None else sayable(report.error),
            "execution_time_ms": report.execution_time_ms,
            "instructions": report.instructions,
        }
        await self._link.call("POST", "/tasks/complete", body)

    async def fail(self, request_id: int, error: str) -> None:
        """Tell that a task failed, and why; may be told again."""
        body = {"request_id": request_id, "error": sayable(error)}
        await self._link.call("POST", "/tasks/fail", body)


async def long_poll(link: Link, path: str, query: dict[str, str], timeout_seconds: int) -> object:
    """What a queue gives out; None if nothing came in time. Raises ValueError unless the time is 1 to 120 s."""
    if not 1 <= timeout_seconds <= LONGEST_POLL_SECONDS:
        raise ValueError(f"a poll takes 1 to {LONGEST_POLL_SECONDS} seconds, not {timeout_seconds}")
    asked = f"{path}?{urlencode({'timeout': timeout_seconds, **query}, safe=',')}"
    return await link.document("GET", asked, nothing=(204,), timeout_seconds=timeout_seconds + POLL_MARGIN_SECONDS)


def sayable(error: str) -> str:
    """An error's text as a coordinator may keep and print it."""
    return printable_lines(error[:MOST_ERROR_CHARACTERS])
