"""Talk with a coordinator: ask for work while there is room, tell how work ended, and say that we live, for ever.

A poll pops what it gets for good. So none is begun without room for its task, and none is cancelled: to stop, the last
one is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, NoReturn

from millrace.errors import MillraceError, Permanent, Transient
from millrace.redaction import redact
from protocols.coordinator.client import Coordinator
from protocols.coordinator.executions import Capability, PolledExecution
from protocols.coordinator.link import NotLetIn
from protocols.coordinator.tasks import MalformedTask, Task
from protocols.coordinator.workers import HEARTBEAT_SECONDS, Heartbeat, WorkerState
from protocols.near.job import handed_id
from stages.discover.coordinator import Desk
from stages.submit.coordinator import Report

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.5
"""Between two looks for reports: other processes write them."""

_LATER_SECONDS = 10.0
"""Before a report that could not be told now is told again."""

_STATE_SECONDS = 2.0
"""Between two looks at whether what we do has changed."""

_FAREWELL_SECONDS = 5.0

_logger = logging.getLogger(__name__)


class Conversation:
    """With one coordinator, as one worker.

    Arguments: `capabilities` tells what the worker can do now; `worker_name` is for people; `clock` is Unix time;
    `jitter` gives a factor for each wait.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        desk: Desk,
        *,
        api: Literal["tasks", "jobs"],
        worker_id: str,
        worker_name: str,
        capabilities: Callable[[], Sequence[Capability]],
        poll_seconds: int,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = lambda: random.uniform(0.75, 1.25),  # noqa: S311  (no secret)
    ) -> None:
        self._coordinator = coordinator
        self._desk = desk
        self._api = api
        self._worker_id = worker_id
        self._worker_name = worker_name
        self._capabilities = capabilities
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._wait = _FIRST_WAIT_SECONDS
        self._last_poll_at: float | None = None
        self.asks = False
        """Whether we ask for work, or have enough: not if something keeps us from working."""
        self.pause_seconds = 0.0
        """How long to wait before the next question."""
        self.trouble = ""
        """Why the last question had no answer; empty if it had one."""
        self.taken = 0
        """How many pieces of work came that were new."""

    async def ask(self) -> bool:
        """Ask once for work, and have it on the disk; whether something came that is new.

        After a failure `pause_seconds` says how long to wait, longer each time. Raises NotLetIn and Refused as the
        coordinator answers.
        """
        try:
            work = await self._polled()
        except MalformedTask as error:
            self.trouble = redact(str(error))
            _logger.error("%s", self.trouble)
            await asyncio.to_thread(self._tell_malformed, error)
            return False
        except Transient as error:
            self.pause_seconds = max(self._wait * self._jitter(), error.retry_after_seconds or 0.0)
            self._wait = min(2 * self._wait, _LONGEST_WAIT_SECONDS)
            self.trouble = redact(str(error))
            _logger.warning("%s; asking again in %.1f s", self.trouble, self.pause_seconds)
            return False
        self._wait, self.pause_seconds, self.trouble = _FIRST_WAIT_SECONDS, 0.0, ""
        self._last_poll_at = self._clock()
        if work is None:
            return False
        fresh = await asyncio.to_thread(self._desk.take, work)
        _logger.info("the coordinator hands out %s", handed_id(work.request_id, work.data_id))
        self.taken += fresh
        return fresh

    async def tell_on(self) -> NoReturn:
        """Tell the coordinator how work ended, as it ends; what it does not take now is told later."""
        later: dict[str, float] = {}
        while True:
            for report in await asyncio.to_thread(self._desk.reports.waiting):
                if later.get(report.name, 0.0) <= self._clock() and not await self.tell(report):
                    later[report.name] = self._clock() + _LATER_SECONDS
            await self._sleep(_LOOK_SECONDS)

    async def tell(self, report: Report) -> bool:
        """Tell one report; False if that is to be done again. One that is refused for good counts as told."""
        try:
            await report.tell(self._coordinator)
        except (Transient, NotLetIn) as error:
            _logger.warning("how %s ended cannot be told now: %s", report.job_id, redact(str(error)))
            return False
        except Permanent as error:
            _logger.error("how %s ended is not taken: %s", report.job_id, redact(str(error)))
        await asyncio.to_thread(self._desk.reports.told, report)
        return True

    async def live_on(self) -> NoReturn:
        """Say that we live and what we do: every 30 s, and when it changes. EARLY knows no heartbeats."""
        said, said_at = None, 0.0
        while True:
            if self._api == "jobs":
                heartbeat = await asyncio.to_thread(self._heartbeat)
                doing = (heartbeat.status, heartbeat.current_task_id)
                if doing != said or self._clock() - said_at >= HEARTBEAT_SECONDS:
                    await self._say(heartbeat)
                    said, said_at = doing, self._clock()
            await self._sleep(_STATE_SECONDS)

    async def leave(self) -> None:
        """Tell what is left to be told, and that we are gone; what cannot be told now is told by the next run."""
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                for report in await asyncio.to_thread(self._desk.reports.waiting):
                    await self.tell(report)
                if self._api == "jobs":
                    heartbeat = await asyncio.to_thread(self._heartbeat)
                    await self._say(heartbeat.model_copy(update={"status": WorkerState.offline}))
        except TimeoutError:
            _logger.warning("the coordinator did not answer our farewell")

    async def _polled(self) -> Task | PolledExecution | None:
        if self._api == "tasks":
            return await self._coordinator.tasks.poll(self._poll_seconds)
        able = await asyncio.to_thread(self._capabilities)
        return await self._coordinator.jobs.poll(able, self._poll_seconds)

    def _heartbeat(self) -> Heartbeat:
        work = self._desk.open()
        state = WorkerState.busy if work else WorkerState.online if self.asks else WorkerState.offline
        polled = self._last_poll_at
        return Heartbeat(
            worker_id=self._worker_id,
            worker_name=self._worker_name,
            status=state,
            current_task_id=work[0].request_id if work else None,
            last_poll_at=None if polled is None else datetime.fromtimestamp(polled, UTC).isoformat(),
        )

    async def _say(self, heartbeat: Heartbeat) -> None:
        try:
            await self._coordinator.workers.heartbeat(heartbeat)
        except MillraceError as error:
            _logger.warning("no heartbeat: %s", redact(str(error)))

    def _tell_malformed(self, error: MalformedTask) -> None:
        """EARLY waits for a word on what cannot be read; the later API has no number for it before it is claimed."""
        if self._api == "tasks" and error.request_id is not None:
            name = handed_id(error.request_id, error.data_id or "malformed")
            self._desk.reports.put(
                Report(
                    job_id=name,
                    request_id=error.request_id,
                    made_at=self._clock(),
                    success=False,
                    ran=False,
                    error=error.message,
                )
            )
