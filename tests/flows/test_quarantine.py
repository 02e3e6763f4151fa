"""Jobs that keep failing: set aside with the reasons, shown, and sent back by a person."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.states import AwaitingRetry, Completed, Crashed, Failed
from rich.console import Console

from deployments.jobs import retry_job, show_jobs
from flows.attempts import attempt_key
from flows.cloudmesh import cloudmesh_job
from flows.quarantine import QUARANTINED
from flows.reconcile import reconcile
from millrace.errors import Permanent

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.usefixtures("no_history_left")]


class Jobs:
    """Flow runs of jobs, as a worker would have left them."""

    def __init__(self, client: PrefectClient) -> None:
        self.client = client

    async def failed(self, job_id: str, *reasons: str) -> UUID:
        """A job with an attempt for each reason; the last one's flow run."""
        deployment_id = await self.client.create_deployment(await self.client.create_flow(cloudmesh_job), "cpu")
        for attempt, reason in enumerate(reasons, 1):
            run = await self.client.create_flow_run_from_deployment(
                deployment_id,
                name=job_id,
                parameters={"job_address": job_id},
                tags=["millrace"],
                idempotency_key=attempt_key(f"cloudmesh/test/{job_id}", attempt),
            )
            await self.client.set_flow_run_state(run.id, Failed(message=reason), force=True)
        return run.id

    async def name_of(self, run_id: UUID) -> str:
        state = (await self.client.read_flow_run(run_id)).state
        assert state is not None
        return state.name or ""

    async def message_of(self, run_id: UUID) -> str:
        state = (await self.client.read_flow_run(run_id)).state
        assert state is not None
        return state.message or ""


@pytest_asyncio.fixture
async def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Jobs]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILLRACE_DATA_DIR", str(tmp_path))
    async with get_client() as client:
        yield Jobs(client)


def console() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, width=400, highlight=False), written


async def test_a_job_that_failed_as_often_as_it_may_is_set_aside_with_every_reason(jobs: Jobs) -> None:
    given_up = await jobs.failed("hopeless", "no gateway", "still none", "none at all")
    once_more = await jobs.failed("hopeful", "no gateway")
    state = await reconcile(return_state=True)
    assert state.name == "Took up 1"
    assert await jobs.name_of(given_up) == QUARANTINED
    told = await jobs.message_of(given_up)
    assert all(f"attempt {n}: Failed: {why}" in told for n, why in ((1, "no gateway"), (3, "none at all")))
    assert await jobs.name_of(once_more) == "Failed"
    assert (await reconcile(return_state=True)).name == "Nothing to do"


async def test_what_is_in_quarantine_is_shown_and_can_be_sent_back(jobs: Jobs) -> None:
    given_up = await jobs.failed("hopeless", "a", "b", "<c>\x1b[31m")
    await jobs.failed("hopeful", "no gateway")
    await reconcile(return_state=True)
    screen, written = console()
    assert await show_jobs(screen, quarantined=True) == 1
    assert "cloudmesh/test/hopeless" in written.getvalue()
    assert "hopeful" not in written.getvalue()
    assert "\x1b" not in written.getvalue()
    assert await show_jobs(screen, quarantined=False) == 0
    assert "hopeful" in written.getvalue()
    with pytest.raises(Permanent, match="is not in quarantine"):
        await retry_job(screen, "cloudmesh/test/hopeful")
    await retry_job(screen, "cloudmesh/test/hopeless")
    assert await jobs.name_of(given_up) == "AwaitingRetry"
    assert await show_jobs(screen, quarantined=True) == 0


async def test_a_flow_run_that_was_put_back_in_vain_is_set_aside_until_a_person_sends_it_back(jobs: Jobs) -> None:
    run_id = await jobs.failed("dies", "x")
    for _ in range(10):
        await jobs.client.set_flow_run_state(run_id, AwaitingRetry(message="put back by reconcile: x"), force=True)
    await jobs.client.set_flow_run_state(run_id, Crashed(message="killed"), force=True)
    assert (await reconcile(return_state=True)).name == "Took up 1"
    assert await jobs.name_of(run_id) == QUARANTINED
    screen, _ = console()
    await retry_job(screen, "all")
    await jobs.client.set_flow_run_state(run_id, Crashed(message="killed"), force=True)
    assert (await reconcile(return_state=True)).name == "Took up 1"
    assert await jobs.name_of(run_id) == "AwaitingRetry"


async def test_a_job_that_ended_well_in_the_end_is_no_case_for_quarantine(jobs: Jobs) -> None:
    run_id = await jobs.failed("recovers", "a", "b", "c")
    await jobs.client.set_flow_run_state(run_id, Completed(name="Settled"), force=True)
    assert (await reconcile(return_state=True)).name == "Nothing to do"
