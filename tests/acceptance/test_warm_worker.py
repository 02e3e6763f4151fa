"""The warm worker against a real Prefect server, started as `prefect worker start --type warm` starts it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import pytest_asyncio
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling
from warm_flows import endless, ends_while_cancelling, stubborn, tell

from deployments.processes import Processes
from deployments.stack import base_environment, free_port, prefect_environment, start_database_and_server
from deployments.worker import WarmWorker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

HERE = Path(__file__).parent
LIMIT = 2
HOME_OF_FLOWS = [{"prefect.deployments.steps.set_working_directory": {"directory": str(HERE)}}]


@dataclass
class Pool:
    """A work pool of the warm type, its worker, and the deployments `tell` and `stubborn`."""

    folder: Path
    processes: Processes
    environment: dict[str, str]
    client: PrefectClient

    def start_worker(self) -> None:
        command = ["prefect", "worker", "start", "--pool", "warm", "--type", "warm", "--limit", str(LIMIT)]
        self.processes.start("worker", [sys.executable, "-m", *command], self.environment)

    async def deploy(self, flow: Any, name: str, tags: list[str] | None = None, **job_variables: Any) -> UUID:
        return await self.client.create_deployment(
            await self.client.create_flow(flow),
            name,
            entrypoint=f"warm_flows.py:{flow.fn.__name__}",
            pull_steps=HOME_OF_FLOWS,
            work_pool_name="warm",
            tags=tags,
            job_variables=job_variables,
        )

    async def run(self, deployment: UUID, path: Path, **parameters: Any) -> FlowRun:
        return await self.client.create_flow_run_from_deployment(
            deployment, parameters={"path": str(path), **parameters}
        )

    async def until(self, holds: Callable[[FlowRun], bool], run: FlowRun, seconds: float = 40) -> FlowRun:
        deadline = time.monotonic() + seconds
        while not holds(run := await self.client.read_flow_run(run.id)):
            log = self.processes.log_tail("worker", 40)
            assert time.monotonic() < deadline, f"{run.name} is {run.state_name} after {seconds} s\n{log}"
            await asyncio.sleep(0.1)
        return run

    async def ended(self, run: FlowRun, seconds: float = 40) -> FlowRun:
        return await self.until(lambda run: run.state is not None and run.state.is_final(), run, seconds)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    folder = tmp_path_factory.mktemp("warm")
    port = free_port()
    environment = {**base_environment(), **prefect_environment(folder, port), "GREETING": "from the worker"}
    with Processes(folder / "logs") as processes:
        await start_database_and_server(processes, environment, port, folder, durable=False)
        async with PrefectClient(environment["PREFECT_API_URL"]) as client:
            template = WarmWorker.get_default_base_job_template()
            await client.create_work_pool(WorkPoolCreate(name="warm", type="warm", base_job_template=template))
            made = Pool(folder, processes, environment, client)
            made.start_worker()
            yield made


async def written(path: Path, seconds: float = 40) -> dict[str, Any]:
    """What the flow wrote there, once it has."""
    deadline = time.monotonic() + seconds
    while not path.exists() or not path.read_text():  # noqa: ASYNC240
        assert time.monotonic() < deadline, f"nothing at {path} after {seconds} s"
        await asyncio.sleep(0.05)
    found: dict[str, Any] = json.loads(path.read_text())  # noqa: ASYNC240
    return found


async def gone(pid: int, seconds: float = 5) -> None:
    """Return once the process with that id runs no more; it may be reported a moment before it has ended."""
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        await asyncio.sleep(0.05)


async def test_a_flow_run_is_forked_with_the_templates_environment_and_its_output_is_streamed(
    pool: Pool, tmp_path: Path
) -> None:
    deployment = await pool.deploy(tell, "greeted", env={"GREETING": "good morning"})
    run = await pool.ended(await pool.run(deployment, tmp_path / "told"))
    assert run.state_name == "Completed"
    told = await written(tmp_path / "told")
    # The engine itself is the main program of the flow run's process.
    assert (told["forked"], told["missing"], told["greeting"]) == (True, ["prefect.engine"], "good morning")
    assert told["folder"] == str(HERE)
    assert "written" in pool.processes.log_tail("worker", 60)
    await gone(told["pid"])
    logs = await pool.client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
    assert "written" in [log.message for log in logs], "what was logged is sent before the process ends"


async def test_a_template_that_a_running_process_cannot_obey_starts_python_anew(pool: Pool, tmp_path: Path) -> None:
    """Prefect's settings and the interpreter's are read once, at the start."""
    changes: dict[str, dict[str, Any]] = {
        "settings": {"env": {"PREFECT_LOGGING_LEVEL": "DEBUG"}},
        "interpreter": {"env": {"PYTHONWARNINGS": "ignore"}},
        "time zone": {"env": {"TZ": "Asia/Tokyo"}},
        "command": {"command": f"{sys.executable} -m prefect.engine"},
    }
    for name, change in changes.items():
        run = await pool.ended(await pool.run(await pool.deploy(tell, name, **change), tmp_path / name))
        assert run.state_name == "Completed", name
        assert (await written(tmp_path / name))["missing"] != ["prefect.engine"], name
    assert pool.processes.log_tail("worker", 1000).count("starts Python anew") == len(changes)


async def test_what_the_template_sets_to_null_is_not_set(pool: Pool, tmp_path: Path) -> None:
    for name, env, greeting in (("worker's", {}, "from the worker"), ("null", {"GREETING": None}, None)):
        await pool.ended(await pool.run(await pool.deploy(tell, name, env=env), tmp_path / name))
        assert (await written(tmp_path / name))["greeting"] == greeting


async def test_a_killed_process_is_a_crashed_flow_run_within_seconds(pool: Pool, tmp_path: Path) -> None:
    run = await pool.run(await pool.deploy(tell, "killed"), tmp_path / "told", seconds=600)
    told = await written(tmp_path / "told")
    killed_at = time.monotonic()
    psutil.Process(told["pid"]).kill()
    run = await pool.ended(run, 10)
    assert run.state_name == "Crashed"
    assert run.state is not None
    assert "SIGKILL" in (run.state.message or "")
    assert time.monotonic() - killed_at < 5


async def test_a_flow_run_cancelled_in_the_ui_is_ended_and_cancelled(pool: Pool, tmp_path: Path) -> None:
    run = await pool.run(await pool.deploy(tell, "cancelled"), tmp_path / "told", seconds=600)
    told = await written(tmp_path / "told")
    await pool.client.set_flow_run_state(run.id, Cancelling())
    run = await pool.ended(run, 15)
    assert run.state_name == "Cancelled"
    await gone(told["pid"])
    assert not (tmp_path / "told.ended").exists()
    states = [state.name for state in await pool.client.read_flow_run_states(run.id)]
    assert "Crashed" not in states, "the engine was told over Prefect's control channel that it is no crash"
    assert (tmp_path / "told.cancelled").exists(), "and called the flow's hook"


async def test_a_flow_run_that_ends_before_its_cancellation_is_seen_does_not_stay_cancelling(
    pool: Pool, tmp_path: Path
) -> None:
    run = await pool.run(await pool.deploy(ends_while_cancelling, "too late"), tmp_path / "told")
    assert (await pool.ended(run, 20)).state_name == "Cancelled"


async def test_no_more_flow_runs_than_the_limit_at_a_time(pool: Pool, tmp_path: Path) -> None:
    deployment = await pool.deploy(tell, "limited")
    runs = [await pool.run(deployment, tmp_path / str(n), seconds=1.5) for n in range(2 * LIMIT)]
    for run in runs:
        assert (await pool.ended(run)).state_name == "Completed"
    spans = []
    for n in range(2 * LIMIT):
        told = await written(tmp_path / str(n))
        spans.append((told["began"], (await written(tmp_path / f"{n}.ended"))["at"]))
    for began, _ in spans:
        assert sum(start <= began < end for start, end in spans) <= LIMIT


async def test_a_worker_told_to_stop_lets_what_runs_end_and_takes_nothing_new(pool: Pool, tmp_path: Path) -> None:
    deployment = await pool.deploy(tell, "drained")
    run = await pool.run(deployment, tmp_path / "told", seconds=4)
    await written(tmp_path / "told")
    worker = pool.processes.process("worker")
    family = worker.children(recursive=True)
    worker.send_signal(signal.SIGTERM)
    later = await pool.run(deployment, tmp_path / "later")
    assert (await pool.ended(run)).state_name == "Completed"
    await asyncio.to_thread(worker.wait, 20)
    assert (await pool.client.read_flow_run(later.id)).state_name in ("Scheduled", "Late")
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, 5)
    assert alive == [], "the fork server ends with its worker"
    pool.processes.stop("worker")
    pool.start_worker()
    assert (await pool.ended(later)).state_name == "Completed"


async def test_a_stopping_worker_ends_what_would_never_end_and_that_is_no_crash(pool: Pool, tmp_path: Path) -> None:
    deployment = await pool.deploy(endless, "endless", tags=["endless"])
    run = await pool.run(deployment, tmp_path / "told")
    await written(tmp_path / "told")
    worker = pool.processes.process("worker")
    worker.send_signal(signal.SIGTERM)
    assert (await pool.ended(run, 15)).state_name == "Completed"
    await asyncio.to_thread(worker.wait, 20)
    pool.processes.stop("worker")
    pool.start_worker()


async def test_a_crash_while_the_worker_lets_the_last_flow_runs_end_is_reported(pool: Pool, tmp_path: Path) -> None:
    run = await pool.run(await pool.deploy(tell, "killed at the end"), tmp_path / "told", seconds=600)
    told = await written(tmp_path / "told")
    worker = pool.processes.process("worker")
    worker.send_signal(signal.SIGTERM)
    await asyncio.sleep(1)  # the worker gets the signal before its child dies
    psutil.Process(told["pid"]).kill()
    assert (await pool.ended(run, 15)).state_name == "Crashed"
    await asyncio.to_thread(worker.wait, 20)
    pool.processes.stop("worker")
    pool.start_worker()


async def test_a_flow_run_that_will_not_end_is_ended_after_its_grace(pool: Pool, tmp_path: Path) -> None:
    run = await pool.run(await pool.deploy(stubborn, "stubborn"), tmp_path / "told")
    told = await written(tmp_path / "told")
    await pool.client.set_flow_run_state(run.id, Cancelling())
    assert (await pool.ended(run, 60)).state_name == "Cancelled"
    await gone(told["pid"])


async def test_when_the_fork_server_dies_no_flow_run_goes_on_unwatched(pool: Pool, tmp_path: Path) -> None:
    """The worker would report it as crashed, and it would go on: two of one job."""
    run = await pool.run(await pool.deploy(tell, "unwatched"), tmp_path / "told", seconds=600)
    told = await written(tmp_path / "told")
    psutil.Process(told["pid"]).parent().kill()  # type: ignore[union-attr]
    assert (await pool.ended(run, 15)).state_name == "Crashed"
    await gone(told["pid"])
    again = await pool.run(await pool.deploy(tell, "next"), tmp_path / "next")
    assert (await pool.ended(again)).state_name == "Completed"
