"""Cancellations of the flow runs of one worker: noticed, carried out, and said when they are done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.runner._control_channel import ControlChannel
from prefect.states import Cancelled

from deployments.fork_server import FlowRunProcess

_POLL_SECONDS = 1.0
_GRACE_SECONDS = 30.0

_logger = logging.getLogger(__name__)


class Cancellations:
    """Ends the processes of flow runs that somebody cancels.

    `running` are the worker's processes, now as ever; `control` is how an engine is told that it is a cancellation that
    ends it; `logger_of` is the flow run's own log.
    """

    def __init__(
        self,
        running: Mapping[UUID, FlowRunProcess],
        control: ControlChannel,
        logger_of: Callable[[FlowRun], logging.LoggerAdapter[Any]],
    ) -> None:
        self._running = running
        self._control = control
        self._logger_of = logger_of
        self._asked_for: set[UUID] = set()

    async def watch(self, client: PrefectClient) -> None:
        """Ask once in a while which of the flow runs here are to be cancelled, and end their processes."""
        async with asyncio.TaskGroup() as ending:
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                try:
                    to_cancel = await self._to_cancel(client)
                except Exception:
                    # Whatever the server says instead of an answer, it is asked again.
                    _logger.exception("cannot ask which flow runs are to be cancelled")
                    continue
                for flow_run in to_cancel:
                    self._asked_for.add(flow_run.id)
                    ending.create_task(self._cancel(flow_run))

    async def _to_cancel(self, client: PrefectClient) -> list[FlowRun]:
        asked = self._running.keys() - self._asked_for
        if not asked:
            return []
        wanted = FlowRunFilter(
            id=FlowRunFilterId(any_=sorted(asked)),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLING])),
        )
        found = await client.read_flow_runs(flow_run_filter=wanted)
        return [flow_run for flow_run in found if flow_run.id in self._running]

    async def _cancel(self, flow_run: FlowRun) -> None:
        logger = self._logger_of(flow_run)
        logger.info("Cancellation was asked for; ending the process")
        try:
            await self._control.signal(flow_run.id, "cancel")
            if process := self._running.get(flow_run.id):
                await process.end(_GRACE_SECONDS)
        except Exception:
            logger.exception("cannot end the process")

    async def concluded(self, client: PrefectClient, flow_run: FlowRun, status_code: int) -> int:
        """The exit code to report of a process that ended: 0 if its flow run was cancelled, which its state then says.

        A flow run that ended before anybody saw that it was to be cancelled would stay `Cancelling` for ever.
        """
        asked = flow_run.id in self._asked_for
        self._asked_for.discard(flow_run.id)
        try:
            now = (await client.read_flow_run(flow_run.id)).state
            if now is not None and now.type is StateType.CANCELLING:
                asked = True
                ended: State[Any] = Cancelled(message="Cancelled on request; its process has ended.")
                await client.set_flow_run_state(flow_run.id, ended, force=True)
        except (httpx.HTTPError, ObjectNotFound):
            self._logger_of(flow_run).exception("cannot look at how the flow run ended")
        return 0 if asked else status_code
