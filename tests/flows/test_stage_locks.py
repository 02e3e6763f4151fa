"""The locks themselves, without Prefect: both kinds keep the same promises."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.locking.protocol import LockManager
from redis_server import PROGRAM, needs_redis, serving

from flows.locks.choice import open_locks
from flows.locks.files import FileLocks
from flows.locks.fleet import RedisLocks
from millrace import redaction
from millrace.errors import Permanent, Transient
from millrace.redaction import MASK, redact
from millrace.settings import Settings
from stages.locks.holder import Holder, Wait
from stages.locks.server import connect

TTL_SECONDS = 1.0

HOLD = """
import sys, time
from pathlib import Path
from stages.locks.server import connect
from flows.locks.files import FileLocks
from flows.locks.fleet import RedisLocks
kind, where, ttl = sys.argv[1:]
job = "near/test/1"
locks = FileLocks(Path(where), job) if kind == "files" else RedisLocks(connect(where), job, ttl_seconds=float(ttl))
assert locks.acquire_lock("key", "other")
print("held", flush=True)
time.sleep(60)
"""

Party = Callable[[], Any]


@pytest.fixture(scope="session")
def lock_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if PROGRAM is None:
        pytest.skip("redis-server is not installed")
    with serving(tmp_path_factory.mktemp("redis")) as (url, _):
        yield url


@pytest.fixture(params=["files", "fleet"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def where(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "files":
        return str(tmp_path / "locks")
    url: str = request.getfixturevalue("lock_server")
    client = connect(url)
    client.flushall()
    client.close()
    return url


@pytest.fixture
def party(kind: str, where: str, request: pytest.FixtureRequest) -> Party:
    """Makes locks of another party each time."""

    def make() -> Any:
        if kind == "files":
            return FileLocks(Path(where), "near/test/2")
        client = connect(where)
        request.addfinalizer(client.close)
        return RedisLocks(client, "near/test/2", ttl_seconds=TTL_SECONDS)

    return make


def hold_elsewhere(kind: str, where: str, ttl_seconds: float = TTL_SECONDS) -> subprocess.Popen[bytes]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, where, str(ttl_seconds)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


async def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def lost_in(caplog: pytest.LogCaptureFixture) -> bool:
    return any("the lock is lost" in record.getMessage() for record in caplog.records)


async def test_one_holder_at_a_time_and_the_same_one_again(party: Party) -> None:
    async with party() as one, party() as two:
        assert isinstance(one, LockManager)
        assert one.acquire_lock("a/key", "h")
        assert one.acquire_lock("a/key", "h", acquire_timeout=0)
        assert await one.aacquire_lock("a/key", "h", acquire_timeout=0)
        assert not one.acquire_lock("a/key", "another", acquire_timeout=0)
        assert not two.acquire_lock("a/key", "h", acquire_timeout=0)
        assert not await two.aacquire_lock("a/key", "h", acquire_timeout=0)
        assert two.acquire_lock("b/key", "h", acquire_timeout=0)
        assert (one.is_locked("a/key"), two.is_locked("a/key"), two.is_locked("c/key")) == (True, True, False)
        assert one.is_lock_holder("a/key", "h")
        assert not one.is_lock_holder("a/key", "another")
        assert not two.is_lock_holder("a/key", "h")


async def test_a_lock_that_was_let_go_is_the_next_ones(party: Party) -> None:
    async with party() as one, party() as two:
        for _ in range(3):
            assert one.acquire_lock("key", "h")
            waiting = asyncio.create_task(two.aacquire_lock("key", "h"))
            await asyncio.sleep(0)
            one.release_lock("key", "h")
            assert await waiting
            assert not one.is_lock_holder("key", "h")
            two.release_lock("key", "h")
        assert await one.await_for_lock("key", timeout=5)


async def test_only_its_holder_lets_a_lock_go(party: Party) -> None:
    async with party() as one, party() as two:
        assert one.acquire_lock("key", "h")
        for manager, holder in ((one, "another"), (two, "h")):
            with pytest.raises(ValueError, match="does not hold"):
                manager.release_lock("key", holder)
        assert two.is_locked("key")


async def test_waiting_ends_in_time_and_leaves_nothing(party: Party) -> None:
    async with party() as one, party() as two:
        assert one.acquire_lock("key", "h")
        began = time.monotonic()
        assert not two.acquire_lock("key", "h", acquire_timeout=0.1)
        assert not await two.aacquire_lock("key", "h", acquire_timeout=0.1)
        assert not two.wait_for_lock("key", timeout=0.1)
        assert not await two.await_for_lock("key", timeout=0.1)
        assert 0.4 <= time.monotonic() - began < 5
        one.release_lock("key", "h")
        assert two.wait_for_lock("key", timeout=5)
        assert one.acquire_lock("key", "h", acquire_timeout=5)


async def test_a_cancelled_wait_leaves_nothing_locked(party: Party) -> None:
    async with party() as one, party() as two, party() as three:
        assert one.acquire_lock("key", "h")
        waiting = asyncio.create_task(two.aacquire_lock("key", "h"))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        one.release_lock("key", "h")
        assert await one.await_for_lock("key", timeout=5)
        await asyncio.sleep(0.5)  # longer than the next look of one that still waited
        assert await three.aacquire_lock("key", "h", acquire_timeout=0)
        assert not two.is_lock_holder("key", "h")


async def test_cancelled_at_any_moment_of_taking_it_nothing_stays_locked(party: Party) -> None:
    """The lock and the cancellation may come at the same time."""
    async with party() as two:
        for step in range(25):
            async with party() as one:
                taking = asyncio.create_task(one.aacquire_lock("key", "h"))
                await asyncio.sleep(step * 0.0002)
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)
            # Its block ended: whether it got it or not, it is free at once.
            assert await two.aacquire_lock("key", "h", acquire_timeout=0)
            two.release_lock("key", "h")
            assert await two.await_for_lock("key", timeout=5)


async def test_waiting_leaves_the_event_loop_free(party: Party) -> None:
    async with party() as one, party() as two:
        assert one.acquire_lock("key", "h")
        waiting = asyncio.create_task(two.aacquire_lock("key", "h"))
        longest, began = 0.0, time.monotonic()
        while time.monotonic() - began < 0.5:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)
        one.release_lock("key", "h")
        assert await waiting
        assert longest < 0.3


async def test_the_end_of_the_block_lets_everything_go(party: Party) -> None:
    """Prefect keeps the lock of a task that is cancelled while it looks for the result."""
    async with party() as one:
        assert one.acquire_lock("key", "h")
    async with party() as two:
        assert two.acquire_lock("key", "h", acquire_timeout=0)


async def test_a_holder_can_be_given_a_time(party: Party) -> None:
    async with party() as one, party() as two:
        assert one.acquire_lock("key", "h", hold_timeout=0.2)
        assert two.acquire_lock("key", "h", acquire_timeout=10)
        assert not one.is_lock_holder("key", "h")


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_killed_holder_lets_the_lock_go(kind: str, where: str, party: Party, *, asynchronous: bool) -> None:
    """Prefect's own file and Redis locks stay for ever."""
    holder = hold_elsewhere(kind, where)
    try:
        async with party() as one:
            assert one.is_locked("key")
            assert not one.acquire_lock("key", "h", acquire_timeout=0)
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
            killed = time.monotonic()
            acquire = one.aacquire_lock if asynchronous else one.acquire_lock
            taken = acquire("key", "h", acquire_timeout=20)
            assert await taken if asynchronous else taken
            assert time.monotonic() - killed < (0.5 if kind == "files" else TTL_SECONDS + 2)
    finally:
        end(holder)


