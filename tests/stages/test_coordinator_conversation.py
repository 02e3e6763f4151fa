"""The worker's talk with its coordinator, against a local one: asking, keeping, telling, heartbeats, bad days."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from pydantic import SecretStr

from localnet.coordinator import CoordinatorLocalnet, compile_task, execution
from protocols.coordinator.client import Coordinator
from protocols.coordinator.executions import Capability, ErrorCategory
from protocols.coordinator.link import NotLetIn, Refused
from stages.discover.coordinator import Desk
from stages.discover.coordinator_conversation import Conversation
from stages.submit.coordinator import Report

TOKEN = "token-of-a-test-worker"


class World:
    """A coordinator, a client of it and a desk; time stands still."""

    def __init__(self, net: CoordinatorLocalnet, client: Coordinator, folder: Path) -> None:
        self.net, self.board, self.client = net, net.board, client
        self.seconds = 1_760_000_000.0
        self.desk = Desk(folder / "desk", lambda: self.seconds)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)

    async def rested(self, times: int = 1) -> None:
        """Return once somebody has slept so often."""
        for _ in range(1_000):
            if len(self.slept) >= times:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("nobody sleeps")

    def talk(self, api: Literal["tasks", "jobs"] = "jobs", worker_id: str = "ours") -> Conversation:
        return Conversation(
            self.client,
            self.desk,
            api=api,
            worker_id=worker_id,
            worker_name="a test",
            capabilities=lambda: list(Capability),
            poll_seconds=1,
            clock=lambda: self.seconds,
            sleep=self.sleep,
            jitter=lambda: 1.0,
        )


@pytest.fixture
def net() -> Iterator[CoordinatorLocalnet]:
    with CoordinatorLocalnet(token=TOKEN) as running:
        yield running


@pytest_asyncio.fixture
async def world(net: CoordinatorLocalnet, tmp_path: Path) -> AsyncIterator[World]:
    async with Coordinator(net.url, SecretStr(TOKEN), timeout_seconds=0.5) as client:
        yield World(net, client, tmp_path)


def report(request_id: int = 5, coordinators_id: int | None = None, **fields: Any) -> Report:
    told = {"success": True, "output_base64": "NDI=", "time_ms": 12, "instructions": 1_000, **fields}
    return Report(
        job_id=f"{request_id}-{request_id:064x}",
        request_id=request_id,
        made_at=1.0,
        coordinators_id=coordinators_id,
        **told,
    )


# ---- asking ----


async def test_what_comes_is_on_the_disk_whichever_api_it_is(world: World) -> None:
    world.board.create_task(compile_task(5))
    world.board.create_execution(execution(6))
    assert await world.talk("tasks").ask()
    assert await world.talk("jobs").ask()
    task, request = world.desk.open()
    assert (task.request_id, task.task is not None, task.is_ours) == (5, True, True)
    assert (request.request_id, request.execution is not None, request.is_ours) == (6, True, False)


async def test_nothing_to_do_is_no_failure(world: World) -> None:
    talk = world.talk()
    assert not await talk.ask()
    assert (talk.pause_seconds, world.desk.open()) == (0.0, [])


@pytest.mark.parametrize("kind", ["status", "reset", "malformed", "other_json"])
async def test_after_each_failure_it_waits_longer_and_after_an_answer_not_at_all(world: World, kind: str) -> None:
    world.board.fail("executions_poll", times=8, kind=kind, status=500)
    talk = world.talk()
    pauses = []
    for _ in range(8):
        assert not await talk.ask()
        pauses.append(talk.pause_seconds)
    if kind != "other_json":
        assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    world.board.create_execution(execution(6))
    assert await talk.ask()
    assert talk.pause_seconds == 0.0


async def test_a_token_that_is_not_known_ends_it(world: World) -> None:
    world.board.deactivate_tokens()
    with pytest.raises(NotLetIn, match="MILLRACE_COORDINATOR__TOKEN"):
        await world.talk("tasks").ask()


async def test_the_other_api_is_told_from_a_bad_day(world: World) -> None:
    world.board.fail("executions_poll", status=404)
    with pytest.raises(Refused, match="other of the two APIs"):
        await world.talk().ask()


async def test_a_task_that_makes_no_sense_is_told_as_failed_and_asking_goes_on(world: World) -> None:
    world.board.push("tasks", {**compile_task(7), "type": "Compile", "code_source": {"type": "GitHub", "repo": 1}})
    talk = world.talk("tasks")
    assert not await talk.ask()
    (failure,) = world.desk.reports.waiting()
    assert await talk.tell(failure)
    (told,) = world.board.reports("tasks_fail")
    assert (told["request_id"], "malformed task" in told["error"]) == (7, True)


async def test_a_task_created_twice_is_one_piece_of_work(world: World) -> None:
    talk = world.talk("tasks")
    for fresh in (True, False):
        world.board.create_task(compile_task(5))
        assert await talk.ask() is fresh
    assert (talk.taken, len(world.desk.open())) == (1, 1)


# ---- telling ----


async def test_each_end_is_told_by_the_call_that_is_for_it(world: World) -> None:
    talk = world.talk()
    for each in (report(5), report(6, ran=False, success=False, error="no such commit", output_base64=None)):
        world.desk.reports.put(each)
        assert await talk.tell(each)
    (complete,) = world.board.reports("tasks_complete")
    assert (complete["output"], complete["execution_time_ms"], complete["instructions"]) == ([52, 50], 12, 1_000)
    assert world.board.reports("tasks_fail") == [{"request_id": 6, "error": "no such commit"}]
    assert world.desk.reports.waiting() == []


@pytest.mark.parametrize("kind", ["status", "reset", "hang", "lost_reply"])
async def test_what_cannot_be_told_is_kept_and_told_later(world: World, kind: str) -> None:
    world.desk.reports.put(report())
    world.board.fail("tasks_complete", kind=kind, status=500)
    telling = asyncio.ensure_future(world.talk().tell_on())
    try:
        for _ in range(500):
            if not world.desk.reports.waiting():
                break
            await asyncio.sleep(0.01)
    finally:
        telling.cancel()
    assert world.desk.reports.waiting() == []
    assert len(world.board.reports("tasks_complete")) == (2 if kind == "lost_reply" else 1)
    assert sum(world.slept) >= 10


async def test_a_job_that_the_coordinator_does_not_know_is_told_no_more(world: World) -> None:
    world.desk.reports.put(report(5, 99))
    assert await world.talk().tell(report(5, 99))
    assert world.desk.reports.waiting() == []


async def test_a_report_that_was_told_is_never_told_again(world: World) -> None:
    world.desk.reports.put(report())
    await world.talk().tell(report())
    world.desk.reports.put(report())
    assert world.desk.reports.waiting() == []


async def test_a_failure_of_a_job_has_its_category(world: World) -> None:
    world.board.create_execution(execution(5))
    job = await world.client.jobs.claim(await polled(world), "ours", list(Capability))
    assert job is not None
    failed = report(
        5,
        job.jobs[0].job_id,
        success=False,
        error="error: no",
        category=ErrorCategory.compilation_failed,
        output_base64=None,
        compile_cost_yocto=10**20,
    )
    assert await world.talk().tell(failed)
    (told,) = world.board.reports("jobs_complete")
    assert (told["error_category"], told["compile_cost_yocto"]) == ("compilation_failed", str(10**20))


async def polled(world: World) -> Any:
    return await world.client.jobs.poll(list(Capability), 1)


# ---- heartbeats ----


async def test_heartbeats_say_what_is_so(world: World) -> None:
    talk = world.talk()

    async def state() -> tuple[str, int | None]:
        living = asyncio.ensure_future(talk.live_on())
        await world.rested()
        living.cancel()
        world.slept.clear()
        told = world.board.heartbeats()["ours"]
        return told["status"], told["current_task_id"]

    assert await state() == ("offline", None)
    talk.asks = True
    assert await state() == ("online", None)
    world.board.create_execution(execution(6))
    await talk.ask()
    assert await state() == ("busy", 6)
    assert world.board.heartbeats()["ours"]["last_poll_at"].startswith("2025-10-09T")
    await talk.leave()
    assert world.board.heartbeats()["ours"]["status"] == "offline"


async def test_a_heartbeat_comes_when_something_changes_and_every_half_minute(world: World) -> None:
    """A worker that began to ask was `offline` to the coordinator for its first half minute."""
    talk, began = world.talk(), world.seconds
    heard: dict[int, int] = {}

    async def sleep(seconds: float) -> None:
        heard[int(world.seconds - began)] = world.board.calls["heartbeat"]
        world.seconds += seconds
        talk.asks = world.seconds - began >= 10
        if world.seconds - began > 50:
            raise asyncio.CancelledError

    talk._sleep = sleep
    with pytest.raises(asyncio.CancelledError):
        await talk.live_on()
    assert {at: heard[at] for at in (0, 8, 10, 38, 40, 50)} == {0: 1, 8: 1, 10: 2, 38: 2, 40: 3, 50: 3}
    assert world.board.heartbeats()["ours"]["status"] == "online"


async def test_early_knows_no_heartbeats_and_gets_none(world: World) -> None:
    talk = world.talk("tasks")
    living = asyncio.ensure_future(talk.live_on())
    await world.rested()
    living.cancel()
    await talk.leave()
    assert world.board.calls["heartbeat"] == 0


async def test_a_heartbeat_that_fails_keeps_nobody_from_working(world: World) -> None:
    world.board.fail("heartbeat", times=10, status=500)
    talk = world.talk()
    living = asyncio.ensure_future(talk.live_on())
    await world.rested(2)
    assert not living.done()
    living.cancel()
    await talk.leave()


async def test_leaving_tells_what_is_left(world: World) -> None:
    world.desk.reports.put(report())
    await world.talk().leave()
    assert len(world.board.reports("tasks_complete")) == 1
