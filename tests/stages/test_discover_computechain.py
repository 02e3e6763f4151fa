"""Which blocks get a challenge: every one that is wanted, once, and none missed without a word."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from computechain_world import World, computechain_world

from millrace.errors import Transient
from stages.submit.computechain import ComputeChainNetwork


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with computechain_world(tmp_path) as world:
        yield world


async def heights(network: ComputeChainNetwork) -> list[int]:
    """The heights that are pending; all of them have a flow run from then on."""
    pending = await network.pending()
    network.begun(pending)
    return [job.height for job in pending]


async def test_the_first_look_begins_with_the_newest_block_and_later_ones_add_what_is_new(world: World) -> None:
    """A worker that is started for the first time must not answer for the whole past."""
    async with world.worker() as network:
        newest = world.chain.height()
        assert await heights(network) == [newest]
        world.chain.make_block(3)
        assert await heights(network) == [newest + n for n in range(4)]


async def test_jobs_carry_the_hash_that_the_next_block_calls_its_predecessor(world: World) -> None:
    async with world.worker() as network:
        await network.pending()
        world.chain.make_block()
        job, *_ = await network.pending()
        after = world.chain.block(job.height + 1)
        assert after is not None
        assert job.block_hash == after.header.prev_hash


async def test_one_challenge_for_every_n_blocks(world: World) -> None:
    async with world.worker(every_blocks=4, backlog_blocks=100) as network:
        assert await heights(network) == [8], "the chain is at 10"
        world.chain.make_block(7)
        assert await heights(network) == [8, 12, 16]


async def test_a_first_look_misses_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The newest block that was wanted can be older than what is caught up with."""
    async with world.worker(every_blocks=7, backlog_blocks=2) as network:
        assert await heights(network) == [], "block 7 was too old when the worker came, at 10"
        world.chain.make_block(5)
        assert await heights(network) == [14]
    assert caplog.text == ""


async def test_after_an_outage_no_block_is_left_out(world: World) -> None:
    async with world.worker(backlog_blocks=50) as network:
        first = (await heights(network))[0]
    world.chain.make_block(40)
    async with world.worker(backlog_blocks=50) as network:
        assert await heights(network) == list(range(first, first + 41))


async def test_what_is_beyond_the_bound_is_left_out_and_the_log_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.worker(backlog_blocks=5) as network:
        first = (await heights(network))[0]
        world.chain.make_block(20)
        with caplog.at_level(logging.WARNING):
            assert await heights(network) == list(range(first + 16, first + 21))
        assert f"15 challenges missed, of blocks {first + 1} to {first + 15}" in caplog.text
        caplog.clear()
        world.chain.make_block()
        assert await heights(network) == list(range(first + 17, first + 22))
    assert caplog.text == "", "what was begun is not missed, and nothing is told twice"


async def test_a_worker_that_is_too_slow_is_told_what_it_misses(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with world.worker(backlog_blocks=2) as network:
        (waiting,) = await network.pending()
        world.chain.make_block(2)
        with caplog.at_level(logging.WARNING):
            await network.pending()
    assert f"1 challenges missed, of blocks {waiting.height} to {waiting.height}" in caplog.text


async def test_blocks_that_replace_others_bring_challenges_of_their_own(world: World) -> None:
    async with world.worker(backlog_blocks=50) as network:
        await heights(network)
        world.chain.make_block(4)
        before = {job.height: job.block_hash for job in await network.pending()}
        world.chain.rollback(2)
        world.chain.make_block(2)
        after = {job.height: job.block_hash for job in await network.pending()}
    assert before.keys() == after.keys()
    replaced = sorted(height for height, block_hash in after.items() if before[height] != block_hash)
    assert replaced == sorted(before)[-2:]


async def test_a_shorter_chain_for_a_while_loses_nothing(world: World) -> None:
    async with world.worker(backlog_blocks=50) as network:
        await heights(network)
        world.chain.make_block(4)
        seen = await heights(network)
        world.chain.rollback(3)
        assert await heights(network) == seen[:-3]
        world.chain.make_block(5)
        assert await heights(network) == [*seen, seen[-1] + 1, seen[-1] + 2]


async def test_a_chain_that_was_begun_anew_is_followed_from_its_newest_block(world: World) -> None:
    """A devnet is wiped: the worker waited until its new blocks were as high as the old ones."""
    async with world.worker(backlog_blocks=3) as network:
        await heights(network)
        world.chain.rollback(world.chain.height() + 1)
        world.chain.make_block(3)
        assert await heights(network) == [world.chain.height()]


async def test_a_look_that_fails_loses_nothing(world: World) -> None:
    async with world.worker(backlog_blocks=50) as network:
        first = (await heights(network))[0]
        world.chain.make_block(3)
        for call in ("status", "block"):
            world.chain.fail(call, times=20)
            with pytest.raises(Transient):
                await network.pending()
            world.chain.clear_faults()
        assert await heights(network) == list(range(first, first + 4))


async def test_a_look_costs_one_block_for_each_new_one(world: World) -> None:
    async with world.worker(backlog_blocks=50) as network:
        await heights(network)
        world.chain.make_block(10)
        await heights(network)
        world.chain.make_block(2)
        before = world.chain.calls["block"]
        await heights(network)
        assert world.chain.calls["block"] - before == 2


async def test_a_file_that_cannot_be_read_is_as_good_as_none(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with world.worker() as network:
        await heights(network)
        (file,) = world.settings().data_dir.glob("discover/computechain-*.json")
        file.write_text("{")
        world.chain.make_block(3)
        assert await heights(network) == [world.chain.height()]
    assert str(file) in caplog.text


async def test_two_keys_have_tasks_of_their_own_and_one_key_the_same_one_each_time(world: World) -> None:
    async with world.worker("one") as one, world.worker("two") as two:
        mine, theirs = await world.newest_job(one), await world.newest_job(two)
        assert mine.block_hash == theirs.block_hash
        assert mine.task_id != theirs.task_id
        assert mine.task_id == (await world.newest_job(one)).task_id
