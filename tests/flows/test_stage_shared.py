"""Stages whose results all jobs share: done once, by one at a time, on a real Prefect server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from given_tools import Tools
from prefect import State, flow
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from redis_server import PROGRAM, needs_redis, serving

from flows import stage as stage_module
from flows.locks.choice import Locks
from flows.locks.files import FileLocks
from flows.locks.fleet import RedisLocks
from flows.stage import Stage, result_key
from flows.workbench import Workbench, working_at
from millrace.errors import Declined, DeclineReason, Permanent, Transient
from stages.locks.server import connect

pytestmark = pytest.mark.usefixtures("prefect_server")

ONE, OTHER, THIRD = "near/test/1", "near/test/2", "near/test/3"
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Retries without the waits between them, and results kept in a folder of the test's own."""
    monkeypatch.setattr(stage_module, "BACKOFF_SECONDS", (0.0,) * 5)
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield tmp_path / "results"


@pytest.fixture(params=["files", "fleet"])
def locks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Locks]:
    if request.param == "files":
        yield partial(FileLocks, tmp_path / "locks")
        return
    if PROGRAM is None:
        pytest.skip("redis-server is not installed")
    with serving(tmp_path) as (url, _):
        client = connect(url)
        yield partial(RedisLocks, client, ttl_seconds=2.0)
        client.close()


@pytest.fixture
def run(locks: Locks) -> Run:
    return partial(run_in_flow, locks)


async def run_in_flow(locks: Locks, stage: Stage[Any], *inputs: object, job: str = ONE) -> State[Any]:
    @flow(name="one-shared-stage")
    async def one_stage() -> Any:
        with working_at(cast("Workbench", Tools(locks=locks))):
            return await stage(job, *inputs)

    return cast("State[Any]", await one_stage(return_state=True))


async def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def kept_in(folder: Path) -> list[Path]:
    return list(folder.glob("millrace-*"))


async def test_jobs_with_the_same_inputs_share_one_result(run: Run) -> None:
    calls: list[str] = []

    async def build(recipe: str) -> str:
        calls.append(recipe)
        return f"{recipe} {len(calls)}"

    stage = Stage("build-shared", build, shared=True)
    first, again = await run(stage, "a", job=ONE), await run(stage, "a", job=OTHER)
    assert await first.aresult() == await again.aresult() == "a 1"
    assert await (await run(stage, "b", job=ONE)).aresult() == "b 2"
    assert await (await run(Stage("build-otherwise", build, shared=True), "a")).aresult() == "a 3"
    assert await (await run(Stage("build-shared", build), "a")).aresult() == "a 4"


