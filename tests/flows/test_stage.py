"""Stages as Prefect tasks, on a real Prefect server."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from given_tools import Tools
from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from pydantic import BaseModel

from flows import stage as stage_module
from flows.stage import Defect, Stage, result_key
from flows.workbench import Workbench, working_at
from millrace import redaction
from millrace.errors import Declined, DeclineReason, MillraceError, Permanent, Transient, UnknownOutcome

pytestmark = pytest.mark.usefixtures("prefect_server")


class Grain(BaseModel):
    weight: int


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Retries without the waits between them, and results kept in a folder of the test's own."""
    monkeypatch.setattr(stage_module, "BACKOFF_SECONDS", (0.0,) * 5)
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield


async def run_in_flow(stage: Stage[Any], *inputs: object, job: str = "cloudmesh/test/1", **tools: object) -> State[Any]:
    @flow(name="one-stage")
    async def one_stage() -> Any:
        with working_at(cast("Workbench", Tools(**tools))):
            return await stage(job, *inputs)

    return cast("State[Any]", await one_stage(return_state=True))


async def test_a_stage_gets_its_inputs_and_its_tools() -> None:
    async def grind(weight: int, *, stone: str) -> Grain:
        return Grain(weight=weight + len(stone))

    state = await run_in_flow(Stage("grind", grind), 40, stone="ab")
    assert await state.aresult() == Grain(weight=42)


async def test_a_finished_stage_is_not_done_again_for_the_same_job_and_inputs() -> None:
    calls: list[int] = []

    async def grind(weight: int) -> Grain:
        calls.append(weight)
        return Grain(weight=weight)

    stage = Stage("grind-once", grind)
    first = await run_in_flow(stage, 1)
    again = await run_in_flow(stage, 1)
    assert await again.aresult() == await first.aresult() == Grain(weight=1)
    await run_in_flow(stage, 2)
    await run_in_flow(stage, 1, job="cloudmesh/test/another")
    assert calls == [1, 2, 1]


async def test_a_kept_result_that_holds_no_longer_is_made_anew() -> None:
    """A program fetched into a store that was emptied later: every further attempt said `fetch it first`."""
    store: set[int] = set()
    calls: list[int] = []

    async def fetch(number: int) -> int:
        calls.append(number)
        store.add(number)
        return number

    async def is_kept(number: int) -> bool:
        return number in store

    stage = Stage("fetch-into-store", fetch, holds=is_kept)
    for _ in range(2):
        await run_in_flow(stage, 1)
    assert calls == [1]
    store.clear()
    assert await (await run_in_flow(stage, 1)).aresult() == 1
    assert store == {1}
    await run_in_flow(stage, 1)
    assert calls == [1, 1]


async def test_a_stage_that_must_look_anew_is_done_every_time() -> None:
    calls: list[int] = []

    async def look() -> int:
        calls.append(1)
        return len(calls)

    stage = Stage("look", look, cached=False)
    for _ in range(2):
        await run_in_flow(stage)
    assert len(calls) == 2


@pytest.mark.parametrize("kind", [Transient, UnknownOutcome])
async def test_what_may_pass_is_retried_until_it_does(kind: type[MillraceError]) -> None:
    calls: list[int] = []

    async def flaky() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise kind("not yet")
        return len(calls)

    state = await run_in_flow(Stage(f"flaky-{kind.__name__}", flaky))
    assert await state.aresult() == 3


async def test_retries_are_bounded() -> None:
    calls: list[int] = []

    async def never() -> None:
        calls.append(1)
        raise Transient("busy")

    state = await run_in_flow(Stage("never", never))
    assert state.is_failed()
    assert len(calls) == 6


async def test_what_cannot_pass_is_tried_once_and_names_job_and_stage() -> None:
    calls: list[int] = []

    async def broken() -> None:
        calls.append(1)
        raise Permanent("not a CID", hint="post it again")

    state = await run_in_flow(Stage("broken", broken))
    assert len(calls) == 1
    with pytest.raises(Permanent, match="cloudmesh/test/1: broken: not a CID \\(post it again\\)"):
        await state.aresult()


async def test_a_declined_stage_says_so_in_its_state() -> None:
    async def refuse() -> None:
        raise Declined("0 lamports", reason=DeclineReason.too_poor)

    seen: dict[str, object] = {}

    @flow(name="refusing")
    async def refusing() -> None:
        with working_at(cast("Workbench", Tools())):
            try:
                await Stage("refuse", refuse, cached=False)("cloudmesh/test/1")
            except Declined as error:
                seen["reason"] = error.reason

    await refusing()
    task_runs: list[TaskRun] = []
    async with get_client() as client:
        deadline = time.monotonic() + 60
        while not task_runs and time.monotonic() < deadline:  # the server hears of it by an event
            await asyncio.sleep(0.05)
            task_runs = [run for run in await client.read_task_runs() if run.name.startswith("refuse")]
    assert seen == {"reason": DeclineReason.too_poor}
    assert [run.state_name for run in task_runs] == ["Declined"]


