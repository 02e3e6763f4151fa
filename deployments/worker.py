"""The warm worker: a Prefect worker that forks each flow run from a process which has already imported everything.

Prefect finds it through the entry point `prefect.collections`: `prefect worker start --pool cpu --type warm`. It uses
Prefect's public interfaces (the worker's base class, its client, `python -m prefect.engine`) and these private ones,
each pinned by a test of the warm worker:

- the control channel with its two variables: without it the engine takes a cancellation for a crash. That a flow run's
  process has connected to it says that its engine has begun;
- `_submit_run` of the base class, which takes one flow run: it is called when it is the flow run's turn; with what it
  calls and keeps, `_propose_pending_state`, `_release_limit_slot` and `_submitting_flow_run_ids`;
- `_get_scheduled_flow_runs` of the base class, with `_prefetch_seconds` and `_work_queues` which say what it asks for:
  what is due goes by the server's clock, and what runs here is left out; and `_last_polled_time`, by which its health
  check tells that the worker looks;
- `_propose_submitting_state` and `_give_worker_labels_to_flow_run` of the base class: what they tell the server need
  not be told before the process starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.lowlevel
import httpx
import psutil
from anyio.abc import TaskStatus
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.exceptions import InfrastructureNotAvailable, InfrastructureNotFound, ObjectNotFound
from prefect.runner._control_channel import ControlChannel
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed, Scheduled
from prefect.workers.base import BaseWorker, BaseWorkerResult

from deployments.cancelling import Cancellations
from deployments.database import URL_NAMES
from deployments.enlisted import Workers
from deployments.fork_server import FlowRunProcess, start_fork_server
from deployments.plain_http import authorities
from deployments.scheduled_news import listen
from deployments.warm_configuration import WarmConfiguration, WarmVariables
from flows.ahead import ServerClock
from flows.draining import left_for_later
from flows.lease import living
from flows.networks import networks
from millrace.settings import load_settings

_ENDLESS = "endless"
"""Tag of flow runs that would keep a stopping worker waiting: they end at once and well when they get SIGTERM."""

_BEGINNING_SECONDS = 30.0
"""How long after the worker was told to stop such a flow run may take to its first line."""

_WARM_WASM = "deployments.warm_wasm"
"""What starts the WASM runtime, in the pool whose flow runs want one."""

_PUT_BACK_SECONDS = 5.0
_QUIET_POLL_SECONDS = 0.5
_SERVERS_FAULT = 500
_AFTER_A_FAULT_SECONDS = 2.0
_LONGEST_START_SECONDS = 5.0
"""A flow run that takes longer to begin than this no longer keeps others from starting."""

_logger = logging.getLogger(__name__)


class WarmResult(BaseWorkerResult):
    """How a flow run's process ended."""


