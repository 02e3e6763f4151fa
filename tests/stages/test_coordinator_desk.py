"""What a coordinator handed out, on the disk: taken once, ended once, never between the two lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from localnet.coordinator import CoordinatorLocalnet, compile_task, execution
from millrace.errors import Permanent, Transient
from millrace.settings import CoordinatorSettings, Settings
from protocols.coordinator.client import Coordinator
from protocols.coordinator.executions import PolledExecution, execution_of
from protocols.coordinator.link import Refused
from protocols.coordinator.tasks import Task, task_of
from stages.discover.claim import claim_work
from stages.discover.coordinator import Desk, Handed, desk_of, desks_of
from stages.discover.coordinator_opening import worker_id_of
from stages.submit.coordinator import Report


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk", Clock())


def task(request_id: int = 5) -> Task:
    return task_of({"type": "Compile", **compile_task(request_id)})


def request(request_id: int = 5, **more: Any) -> PolledExecution:
    return execution_of(execution(request_id, **more))


def taken(desk: Desk) -> Handed:
    handed = desk.find(JOB)
    assert handed is not None
    return handed


def report(desk: Desk, job_id: str, *, success: bool = True) -> Report:
    handed = desk.find(job_id)
    assert handed is not None
    return Report(job_id=job_id, request_id=5, made_at=handed.times, times=handed.times, success=success, error="e")


JOB = f"5-{5:064x}"


def test_work_outlives_the_process_that_took_it(desk: Desk, tmp_path: Path) -> None:
    assert desk.take(task())
    (found,) = Desk(tmp_path / "desk", Clock()).open()
    assert (found.job_id, found.task) == (JOB, task())


def test_a_task_that_comes_twice_is_one(desk: Desk) -> None:
    assert [desk.take(task()) for _ in range(2)] == [True, False]
    desk.end(taken(desk), [report(desk, JOB)], success=True)
    assert not desk.take(task())
    assert desk.open() == []


def test_a_task_that_failed_and_is_handed_out_again_is_done_and_told_again(desk: Desk) -> None:
    desk.take(task())
    desk.end(taken(desk), [report(desk, JOB, success=False)], success=False)
    assert desk.take(task())
    desk.end(taken(desk), [report(desk, JOB)], success=True)
    assert [each.success for each in desk.reports.waiting()] == [False, True]


def test_a_request_that_comes_while_the_one_before_ends_is_not_lost(desk: Desk) -> None:
    """A compilation's end has its execution queued, which may come before the compilation's flow run has ended."""
    desk.take(request())
    assert not desk.take(request(compile_result="built"))
    desk.end(taken(desk), [], success=True)
    (again,) = desk.open()
    assert (again.times, again.claimed, again.execution) == (1, (), request(compile_result="built"))
    desk.end(taken(desk), [], success=True)
    assert desk.open() == []


def test_ending_again_changes_nothing(desk: Desk) -> None:
    desk.take(task())
    desk.end(taken(desk), [report(desk, JOB)], success=True)
    desk.end(taken(desk), [report(desk, JOB, success=False)], success=False)
    assert [each.success for each in desk.reports.waiting()] == [True]
    found = desk.find(JOB)
    assert found is not None
    assert (found.ended, found.success) == (True, True)


def test_who_had_it_before_does_not_end_what_came_again(desk: Desk) -> None:
    """It was told as failed, and its execution, which waited behind it, was lost."""
    desk.take(request())
    desk.take(request(compile_result="built"))
    before = taken(desk)
    desk.end(before, [], success=True)
    desk.end(before, [report(desk, JOB, success=False)], success=False)
    assert [handed.times for handed in desk.open()] == [1]
    assert desk.reports.waiting() == []


def test_a_file_that_is_damaged_does_not_stop_the_others(desk: Desk, tmp_path: Path) -> None:
    desk.take(task(5))
    desk.take(task(6))
    damaged = min((tmp_path / "desk" / "open").glob("*.json"))
    damaged.write_text("{")
    assert len(desk.open()) == 1
    assert damaged.with_suffix(".damaged").exists()


def test_no_name_of_a_job_leads_out_of_the_folder(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    assert desk.find("../../secret") is None


def test_work_of_a_former_coordinator_is_still_found(tmp_path: Path) -> None:
    former = Settings(data_dir=tmp_path, coordinator=CoordinatorSettings(url="https://former.example"))
    desk_of(former).take(task())
    (desk,) = desks_of(Settings(data_dir=tmp_path))
    assert desk.find(JOB) is not None
    other = Settings(data_dir=tmp_path, coordinator=CoordinatorSettings(url="https://other.example"))
    assert desk_of(other).find(JOB) is None


# ---- who we are ----


def test_a_workers_id_is_made_once(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert worker_id_of(settings) == worker_id_of(settings) != worker_id_of(Settings(data_dir=tmp_path / "other"))
    named = Settings(data_dir=tmp_path, coordinator=CoordinatorSettings(worker_id="mine"))
    assert worker_id_of(named) == "mine"
    with pytest.raises(Permanent, match="WORKER_ID"):
        worker_id_of(Settings(data_dir=tmp_path, coordinator=CoordinatorSettings(worker_id="a\nb")))


# ---- claims ----


@pytest.fixture
def net() -> Iterator[CoordinatorLocalnet]:
    with CoordinatorLocalnet() as running:
        yield running


@pytest_asyncio.fixture
async def coordinator(net: CoordinatorLocalnet) -> AsyncIterator[Coordinator]:
    async with Coordinator(net.url, SecretStr(""), timeout_seconds=2) as client:
        yield client


def settings(folder: Path, worker_id: str = "ours") -> Settings:
    return Settings(data_dir=folder, coordinator=CoordinatorSettings(worker_id=worker_id))


def ready(net: CoordinatorLocalnet) -> PolledExecution:
    """A request whose module the coordinator has."""
    source = {"type": "WasmUrl", "url": "https://a.example/m.wasm", "hash": "ab" * 32, "build_target": None}
    net.board.put_wasm("ab" * 32, "0061736d01000000")
    return request(code_source=source)


async def test_of_two_workers_one_gets_the_job(
    net: CoordinatorLocalnet, coordinator: Coordinator, tmp_path: Path
) -> None:
    execution = ready(net)
    desks = [Desk(tmp_path / name, Clock()) for name in ("a", "b")]
    for desk in desks:
        desk.take(execution)
    claims = [
        claim_work(JOB, desk=desk, coordinator=coordinator, settings=settings(tmp_path, name))
        for desk, name in zip(desks, ("a", "b"), strict=True)
    ]
    assert sorted(handed.is_ours for handed in await asyncio.gather(*claims)) == [False, True]
    assert len(net.board.job_states()) == 1


async def test_a_claim_is_made_once_and_kept(
    net: CoordinatorLocalnet, coordinator: Coordinator, desk: Desk, tmp_path: Path
) -> None:
    desk.take(ready(net))
    for _ in range(2):
        handed = await claim_work(JOB, desk=desk, coordinator=coordinator, settings=settings(tmp_path))
        assert [job.job_type for job in handed.claimed] == ["execute"]
    assert net.board.calls["jobs_claim"] == 1
    assert handed.pricing is not None


async def test_a_claim_that_failed_before_it_was_made_is_made_again(
    net: CoordinatorLocalnet, coordinator: Coordinator, desk: Desk, tmp_path: Path
) -> None:
    desk.take(ready(net))
    net.board.fail("jobs_claim", status=503)
    with pytest.raises(Transient):
        await claim_work(JOB, desk=desk, coordinator=coordinator, settings=settings(tmp_path))
    handed = await claim_work(JOB, desk=desk, coordinator=coordinator, settings=settings(tmp_path))
    assert (len(handed.claimed), handed.alone) == (1, False)


@pytest.mark.parametrize("status", [404, 422])
async def test_a_claim_that_was_refused_was_not_made(
    net: CoordinatorLocalnet, coordinator: Coordinator, desk: Desk, tmp_path: Path, status: int
) -> None:
    """Only a claim without an answer may be ours without our knowing."""
    desk.take(ready(net))
    net.board.fail("jobs_claim", status=status)
    with pytest.raises(Refused):
        await claim_work(JOB, desk=desk, coordinator=coordinator, settings=settings(tmp_path))
    other = Desk(tmp_path / "other", Clock())
    other.take(ready(net))
    assert (await claim_work(JOB, desk=other, coordinator=coordinator, settings=settings(tmp_path, "other"))).claimed
    handed = await claim_work(JOB, desk=desk, coordinator=coordinator, settings=settings(tmp_path))
    assert not handed.is_ours


async def test_a_conflict_is_somebody_elses_job(
    net: CoordinatorLocalnet, coordinator: Coordinator, desk: Desk, tmp_path: Path
) -> None:
    desk.take(ready(net))
    net.board.fail("jobs_claim", status=409)
    handed = await claim_work(JOB, desk=desk, coordinator=coordinator, settings=settings(tmp_path))
    assert not handed.is_ours


async def test_a_claim_whose_answer_was_lost_is_taken_for_ours(
    net: CoordinatorLocalnet, coordinator: Coordinator, desk: Desk, tmp_path: Path
) -> None:
    desk.take(ready(net))
    net.board.fail("jobs_claim", kind="lost_reply")
    with pytest.raises(Transient):
        await claim_work(JOB, desk=desk, coordinator=coordinator, settings=settings(tmp_path))
    handed = await claim_work(JOB, desk=desk, coordinator=coordinator, settings=settings(tmp_path))
    assert (handed.claimed, handed.alone, handed.is_ours) == ((), True, True)


async def test_a_task_needs_no_claim(desk: Desk, tmp_path: Path) -> None:
    desk.take(task())
    handed = await claim_work(JOB, desk=desk, coordinator=None, settings=settings(tmp_path))
    assert handed.is_ours