async def test_whom_it_waits_for_is_in_the_log(
    kind: str, where: str, party: Party, caplog: pytest.LogCaptureFixture
) -> None:
    holder = hold_elsewhere(kind, where)
    try:
        with caplog.at_level(logging.INFO, "millrace.locks"):
            async with party() as one:
                assert not await one.aacquire_lock("key", "h", acquire_timeout=0.5)
        waits = [record.getMessage() for record in caplog.records if "waits for" in record.getMessage()]
        assert len(waits) == 1
        assert f"near/test/1 (process {holder.pid} on " in waits[0]
    finally:
        end(holder)


async def test_two_in_one_process_race_and_one_works_at_a_time(party: Party) -> None:
    inside: list[int] = []
    most: list[int] = []

    async def work(number: int) -> None:
        async with party() as locks:
            assert await locks.aacquire_lock("key", str(number))
            inside.append(number)
            most.append(len(inside))
            await asyncio.sleep(0.002)
            inside.remove(number)
            locks.release_lock("key", str(number))

    await asyncio.gather(*(work(number) for number in range(8)))
    assert most == [1] * 8


# ---- files ----


def test_a_forked_child_does_not_keep_a_lock_that_was_let_go(tmp_path: Path) -> None:
    """A child has the same open file, and the lock with it: the next one needs another file."""
    one, two = FileLocks(tmp_path, "job"), FileLocks(tmp_path, "job")
    assert one.acquire_lock("key", "h")
    file = one._held["key"].file
    kept = os.dup(file.fileno())  # what a fork leaves in the child
    try:
        one.release_lock("key", "h")
        assert two.acquire_lock("key", "h", acquire_timeout=0)
    finally:
        os.close(kept)
        two.release_lock("key", "h")