async def test_an_unexpected_error_is_a_defect_and_not_retried() -> None:
    calls: list[int] = []

    async def buggy() -> None:
        calls.append(1)
        raise ZeroDivisionError("division by zero")

    state = await run_in_flow(Stage("buggy", buggy))
    assert len(calls) == 1
    with pytest.raises(Defect, match="ZeroDivisionError"):
        await state.aresult()


async def test_no_secret_reaches_the_api_in_states_or_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exception texts become state messages, which bypass every logging filter."""
    secret = "swordfish-jwt-of-the-operator"
    monkeypatch.setattr(redaction, "_secrets", {secret})

    async def leaky() -> None:
        raise ValueError(f"Authorization: Bearer {secret}")

    async def leaky_on_purpose() -> None:
        raise Permanent(f"refused {secret}", hint=f"token {secret}")

    for name, function in (("leaky", leaky), ("leaky-on-purpose", leaky_on_purpose)):
        state = await run_in_flow(Stage(name, function))
        assert state.is_failed()
    async with get_client() as client:
        texts = [str(run.state) for run in await client.read_task_runs()]
        texts += [str(run.state) for run in await client.read_flow_runs()]
        texts += [log.message for log in await client.read_logs(limit=200)]
    assert any("leaky" in text or "refused" in text for text in texts)
    assert not [text for text in texts if secret in text]


async def test_a_computing_stage_leaves_the_event_loop_free() -> None:
    started, released = threading.Event(), threading.Event()

    def grind() -> bool:
        started.set()
        return released.wait(10)

    async def release() -> None:
        await asyncio.to_thread(started.wait, 10)
        released.set()

    releasing = asyncio.create_task(release())
    state = await run_in_flow(Stage("compute", grind, cached=False))
    await releasing
    assert await state.aresult() is True


def test_a_result_key_tells_job_stage_and_inputs_apart_and_is_a_file_name() -> None:
    keys = {
        result_key("a", "fetch", 1),
        result_key("b", "fetch", 1),
        result_key("a", "execute", 1),
        result_key("a", "fetch", 2),
        result_key("a", "fetch", 1, None),
        result_key("a", "fetch", Grain(weight=1)),
    }
    assert len(keys) == 6
    assert all("/" not in key for key in keys)
    assert result_key("a", "fetch", Grain(weight=1)) == result_key("a", "fetch", Grain(weight=1))


async def test_a_full_disk_is_waited_for_and_told_as_one() -> None:
    """It was called a defect of ours, and not tried again."""
    tries: list[int] = []

    async def write(_: str) -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    state = await run_in_flow(Stage("write", write), "a")
    assert len(tries) > 1
    with pytest.raises(Transient, match="No space left on device"):
        await state.aresult()


@pytest.mark.parametrize("kept_bytes", [0, 1, 40, -1])
async def test_a_result_that_was_torn_when_the_disk_was_full_or_the_process_killed_is_made_anew(
    kept_bytes: int, tmp_path: Path
) -> None:
    """Prefect opens a result's file and then writes it: if it believed what was torn there, the job's every later
    attempt would fail."""
    calls: list[int] = []

    async def grind(weight: int) -> Grain:
        calls.append(weight)
        return Grain(weight=weight)

    stage, job = Stage("grind-torn", grind), f"cloudmesh/test/torn{kept_bytes}"
    await run_in_flow(stage, 1, job=job)
    path = tmp_path / "results" / result_key(job, "grind-torn", 1)
    path.write_bytes(path.read_bytes()[:kept_bytes])
    again = await run_in_flow(stage, 1, job=job)
    assert await again.aresult() == Grain(weight=1)
    assert calls == [1, 1]
    assert (await run_in_flow(stage, 1, job=job)).is_completed()
    assert calls == [1, 1], "this time it is whole"


async def test_a_tool_for_which_there_is_no_room_is_waited_for_too() -> None:
    """The outbox makes folders when it is opened: on a full disk that was a defect of ours, and never tried again."""
    opened: list[int] = []

    class Full(Tools):
        async def tool(self, name: str) -> Any:
            opened.append(1)
            if len(opened) < 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return name

    async def grind(*, stone: str) -> str:
        return stone

    stage = Stage("grind-without-room", grind)

    @flow(name="one-stage")
    async def one_stage() -> Any:
        with working_at(cast("Workbench", Full())):
            return await stage("cloudmesh/test/room")

    assert await one_stage() == "stone"
