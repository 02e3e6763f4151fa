"""A hint ends a wait early and does nothing else, whatever the node's event stream does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from computechain_world import RESULT, World, computechain_world

from localnet.computechain import ComputeChainLocalnet
from protocols.computechain.rpc import ComputeChainRpc
from stages.discover import computechain_hints
from stages.discover.computechain_hints import BlockHints

FOREVER = 3_600.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with computechain_world(tmp_path) as world:
        yield world


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computechain_hints, "_LEAST_WAIT_SECONDS", 0.05)


@asynccontextmanager
async def hints_of(net: ComputeChainLocalnet) -> AsyncIterator[BlockHints]:
    async with ComputeChainRpc([net.url], timeout_seconds=2) as rpc, BlockHints(rpc, reopen_seconds=0.05) as hints:
        yield hints


async def while_saying(world: World, say: Callable[[], None], waiting: asyncio.Task[None]) -> None:
    """Say it again and again until the wait is over: what is said before the node is listened to is lost."""
    async with asyncio.timeout(20):
        while not waiting.done():
            say()
            await asyncio.wait([waiting], timeout=0.05)
    await waiting


async def test_a_block_with_a_transaction_is_seen_at_once(world: World) -> None:
    async with world.worker() as network:
        await network.pending()
        before = world.chain.height()

        def block_with_a_transaction() -> None:
            world.chain.take_nonce(world.private_key())
            world.chain.make_block()

        await while_saying(world, block_with_a_transaction, asyncio.create_task(network.wait_for_news(FOREVER)))
        assert (await network.pending())[-1].height > before


@pytest.mark.parametrize("known", [7, 8])
async def test_an_event_about_a_block_that_was_seen_ends_no_wait(world: World, known: int) -> None:
    async with hints_of(world.net) as hints:
        waiting = asyncio.create_task(hints.wait(FOREVER, known))
        for _ in range(10):
            world.chain.events.confirmed("ab" * 32, 7)
            world.chain.events.failed("ab" * 32, "expired")
            await asyncio.wait([waiting], timeout=0.03)
        assert not waiting.done()
        await while_saying(world, lambda: world.chain.events.confirmed("ab" * 32, known + 1), waiting)


async def test_a_lying_node_causes_one_look_in_the_least_wait_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computechain_hints, "_LEAST_WAIT_SECONDS", 0.2)
    async with hints_of(world.net) as hints:
        lying = asyncio.create_task(lie(world))
        try:
            began = time.monotonic()
            for _ in range(4):
                await hints.wait(FOREVER, 10)
            assert time.monotonic() - began >= 0.8
        finally:
            lying.cancel()


async def lie(world: World) -> None:
    while True:
        world.chain.events.confirmed("ab" * 32, 10**18)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", ["status", "reset", "slow", "cut", "silent", "gone"])
async def test_without_a_stream_a_wait_lasts_as_long_as_it_should(world: World, kind: str) -> None:
    async with hints_of(world.net) as hints:
        if kind == "silent":
            world.chain.silence_events()
        elif kind == "gone":
            world.net.__exit__(None, None, None)
        else:
            world.chain.fail("events", times=1_000, kind=kind)
        began = time.monotonic()
        for _ in range(3):
            await hints.wait(0.2, 10)
        assert 0.6 <= time.monotonic() - began < 5


async def test_a_stream_that_ended_is_opened_again(world: World) -> None:
    async with hints_of(world.net) as hints:
        await hints.wait(0.1, 10)
        world.chain.restart()
        waiting = asyncio.create_task(hints.wait(FOREVER, 10))
        await while_saying(world, lambda: world.chain.events.confirmed("ab" * 32, 11), waiting)
        assert world.chain.calls["events"] >= 2


async def test_who_waits_for_nothing_opens_no_stream(world: World) -> None:
    """A job's flow run asks and sends; only the watch waits for blocks."""
    async with world.worker() as network:
        job = await world.newest_job(network)
        await network.send(await network.prepare(job, RESULT, 0))
    assert world.chain.calls["events"] == 0


async def test_an_event_about_a_block_that_was_found_meanwhile_ends_no_wait(world: World) -> None:
    """The watch saw block 11 by itself while the event about it came."""
    async with hints_of(world.net) as hints:
        # Listening begins; the end of this wait leaves the hint that comes next.
        waiting = asyncio.create_task(hints.wait(FOREVER, 10))
        await while_saying(world, lambda: world.chain.events.confirmed("ab" * 32, 11), waiting)
        world.chain.events.confirmed("ab" * 32, 11)
        await asyncio.sleep(0.2)
        waiting = asyncio.create_task(hints.wait(FOREVER, 11))
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
        await while_saying(world, lambda: world.chain.events.confirmed("ab" * 32, 12), waiting)