def test_lock_files_go_with_their_locks(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path / "locks", "job")
    for key in ("a", "b/../../c"):
        assert locks.acquire_lock(key, "h")
        locks.release_lock(key, "h")
    assert list((tmp_path / "locks").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


def test_a_lock_on_a_file_that_its_former_holder_took_away_is_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the former holder unlinked it, locked after: the next one found no file, and had the lock too."""
    one, two = FileLocks(tmp_path, "one"), FileLocks(tmp_path, "two")
    assert one.acquire_lock("key", "h")
    really = fcntl.flock

    def ends_first(file: Any, how: int) -> None:
        monkeypatch.undo()
        one.release_lock("key", "h")
        really(file, how)

    monkeypatch.setattr(fcntl, "flock", ends_first)
    assert two.acquire_lock("key", "h", acquire_timeout=5)
    assert two.is_locked("key")
    two.release_lock("key", "h")


def test_threads_that_take_and_unlink_the_file_never_hold_it_together(tmp_path: Path) -> None:
    """A lock on a file that lost its name is nobody's."""
    inside, faults = [0], []

    def work() -> None:
        locks = FileLocks(tmp_path, "job")
        for _ in range(60):
            locks.acquire_lock("key", "h")
            inside[0] += 1
            if inside[0] != 1:
                faults.append(inside[0])
            inside[0] -= 1
            locks.release_lock("key", "h")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


# ---- a fleet ----


@needs_redis
async def test_a_lock_is_renewed_for_as_long_as_it_is_held(lock_server: str) -> None:
    client = connect(lock_server)
    async with RedisLocks(client, "a", ttl_seconds=0.3) as one, RedisLocks(client, "b", ttl_seconds=0.3) as two:
        assert one.acquire_lock("renewed", "h")
        assert not await two.aacquire_lock("renewed", "h", acquire_timeout=1.2)
        assert one.is_lock_holder("renewed", "h")
    client.close()


@needs_redis
async def test_a_holder_that_stood_still_knows_that_it_lost_the_lock(lock_server: str) -> None:
    """A suspended machine, or one without a network: the other has it by right, and must keep it."""
    client = connect(lock_server)
    holder = hold_elsewhere("fleet", lock_server, 0.5)
    try:
        async with RedisLocks(client, "near/test/2", ttl_seconds=0.5) as one:
            os.kill(holder.pid, signal.SIGSTOP)
            assert await one.aacquire_lock("key", "h", acquire_timeout=10)
            os.kill(holder.pid, signal.SIGCONT)
            await asyncio.sleep(1.2)  # the holder that was late renews nothing and gives nothing back
            assert one.is_lock_holder("key", "h")
    finally:
        end(holder)
        client.close()


@needs_redis
async def test_a_lock_that_the_server_forgot_is_noticed(lock_server: str, caplog: pytest.LogCaptureFixture) -> None:
    client = connect(lock_server)
    async with RedisLocks(client, "a", ttl_seconds=0.3) as one, RedisLocks(client, "b", ttl_seconds=5) as two:
        assert one.acquire_lock("forgotten", "h")
        client.flushall()
        assert two.acquire_lock("forgotten", "h", acquire_timeout=5)
        await until(lambda: lost_in(caplog))
        assert not one.is_lock_holder("forgotten", "h")
        assert one.is_locked("forgotten")
        one.release_lock("forgotten", "h")  # not an error: Prefect would put it in place of the work's own
    async with RedisLocks(client, "c") as three:
        assert three.acquire_lock("forgotten", "h", acquire_timeout=0)
    client.close()


@needs_redis
async def test_a_lock_that_another_has_by_now_is_not_given_back(lock_server: str) -> None:
    client = connect(lock_server)
    async with RedisLocks(client, "a") as one, RedisLocks(client, "b") as two:
        assert one.acquire_lock("given", "h")
        client.flushall()
        assert two.acquire_lock("given", "h", acquire_timeout=0)
        one.release_lock("given", "h")
        await one.__aexit__(None, None, None)
        assert client.exists(*client.keys()) == 1
    client.close()


@needs_redis
async def test_a_lock_is_not_thought_ours_while_the_server_hangs(tmp_path: Path) -> None:
    """The renewal waits for its answer while the time runs out."""
    with serving(tmp_path) as (url, server):
        client = connect(url)
        async with RedisLocks(client, "a", ttl_seconds=0.6) as one:
            assert one.acquire_lock("key", "h")
            taken = time.monotonic()
            os.kill(server.pid, signal.SIGSTOP)
            await until(lambda: not one.is_lock_holder("key", "h"))
            assert 0.5 < time.monotonic() - taken < 2.5
            os.kill(server.pid, signal.SIGCONT)
        client.close()


@needs_redis
async def test_a_server_that_went_away_costs_the_lock_when_it_would_have_expired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path) as (url, server):
        client = connect(url)
        async with RedisLocks(client, "a", ttl_seconds=0.6) as one:
            assert one.acquire_lock("key", "h")
            taken = time.monotonic()
            server.kill()
            server.wait()
            assert one.is_lock_holder("key", "h")
            await until(lambda: not one.is_lock_holder("key", "h"))
            assert time.monotonic() - taken < 5
            await until(lambda: lost_in(caplog))
            with pytest.raises(Transient, match="no answer from the fleet's Redis"):
                await one.aacquire_lock("another", "h")
            with pytest.raises(Transient, match="no answer from the fleet's Redis"):
                one.is_locked("key")
        client.close()


