from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect import State
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import TagsContext
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed
from rich.console import Console

from deployments import prepare
from deployments.demo_challenges import begun_challenges
from deployments.demo_jobs import JOBS
from deployments.prepare import ensure_server_is_known, until_server_answers
from deployments.stack import POOLS, PROJECT, pinned_settings, prefect_environment
from deployments.warm_start import PRELOADED
from flows.networks import networks
from flows.reconcile import TAG_OF_ALL
from millrace.errors import Permanent, Transient
from millrace.settings import Settings, load_settings

SHOW = """from millrace.settings import load_settings
settings = load_settings()
print(settings.data_dir, settings.cloudmesh.keypair_path, settings.max_attempts)"""


def test_a_flow_run_in_another_folder_uses_its_workers_key_data_and_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flow runs work in the project's folder: they made a second key there, and nobody funded it."""
    operator, elsewhere = tmp_path / "operator", tmp_path / "elsewhere"
    for folder in (operator, elsewhere):
        folder.mkdir()
    (operator / ".env").write_text("MILLRACE_MAX_ATTEMPTS=9\n")
    monkeypatch.chdir(operator)
    environment = {**os.environ, **pinned_settings(load_settings())}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == [str(operator / ".millrace"), str(operator / "worker-keypair.json"), "9"]


def test_every_user_gets_a_temporary_folder_of_his_own(tmp_path: Path) -> None:
    """Prefect's runner keeps files in <temporary folder>/runner_storage, which belongs to whoever ran first."""
    folder = Path(prefect_environment(tmp_path, 4200)["TMPDIR"])
    assert folder.is_relative_to(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_worker_without_a_server_refuses_instead_of_starting_one_that_nobody_ends() -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(Permanent, match="PREFECT_API_URL"):
        ensure_server_is_known()


class _Server:
    """A server that does not answer the first times."""

    def __init__(self, silent: int) -> None:
        self.silent = silent
        self.asked = 0

    async def health(self) -> Exception | None:
        self.asked += 1
        return OSError("nobody listens") if self.asked <= self.silent else None


async def test_a_worker_that_starts_before_its_server_waits_for_it() -> None:
    """It ended with a traceback, and `millrace up` with it, when the server was being started again."""
    server, said = _Server(2), io.StringIO()
    await until_server_answers(Console(file=said, width=200), server.health, poll_seconds=0)
    assert server.asked == 3
    assert said.getvalue().count("waiting for the Prefect server") == 1


async def test_a_worker_whose_server_never_answers_says_which() -> None:
    seconds = iter(range(0, 1_000, 100))
    with pytest.raises(Transient, match="does not answer: nobody listens"):
        await until_server_answers(
            Console(file=io.StringIO()), _Server(100).health, poll_seconds=0, clock=lambda: float(next(seconds))
        )


async def test_what_a_starting_worker_reconciles_with_is_found_by_the_next_if_it_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its flow run belongs to no deployment: without our tag it seemed to run, and its lease lay there, for ever."""
    seen: list[set[str]] = []

    async def reconciled(**_: Any) -> State[Any]:
        seen.append(set(TagsContext.get().current_tags))
        return Completed(name="Nothing to do")

    async def well(self: PrefectClient) -> None:
        return None

    monkeypatch.setattr(prepare, "reconcile", reconciled)
    monkeypatch.setattr(PrefectClient, "api_healthcheck", well)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        await prepare.prepare_worker(Settings(_env_file=None, data_dir=tmp_path), Console(file=io.StringIO()), "cpu")
    assert seen == [{TAG_OF_ALL}]


def test_the_demo_expects_of_the_memory_hog_what_the_machine_can_enforce() -> None:
    (hog,) = [job for job in JOBS if job.status == "oom"]
    assert (hog.without_groups().status, hog.without_groups().shows) == ("exit", "MemoryError")
    assert [job.without_groups() for job in JOBS if job is not hog] == [job for job in JOBS if job is not hog]


def test_every_pool_and_network_of_the_deployments_is_one_that_is_made_and_served() -> None:
    """A deployment in a pool that nobody makes waits for ever."""
    declared = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    assert {each["work_pool"]["name"] for each in declared} == set(POOLS)
    watched = {each["parameters"]["network"] for each in declared if each["name"].startswith("watch-")}
    assert watched == set(networks())
    for served in networks().values():
        flow, _, name = served.deployment.partition("/")
        (found,) = [each for each in declared if each["name"] == name and flow.partition("-")[0] in each["entrypoint"]]
        assert found["work_pool"]["name"] == served.pool


def test_the_flows_of_all_deployments_are_imported_before_a_flow_run_starts() -> None:
    declared = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    assert {each["entrypoint"].rpartition(".")[0] for each in declared} <= set(PRELOADED)


def test_flows_are_imported_without_what_only_a_child_computes_with() -> None:
    """NumPy starts threads, and each flow run's process is forked from the one that imported the flows."""
    names = [name for name in PRELOADED if name.startswith("flows.")]
    script = f"import sys, {', '.join(names)}; print([name for name in ('numpy', 'cupy') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def run_of(job_id: str) -> FlowRun:
    return FlowRun(flow_id=uuid4(), parameters={"job_id": job_id})


def test_the_demo_follows_the_first_challenges_in_the_order_of_their_blocks() -> None:
    runs = {job_id: run_of(job_id) for job_id in ("25-aa", "5-bb", "10-cc", "15-dd")}
    runs["an address"] = FlowRun(flow_id=uuid4(), parameters={"job_address": "an address"})
    assert [challenge.job_id for challenge in begun_challenges(runs)] == ["5-bb", "10-cc", "15-dd"]
    assert [challenge.job_id for challenge in begun_challenges({"5-bb": run_of("5-bb")})] == ["5-bb", "", ""]
