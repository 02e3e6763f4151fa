"""From pending jobs to flow runs, on a real Prefect server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prefect import State
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Failed, Scheduled

from flows import ahead as ahead_module
from flows.cloudmesh import cloudmesh_job
from flows.dispatch import Dispatcher
from flows.networks import COORDINATOR, network
from millrace.job import Job
from millrace.settings import Settings

pytestmark = pytest.mark.usefixtures("prefect_server")

JOB = Job(network="cloudmesh", chain_id="test", job_id="pending")
EPOCH = datetime.fromtimestamp(0, UTC)


@pytest_asyncio.fixture
async def client() -> AsyncIterator[PrefectClient]:
    """A client of a server without flow runs, whatever other tests have left there."""
    async with get_client() as client:
        await forget_flow_runs(client)
        yield client
        await forget_flow_runs(client)


async def forget_flow_runs(client: PrefectClient) -> None:
    while runs := await client.read_flow_runs():
        for run in runs:
            await client.delete_flow_run(run.id)


async def dispatcher(client: PrefectClient, folder: Path, **fields: Any) -> Dispatcher:
    await client.create_deployment(await client.create_flow(cloudmesh_job), "cpu")
    settings = Settings(data_dir=folder, attempt_cooldown_seconds=0, **fields)
    return await Dispatcher.create(client, network("cloudmesh"), settings)


async def test_a_job_gets_one_flow_run_however_often_it_is_seen(client: PrefectClient, tmp_path: Path) -> None:
    dispatching = await dispatcher(client, tmp_path)
    assert [await dispatching.start([JOB]) for _ in range(3)] == [1, 0, 0]
    assert len(await client.read_flow_runs()) == 1


async def test_a_job_declined_for_now_is_repeated_in_the_same_flow_run(client: PrefectClient, tmp_path: Path) -> None:
    dispatching = await dispatcher(client, tmp_path, max_attempts=1)
    await dispatching.start([JOB])
    (run,) = await client.read_flow_runs()
    for _ in range(3):
        declined: State[Any] = Cancelled(name="Declined", message="no_sandbox: bubblewrap is missing")
        await client.set_flow_run_state(run.id, declined, force=True)
        assert await dispatching.start([JOB]) == 1
        (again,) = await client.read_flow_runs()
        assert (again.id, again.state_name) == (run.id, "Scheduled")


async def test_a_job_that_is_soon_too_late_is_tried_again_soon(client: PrefectClient, tmp_path: Path) -> None:
    """The chain resumes a request for 200 blocks: the next attempt came after five minutes, when it was too late."""
    await client.create_deployment(await client.create_flow(cloudmesh_job), "cpu")
    settings = Settings(data_dir=tmp_path, attempt_cooldown_seconds=300)
    assert network("offchainvm").longest_cooldown_seconds == COORDINATOR.longest_cooldown_seconds == 15
    for source, started in ((network("cloudmesh"), 0), (replace(network("cloudmesh"), longest_cooldown_seconds=0), 1)):
        dispatching = await Dispatcher.create(client, source, settings)
        await dispatching.start([JOB])
        for run in await client.read_flow_runs():
            await client.set_flow_run_state(run.id, Failed(), force=True)
        assert await dispatching.start([JOB]) == started


async def test_a_failed_job_gets_another_flow_run(client: PrefectClient, tmp_path: Path) -> None:
    dispatching = await dispatcher(client, tmp_path, max_attempts=2)
    for attempt in (1, 2):
        assert await dispatching.start([JOB]) == 1
        runs = await client.read_flow_runs()
        assert len(runs) == attempt
        for run in runs:
            await client.set_flow_run_state(run.id, Failed(), force=True)
    assert await dispatching.start([JOB]) == 0


@pytest.fixture(params=[3_600, -3_600], ids=["ahead", "behind"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's clock is an hour off; the server's is right."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Wrong:
            return cls.fromtimestamp(time.time() + request.param, tz)

    monkeypatch.setattr(ahead_module, "datetime", Wrong)
    monkeypatch.setattr("prefect.states.now", lambda: Wrong.now(UTC))


@pytest.mark.usefixtures("wrong_clock")
async def test_the_cooldown_of_a_failed_job_is_kept_by_a_machine_whose_clock_is_wrong(
    client: PrefectClient, tmp_path: Path
) -> None:
    """Its attempts were used up within seconds, and the job put into quarantine."""
    await dispatcher(client, tmp_path)
    settings = Settings(data_dir=tmp_path, attempt_cooldown_seconds=300)
    dispatching = await Dispatcher.create(client, network("cloudmesh"), settings)
    assert await dispatching.start([JOB]) == 1
    (run,) = await client.read_flow_runs()
    await client.set_flow_run_state(run.id, Failed(), force=True)
    assert await dispatching.start([JOB]) == 0


@pytest.mark.usefixtures("wrong_clock")
async def test_a_job_found_by_a_machine_whose_clock_is_wrong_begins_now(client: PrefectClient, tmp_path: Path) -> None:
    """Its process was started at once by a worker with the same clock, and the server let it wait for an hour."""
    dispatching = await dispatcher(client, tmp_path)
    jobs = [JOB.model_copy(update={"job_id": str(n)}) for n in range(3)]
    assert await dispatching.start(jobs) == 3
    runs = await client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_ASC)
    assert [run.parameters["job_address"] for run in runs] == ["0", "1", "2"], "in the order that they were found in"
    for run in runs:
        await client.set_flow_run_state(run.id, Cancelled(name="Declined", message="no_sandbox: none"), force=True)
    assert await dispatching.start(jobs[:1]) == 1, "repeated"
    for run in (*runs, await client.read_flow_run(runs[0].id)):
        assert run.state is not None
        assert run.state_name in ("Scheduled", "AwaitingRetry")
        assert abs((run.state.state_details.scheduled_time or EPOCH) - datetime.now(UTC)) < timedelta(seconds=60)


async def test_more_than_a_page_of_unfinished_flow_runs_leaves_no_room(client: PrefectClient, tmp_path: Path) -> None:
    """Prefect answers at most 200 flow runs at once: from 200 in flight on, there was always room for more."""
    dispatching = await dispatcher(client, tmp_path, max_in_flight=202)
    deployment = await client.read_deployment_by_name("cloudmesh-job/cpu")
    for _ in range(202):
        await client.create_flow_run_from_deployment(deployment.id, state=Scheduled())
    assert await dispatching.start([JOB]) == 0


async def test_a_network_is_told_which_jobs_have_a_flow_run_now(client: PrefectClient, tmp_path: Path) -> None:
    """What was never begun for want of room would be missed without a word when its block is too old."""
    jobs = [Job(network="cloudmesh", chain_id="test", job_id=name) for name in ("first", "second")]
    dispatching = await dispatcher(client, tmp_path, max_in_flight=1)
    begun: list[str] = []
    assert await dispatching.start(jobs, lambda found: begun.extend(job.job_id for job in found)) == 1
    assert begun == ["first"]