async def test_of_several_at_once_one_works_and_the_others_wait(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """All in one event loop: a wait that blocked it would never end."""
    calls: list[int] = []

    async def build() -> int:
        calls.append(1)
        await asyncio.sleep(0.5)
        return len(calls)

    stage = Stage("build-at-once", build, shared=True, tell=lambda number: f"number {number}")
    with caplog.at_level(logging.INFO, "millrace"):
        states = await asyncio.gather(*(run(stage, job=job) for job in (ONE, OTHER, THIRD)))
    assert [await state.aresult() for state in states] == [1, 1, 1]
    assert len(calls) == 1
    told = [record.getMessage() for record in caplog.records if record.name.startswith("millrace.")]
    assert sum(f"process {os.getpid()}" in line and "waits for near/test/" in line for line in told) >= 2
    assert sum("waited" in line for line in told) == 2
    assert sum("done before: number 1" in line for line in told) == 2


async def test_a_failure_is_not_shared(run: Run) -> None:
    calls: list[int] = []

    async def build() -> int:
        calls.append(1)
        await asyncio.sleep(0.3)
        if len(calls) == 1:
            raise Permanent("no compiler here")
        return len(calls)

    stage = Stage("build-in-vain", build, shared=True)
    states = await asyncio.gather(*(run(stage, job=job) for job in (ONE, OTHER)))
    assert sorted(state.is_failed() for state in states) == [False, True]
    assert await (await run(stage, job=THIRD)).aresult() == 2
    assert len(calls) == 2


@pytest.mark.parametrize("shared", [True, False])
async def test_what_was_declined_is_not_kept_as_a_result(run: Run, results: Path, *, shared: bool) -> None:
    """Prefect wrote the error where the result would be; it was luck that the next run could not read it."""
    calls: list[int] = []

    async def build() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise Declined("no such target", reason=DeclineReason.unsupported)
        return len(calls)

    stage = Stage("build-declined", build, shared=shared)
    first = await run(stage)
    with pytest.raises(Declined, match="no such target"):
        await first.aresult()
    assert not kept_in(results)
    assert await (await run(stage)).aresult() == 2
    assert kept_in(results)


@pytest.mark.parametrize("asked_to_wait", [None, 4.0])
async def test_between_two_tries_the_lock_is_free(
    run: Run, monkeypatch: pytest.MonkeyPatch, asked_to_wait: float | None
) -> None:
    """Who waits for its next try keeps nobody from the work, and then takes what another made of it."""
    monkeypatch.setattr(stage_module, "BACKOFF_SECONDS", (0.0 if asked_to_wait else 4.0,) * 5)
    calls: list[str] = []

    async def build() -> str:
        calls.append("call")
        if len(calls) == 1:
            raise Transient("the registry is busy", retry_after_seconds=asked_to_wait)
        return f"call {len(calls)}"

    stage = Stage("build-in-two-tries", build, shared=True)
    first = asyncio.create_task(run(stage, job=ONE))
    await until(lambda: calls)
    assert await (await run(stage, job=OTHER)).aresult() == "call 2"
    assert not first.done()
    assert await (await first).aresult() == "call 2"


async def test_a_result_that_holds_no_longer_is_made_anew_once(run: Run) -> None:
    """Two that find it gone at the same time: the second looks again when it has the lock."""
    store: set[int] = set()
    calls: list[int] = []

    async def build(number: int) -> int:
        calls.append(number)
        await asyncio.sleep(0.3)
        store.add(number)
        return number

    looked: list[int] = []
    all_looked = asyncio.Barrier(3)

    async def is_kept(number: int) -> bool:
        kept = number in store
        if not kept and len(looked) < 3:
            looked.append(number)
            await all_looked.wait()
        return kept

    stage = Stage("build-into-store", build, shared=True, holds=is_kept)
    await run(stage, 1)
    await run(stage, 1, job=OTHER)
    assert calls == [1]
    store.clear()
    states = await asyncio.gather(*(run(stage, 1, job=job) for job in (ONE, OTHER, THIRD)))
    assert [await state.aresult() for state in states] == [1, 1, 1]
    assert calls == [1, 1]


async def test_a_cancelled_waiter_and_a_cancelled_worker_leave_the_lock_to_the_others(run: Run) -> None:
    calls: list[int] = []
    go = asyncio.Event()

    async def build() -> int:
        calls.append(1)
        await go.wait()
        return len(calls)

    stage = Stage("build-cancelled", build, shared=True)
    working = asyncio.create_task(run(stage, job=ONE))
    await until(lambda: calls)
    waiting = asyncio.create_task(run(stage, job=OTHER))
    await asyncio.sleep(1.0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    third = asyncio.create_task(run(stage, job=THIRD))
    await asyncio.sleep(0.5)
    assert len(calls) == 1
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await until(lambda: len(calls) == 2)
    go.set()
    assert await (await third).aresult() == 2


@needs_redis
async def test_without_its_lock_server_a_shared_stage_is_tried_again_and_then_fails(tmp_path: Path) -> None:
    async def build() -> int:
        raise AssertionError("not without the lock")

    client = connect(f"unix://{tmp_path}/nobody.sock")
    state = await run_in_flow(partial(RedisLocks, client), Stage("build-alone", build, shared=True))
    client.close()
    with pytest.raises(
        Transient, match=r"near/test/1: build-alone: no answer from the fleet's Redis.*MILLRACE_FLEET_URL"
    ):
        await state.aresult()


def test_only_what_is_kept_can_be_shared() -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        Stage("look", print, cached=False, shared=True)


def test_a_shared_result_has_no_jobs_name() -> None:
    assert result_key("", "compile", "a") != result_key(ONE, "compile", "a")


@pytest.mark.parametrize("kind", ["files", "fleet"])
async def test_what_a_killed_process_was_at_is_done_by_the_next_and_by_it_alone(
    kind: str, tmp_path: Path, results: Path
) -> None:
    """Of three processes the first is killed at work; with Prefect's own locks the others waited for ever.

    In the fleet they have nothing in common but the server, the result storage that it names, and Redis.
    """
    environment = {
        **os.environ,
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(results),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "millrace",
        "MILLRACE_DATA_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    calls = tmp_path / "calls"
    with ExitStack() as stack:
        if kind == "fleet":
            if PROGRAM is None:
                pytest.skip("redis-server is not installed")
            environment["MILLRACE_FLEET_URL"] = stack.enter_context(serving(tmp_path))[0]
            await LocalFileSystem(basepath=str(tmp_path / "bucket")).asave("bucket", overwrite=True)
            environment["PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK"] = "local-file-system/bucket"

        def start(job: str) -> tuple[subprocess.Popen[bytes], Path]:
            said = tmp_path / f"{job.rpartition('/')[2]}.log"
            if kind == "fleet":
                own = tmp_path / said.stem
                environment["MILLRACE_DATA_DIR"] = str(own)
                environment["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(own / "results")
            environment["PREFECT_HOME"] = str(tmp_path / said.stem / "prefect")
            with said.open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name("shared_work.py")), str(tmp_path), job],
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process, said

        first, _ = start(ONE)
        await until(calls.exists)
        second, said = start(OTHER)
        await until(lambda: f"waits for {ONE} (process {first.pid} on" in said.read_text())
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: calls.read_text().split() == [str(first.pid), str(second.pid)])
        third, said_third = start(THIRD)
        await until(lambda: f"waits for {OTHER} (process {second.pid} on" in said_third.read_text())
        (tmp_path / "go").touch()
        for process in (second, third):
            assert await asyncio.to_thread(process.wait, 60) == 0
        assert f"result: flour built by {second.pid}" in said.read_text()
        assert f"result: flour built by {second.pid}" in said_third.read_text()
        assert calls.read_text().split() == [str(first.pid), str(second.pid)]
