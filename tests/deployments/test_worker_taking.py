"""What becomes of a flow run, of its slot and of the worker when the server fails in the middle of taking it.

The moment is too short to be hit from outside: the base class runs for real, with a client that fails.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Pending, Scheduled
from prefect.workers.base import BaseWorker

from deployments.worker import WarmWorker

DUE = datetime(2026, 10, 1, 12, 0, 0, 0, UTC)


class FailingClient:
    """Answers the question for a deployment with an error, and notes what is told about flow runs."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.told: list[tuple[UUID, str]] = []
        self.due: list[datetime | None] = []
        self.state: State[Any] = Pending()

    async def read_deployment(self, deployment_id: UUID) -> None:
        if self.error is not None:
            raise self.error

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        return FlowRun(id=flow_run_id, flow_id=uuid4(), state=self.state)

    async def set_flow_run_state(self, flow_run_id: UUID, state: Any, **_: Any) -> None:
        self.told.append((flow_run_id, str(state.type.value)))
        self.due.append(state.state_details.scheduled_time)


def taken(worker: WarmWorker, client: FailingClient) -> FlowRun:
    """A flow run that the worker has given a slot, as it does before it begins to take it."""
    run = FlowRun(flow_id=uuid4(), deployment_id=uuid4(), state=Scheduled(), name="taken")
    worker._client = client  # type: ignore[assignment]
    # Prefect's own asks a server.
    worker.get_flow_run_logger = lambda flow_run: logging.getLogger("taking")  # type: ignore
    worker._limiter = anyio.CapacityLimiter(1)
    worker._limiter.acquire_on_behalf_of_nowait(run.id)
    worker._submitting_flow_run_ids.add(run.id)
    return run


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("away"),
        httpx.HTTPStatusError("500", request=httpx.Request("GET", "http://server"), response=httpx.Response(500)),
        ObjectNotFound(Exception("deleted")),
    ],
    ids=["away", "500", "deleted"],
)
async def test_neither_the_worker_nor_a_slot_is_lost(error: Exception) -> None:
    worker = WarmWorker("pool", limit=1)
    client = FailingClient(error)
    run = taken(worker, client)
    ended_well = False
    async with anyio.create_task_group() as others:
        worker._runs_task_group = others
        others.start_soon(worker._submit_run, run)
        await anyio.lowlevel.checkpoint()
        ended_well = True
    assert ended_well
    assert worker.limiter.borrowed_tokens == 0
    assert run.id not in worker._submitting_flow_run_ids
    assert not worker._starting.locked()


@pytest.mark.parametrize(("state", "told"), [(Pending(), ["SCHEDULED"]), (Cancelled(), [])])
async def test_a_flow_run_taken_and_not_started_when_the_worker_stops_is_scheduled_again(
    monkeypatch: pytest.MonkeyPatch, state: State[Any], told: list[str]
) -> None:
    """It stayed `Pending`, and nobody looked for it."""
    worker = WarmWorker("pool", limit=1)
    client = FailingClient(None)
    client.state = state
    state.state_details.scheduled_time = DUE
    run = taken(worker, client)

    async def stops_meanwhile(flow_run: FlowRun) -> None:
        worker._pending.add(flow_run.id)
        stopping.cancel()
        await anyio.sleep(60)

    monkeypatch.setattr("prefect.workers.base.BaseWorker._submit_run", lambda self, run: stops_meanwhile(run))
    with anyio.CancelScope() as stopping:
        await worker._submit_run(run)
    assert client.told == [(run.id, each) for each in told]
    assert client.due == [DUE for _ in told], "it keeps its place in the queue"


class Queue:
    """A server whose clock is right, with a work pool, or without."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.until: list[datetime] = []
        transport = httpx.MockTransport(lambda _: httpx.Response(200, headers={"Date": format_datetime(DUE, True)}))
        self._client = httpx.AsyncClient(base_url="http://server", transport=transport)

    async def get_scheduled_flow_runs_for_work_pool(self, pool: str, queues: list[str], until: datetime) -> list[Any]:
        assert (pool, queues) == ("pool", [])
        self.until.append(until)
        if self.error is not None:
            raise self.error
        return []


@pytest.mark.parametrize("error", [None, ObjectNotFound(Exception("no such pool"))], ids=["pool", "no pool"])
async def test_what_is_due_goes_by_the_servers_clock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception | None
) -> None:
    """The server's clock stands two months from ours; that it answered is noted, whatever it said."""
    monkeypatch.setenv("MILLRACE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PREFECT_WORKER_PREFETCH_SECONDS", "0")
    worker, queue = WarmWorker("pool", limit=1, prefetch_seconds=0), Queue(error)
    worker._client = queue  # type: ignore[assignment]
    looked: list[str] = []
    monkeypatch.setattr("deployments.worker.Workers.looked", lambda self, pool: looked.append(pool))
    assert await worker._get_scheduled_flow_runs() == []
    assert [abs(until - DUE) <= timedelta(seconds=2.5) for until in queue.until] == [True]
    assert looked == ["pool"]


@pytest.mark.parametrize(("status", "goes_on"), [(500, True), (503, True), (404, False)])
async def test_a_worker_outlives_a_server_whose_database_is_away(
    monkeypatch: pytest.MonkeyPatch, status: int, goes_on: bool
) -> None:
    """Twelve answers with 500, a few seconds of our frequent looks, ended every worker, and `millrace up` with them."""
    worker = WarmWorker("pool", limit=1)

    async def refused(self: WarmWorker) -> list[FlowRun]:
        raise httpx.HTTPStatusError(
            "no", request=httpx.Request("GET", "http://server"), response=httpx.Response(status)
        )

    monkeypatch.setattr(BaseWorker, "get_and_submit_flow_runs", refused)
    monkeypatch.setattr("deployments.worker._AFTER_A_FAULT_SECONDS", 0.0)
    if goes_on:
        assert await worker.get_and_submit_flow_runs() == []
    else:
        with pytest.raises(httpx.HTTPStatusError):
            await worker.get_and_submit_flow_runs()