@needs_redis
async def test_a_server_that_refuses_us_is_not_asked_again_and_no_password_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_secrets", set())
    with serving(tmp_path, "--requirepass", "swordfish%1") as (url, _):
        wrong = connect(url.replace("unix://", "unix://:not-the-password@"))
        right = connect(url.replace("unix://", "unix://:swordfish%251@"))
        async with RedisLocks(wrong, "a") as one, RedisLocks(right, "b") as two:
            with pytest.raises(Permanent, match="will not have us"):
                await one.aacquire_lock("key", "h")
            assert two.acquire_lock("key", "h", acquire_timeout=0)
        wrong.close()
        right.close()
    assert redact("swordfish%1 swordfish%251 not-the-password") == f"{MASK} {MASK} {MASK}"


# ---- which of them ----


async def test_the_settings_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_secrets", set())
    monkeypatch.setenv("MILLRACE_FLEET_URL", "")
    async with open_locks(Settings(data_dir=tmp_path)) as locks:
        assert isinstance(locks("job"), FileLocks)
    monkeypatch.setenv("MILLRACE_FLEET_URL", "rediss://:swordfish@redis.example/0")
    settings = Settings(data_dir=tmp_path)
    assert "swordfish" not in repr(settings)
    async with open_locks(settings) as locks:
        assert isinstance(locks("job"), RedisLocks)


async def test_a_wrong_address_is_refused_without_being_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_secrets", set())
    monkeypatch.setenv("MILLRACE_FLEET_URL", "redis://:swordfish@host:not-a-port/0")
    with pytest.raises(Permanent, match="MILLRACE_FLEET_URL") as refused:
        async with open_locks(Settings(data_dir=tmp_path)):
            pass
    assert "swordfish" not in str(refused.value)


# ---- words ----


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"job": "a"}', '{"job": 1, "host": 1, "pid": "x", "since": 1}']
)
def test_a_line_that_cannot_be_read_names_nobody(text: str) -> None:
    assert Holder.read(text) is None


def test_a_holder_is_told_without_what_hides_or_moves() -> None:
    read = Holder.read('{"job": "\\u001b[2Jjob", "host": "' + "h" * 900 + '", "pid": 7, "since": 1e300, "token": "t"}')
    assert read is not None
    assert "\x1b" not in str(read)
    assert len(str(read)) < 400
    assert Holder.read(Holder.here("job").line(token="t")) is not None


def test_a_wait_pauses_longer_each_time_and_not_past_its_deadline() -> None:
    now = [100.0]
    wait = Wait(2.0, clock=lambda: now[0])
    pauses = []
    while wait.goes_on(None):
        pauses.append(wait.pause())
        now[0] += pauses[-1]
    assert pauses[:3] == [0.05, pytest.approx(0.075), pytest.approx(0.1125)]
    assert sum(pauses) == pytest.approx(2.0)
    assert max(pauses) <= 1.0