class WarmWorker(BaseWorker[WarmConfiguration, WarmVariables, WarmResult]):
    """Runs flow runs on this machine, as many at a time as its limit says, each in a process forked when it starts.

    A flow run whose process ends with another code than 0 is reported as crashed at once. Stopping the worker lets
    what runs end first, and asks those with the tag `endless` to end by SIGTERM. A flow run cancelled in the UI gets
    SIGTERM, and SIGKILL when it takes too long to end.
    """

    type = "warm"
    job_configuration = WarmConfiguration
    job_configuration_variables = WarmVariables
    _description = "Fork flow runs from a process that has already imported Prefect and Millrace's flows."
    _display_name = "Millrace, warm"

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._running: dict[UUID, FlowRunProcess] = {}
        self._endless: dict[UUID, FlowRunProcess] = {}
        self._control = ControlChannel()
        self._cancellations = Cancellations(self._running, self._control, self.get_flow_run_logger)
        self._starting = asyncio.Semaphore(os.cpu_count() or 1)
        self._waiting = 0
        """How many flow runs were taken and wait for their turn to start."""
        self._labelling: set[asyncio.Task[None]] = set()
        self._proposed: set[UUID] = set()
        """The flow runs of which the server was asked whether they may be `Pending`."""
        self._pending: set[UUID] = set()
        """The flow runs that are `Pending` by our word and have no process yet."""
        self._missed = False
        """Whether a look found no room, or was not taken, so that there may be something to take now."""
        self._worth_a_look = asyncio.Event()
        self._one_look = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._closing = contextlib.AsyncExitStack()
        self._settings = load_settings()
        self._server_clock = ServerClock()

    async def setup(self) -> None:
        """Import everything, then connect to the server: only then is the first flow run taken."""
        for name in URL_NAMES:
            # No flow run gets it, and one that lacked what was imported with it would have to start Python anew.
            os.environ.pop(name, None)
        os.environ |= authorities(PREFECT_API_URL.value() or "", os.environ)
        warm = (_WARM_WASM,) if self._work_pool_name == networks()["offchainvm"].pool else ()
        await start_fork_server(warm)
        await self._closing.enter_async_context(self._control)
        await super().setup()
        watching = asyncio.create_task(self._cancellations.watch(self.client))
        self._closing.callback(watching.cancel)
        self._looking = asyncio.create_task(self._keep_looking())

    async def teardown(self, *exc_info: Any) -> None:
        """Wait until what runs has ended, heeding cancellations meanwhile, then disconnect."""
        if self._looking is not None:
            self._looking.cancel()  # nothing new is taken any more
        ending = asyncio.create_task(self._end_the_endless())
        self._closing.callback(ending.cancel)
        try:
            await super().teardown(*exc_info)
        finally:
            await self._closing.aclose()

    async def run(
        self, flow_run: FlowRun, configuration: WarmConfiguration, task_status: TaskStatus[Any] | None = None
    ) -> WarmResult:
        """Fork this flow run's process and wait for its end, also when the worker is told to stop meanwhile."""
        with contextlib.ExitStack() as kept:
            folder = configuration.working_dir or kept.enter_context(
                # A process that a killed flow left behind may still write into it.
                tempfile.TemporaryDirectory(prefix="flow-run-", ignore_cleanup_errors=True)
            )
            kept.callback(self._control.unregister, flow_run.id)
            port, token = self._control.register(flow_run.id)
            control = {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}
            process = FlowRunProcess(configuration.start_of(flow_run, Path(folder), control))
            self._running[flow_run.id] = process
            self._pending.discard(flow_run.id)
            if _ENDLESS in flow_run.tags:
                self._endless[flow_run.id] = process
                kept.callback(self._endless.pop, flow_run.id)
            if task_status is not None:
                task_status.started(process.identifier)
            with anyio.CancelScope(shield=True):
                status_code = await process.ended()
                self._running.pop(flow_run.id, None)
                status_code = await self._cancellations.concluded(self.client, flow_run, status_code)
            await self._report_while_stopping(flow_run, status_code)
            return WarmResult(status_code=status_code, identifier=process.identifier)

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """Take the flow run when it is its turn: as many start at once as there are processors.

        More of them would only share the processors and the server, and the first would begin as late as the last. One
        that waits is `Scheduled` still, and free for another worker.
        """
        self._waiting += 1
        try:
            await self._starting.acquire()
        finally:
            self._waiting -= 1
            self._look_if_one_was_missed()
        try:
            await super()._submit_run(flow_run)
            if flow_run.id not in self._proposed:
                self._release_limit_slot(flow_run.id)  # its deployment is gone, and Prefect's worker forgets the slot
            await self._has_begun(flow_run)
        except httpx.HTTPError:
            # Prefect's worker would end, with everything that it runs. The flow run is found again at the next look.
            self.get_flow_run_logger(flow_run).exception("the flow run could not be taken")
            self._submitting_flow_run_ids.discard(flow_run.id)
            self._release_limit_slot(flow_run.id)
        except asyncio.CancelledError:
            await self._put_back(flow_run)
            raise
        finally:
            self._proposed.discard(flow_run.id)
            self._pending.discard(flow_run.id)
            self._starting.release()

    async def _put_back(self, flow_run: FlowRun) -> None:
        """The worker stops between taking this flow run and starting it: somebody else is to find it `Scheduled`."""
        if flow_run.id not in self._pending:
            return
        with anyio.CancelScope(shield=True), anyio.move_on_after(_PUT_BACK_SECONDS):
            try:
                state = (await self.client.read_flow_run(flow_run.id)).state
                if state is not None and state.is_pending():  # nobody cancelled it meanwhile
                    due = state.state_details.scheduled_time
                    again: State[Any] = Scheduled(scheduled_time=due, message="its worker stopped")
                    await self.client.set_flow_run_state(flow_run.id, again, force=True)
            except (httpx.HTTPError, ObjectNotFound):
                self.get_flow_run_logger(flow_run).exception("cannot put the flow run back")

    async def _propose_pending_state(self, flow_run: FlowRun) -> bool:
        self._proposed.add(flow_run.id)
        ours = await super()._propose_pending_state(flow_run)
        if ours:
            self._pending.add(flow_run.id)
        return ours

    def _release_limit_slot(self, flow_run_id: UUID) -> None:
        super()._release_limit_slot(flow_run_id)
        self._look_if_one_was_missed()

    def _look_if_one_was_missed(self) -> None:
        if self._missed:
            self._missed = False
            self._worth_a_look.set()

    async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
        """What is due by the server's clock, less what runs here: a flow run may be put back whose process is alive.

        By our own clock, were it ahead, we would take what the server then lets nobody begin: it would keep its place
        here until its time comes. On a draining machine new jobs stay where they are, for another machine or for later.
        """
        until = await self._server_clock.now(self.client) + timedelta(seconds=self._prefetch_seconds)
        try:
            due = await self.client.get_scheduled_flow_runs_for_work_pool(
                self._work_pool_name, list(self._work_queues), until
            )
        except ObjectNotFound:
            due = []  # somebody removed the work pool; the next heartbeat makes it again
        Workers(self._settings.data_dir).looked(self._work_pool_name)
        due = [entry for entry in due if entry.flow_run.id not in self._running]
        parameters = [entry.flow_run.parameters for entry in due]
        later = await asyncio.to_thread(left_for_later, self._settings, parameters)
        return [entry for entry, left in zip(due, later, strict=True) if not left]

    async def _has_begun(self, flow_run: FlowRun) -> None:
        """Return once the flow run's engine has begun, or its process has ended, or others have waited long enough."""
        if (process := self._running.get(flow_run.id)) is None:
            return
        begun = self._control._registrations[flow_run.id].connected
        either = [asyncio.create_task(event.wait()) for event in (begun, process.has_ended)]
        try:
            await asyncio.wait(either, timeout=_LONGEST_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in either:
                waiting.cancel()

    async def _propose_submitting_state(self, flow_run: FlowRun) -> None:
        """Say nothing: the flow run is `Pending`, and its process starts at once."""

    async def _give_worker_labels_to_flow_run(self, flow_run_id: UUID) -> None:
        """Label the flow run in a while: nothing waits for that."""
        labelling = asyncio.create_task(self._label_when_quiet(flow_run_id))
        self._labelling.add(labelling)
        labelling.add_done_callback(functools.partial(self._labelled, flow_run_id))

    async def _label_when_quiet(self, flow_run_id: UUID) -> None:
        while self._waiting:  # noqa: ASYNC110  (a rough look is enough)
            await asyncio.sleep(_QUIET_POLL_SECONDS)
        await super()._give_worker_labels_to_flow_run(flow_run_id)

    def _labelled(self, flow_run_id: UUID, labelling: asyncio.Task[None]) -> None:
        self._labelling.discard(labelling)
        if not labelling.cancelled() and (error := labelling.exception()):
            _logger.warning("flow run %s has no labels of its worker: %s", flow_run_id, error)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take what is due, as Prefect's workers do, unless some that were taken wait for their turn to start."""
        async with self._one_look:
            if self._waiting:
                self._missed = True
                self._last_polled_time = datetime.now(UTC)  # or it would be taken for one that hangs
                return []
            try:
                taken = await super().get_and_submit_flow_runs()
                self._missed = self._limiter is not None and not self._limiter.available_tokens
                return taken
            except httpx.HTTPStatusError as error:
                # Its database is away, say. Prefect's worker would end after a few of them, and our looks are frequent.
                if error.response.status_code < _SERVERS_FAULT:
                    raise
                _logger.warning("no look for flow runs: the server answers %d", error.response.status_code)
                await asyncio.sleep(_AFTER_A_FAULT_SECONDS)
                return []
            except RuntimeError:
                # A flow run that still has its slot was due again: the limiter refuses, and Prefect's worker would end.
                _logger.exception("some flow runs were not taken; trying again at the next look")
                return []

    async def _keep_looking(self) -> None:
        """Look for flow runs as soon as there may be one to take: the next poll may be a while off."""
        async with asyncio.TaskGroup() as both:
            both.create_task(listen(lambda: self.work_pool.id, self._worth_a_look.set))
            while True:
                await self._worth_a_look.wait()
                self._worth_a_look.clear()
                try:
                    await self.get_and_submit_flow_runs()
                except Exception:
                    _logger.debug("a look for flow runs failed; the next poll is another", exc_info=True)

    async def kill_infrastructure(
        self, infrastructure_pid: str, configuration: WarmConfiguration, grace_seconds: int = 30
    ) -> None:
        """End the process that `run` named `infrastructure_pid`.

        Raises InfrastructureNotAvailable if another machine or another worker may have it, InfrastructureNotFound if
        it has ended.
        """
        host, _, pid = infrastructure_pid.rpartition(":")
        if host != socket.gethostname():
            raise InfrastructureNotAvailable(f"{infrastructure_pid} is not a process of this machine")
        for process in self._running.values():
            if str(process.pid) == pid:
                return await process.end(grace_seconds)
        if psutil.pid_exists(int(pid)):
            raise InfrastructureNotAvailable(f"{infrastructure_pid} is not a process of this worker")
        raise InfrastructureNotFound(f"{infrastructure_pid} has ended")

    async def _end_the_endless(self) -> None:
        """SIGTERM for each flow run without end while it listens: before its first line it would crash of it.

        After its last one, too; it ends then by itself.
        """
        leases, deadline = self._settings.data_dir / "leases", time.monotonic() + _BEGINNING_SECONDS
        told: set[UUID] = set()
        while True:
            if left := self._endless.keys() - told:
                begun = {lease.flow_run_id for lease in living(leases) if lease.at_work}
                for each in left:
                    if str(each) in begun or time.monotonic() > deadline:
                        self._endless[each].terminate()
                        told.add(each)
            await asyncio.sleep(0.1)

    async def _report_while_stopping(self, flow_run: FlowRun, status_code: int) -> None:
        """Report a crash that happened while the worker waits for its last flow runs: Prefect's worker does not."""
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            if status_code:
                with anyio.CancelScope(shield=True):
                    message = f"Process exited with status code {status_code} while its worker was stopping."
                    try:
                        await self.client.set_flow_run_state(flow_run.id, Crashed(message=message))
                    except (httpx.HTTPError, ObjectNotFound):
                        self.get_flow_run_logger(flow_run).exception("cannot report the crash")
            raise
