"""Requests found on NEAR: none lost, none invented, whatever happens between two looks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from near_world import World, near_world

from localnet.near import CONTRACT, Dialect
from millrace.errors import Permanent, Transient
from protocols.near.contract import YIELD_TIMEOUT_BLOCKS, ExecutionRequest
from protocols.near.events import Cursor, SeenHeight
from protocols.near.neardata import NeardataSource
from stages.execute.python import Content
from stages.execute.request import execute_request
from stages.execute.wasm.interface import Runtime


@pytest.fixture(params=list(Dialect))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with near_world(tmp_path, request.param) as world:
        yield world


@pytest.mark.parametrize("source", ["neardata", "rpc"])
async def test_every_request_is_found_once_in_order_and_by_whoever_looks(world: World, source: str) -> None:
    fields = {} if source == "neardata" else {"neardata_url": ""}
    async with world.worker(**fields) as network:
        assert await network.pending() == []
        for _ in range(3):
            world.ask()
        # Over plain RPC, a block is read once there is another after it.
        world.chain.make_block(2)
        found = await network.pending()
        assert [job.request.request_id for job in found] == [0, 1, 2]
        assert await network.pending() == found
    assert all(job.key == f"offchainvm/localnet:{CONTRACT}/{job.height}-{job.request.request_id}" for job in found)
    async with world.worker("another-machine", **fields) as other:
        assert [await other.find(job.job_id) for job in found] == found


async def test_a_first_look_begins_at_the_newest_block_or_where_the_operator_says(world: World) -> None:
    world.ask()
    world.chain.make_block()
    async with world.worker("late") as network:
        assert await network.pending() == []
    async with world.worker("told", start_block=world.chain.height() - 10) as network:
        assert len(await network.pending()) == 1


async def test_what_was_asked_while_nobody_looked_is_found_afterwards(world: World) -> None:
    async with world.worker() as network:
        await network.pending()
    for _ in range(4):
        world.ask()
        world.chain.skip_heights(3)
    world.chain.make_block()
    async with world.worker() as network:
        assert [job.request.request_id for job in await network.pending()] == [0, 1, 2, 3]


async def test_a_block_that_cannot_be_read_is_read_again_and_never_skipped(world: World) -> None:
    async with world.worker() as network:
        await network.pending()
        world.ask()
        world.chain.make_block()
        for status in (500, 503, 429, 403):
            world.chain.fail("neardata", times=3, status=status)
            with pytest.raises(Transient):
                await network.pending()
            world.chain.clear_faults()
        world.chain.fail("neardata", kind="cut")
        with pytest.raises(Transient):
            await network.pending()
        assert len(await network.pending()) == 1


async def test_what_is_known_is_served_while_the_next_block_cannot_be_read(world: World) -> None:
    """One block that no server would give out kept requests from being served that had been read before it."""
    async with world.worker() as network:
        job = await world.job(network)
        world.chain.make_block()
        world.chain.fail("neardata", times=100)
        assert await network.pending() == [job]


async def test_a_wait_ends_as_soon_as_there_is_a_request(world: World) -> None:
    async with world.worker() as network:
        await network.pending()
        discovery, slept = network._discovery, []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            world.seconds += seconds
            if len(slept) == 3:
                world.ask()
            world.chain.make_block()

        discovery._clock, discovery._sleep = world.clock, sleep
        await network.wait_for_news(30.0)
        assert len(slept) == 3
        await network.wait_for_news(2.5)
        assert slept[3:] == [1.0, 1.0, 0.5]
        world.chain.fail("neardata", times=100)
        await network.wait_for_news(30.0)
        assert slept[6:] == [1.0, 29.0]


async def test_a_failed_receipt_announces_nothing(world: World) -> None:
    async with world.worker() as network:
        await network.pending()
        world.chain.request({"source": {}, "code_source": {}})
        world.chain.make_block(4)
        assert await network.pending() == []


async def test_a_request_is_kept_until_the_chain_resumes_it_no_more(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.worker() as network:
        begun = await world.job(network)
        network.begun([begun])
        missed = await world.job(network)
        world.chain.make_block(YIELD_TIMEOUT_BLOCKS - 20)
        assert await network.pending() == [begun, missed]
        world.chain.make_block(40)
        with caplog.at_level(logging.WARNING):
            assert await network.pending() == []
        assert not await network.still_open(missed)
        assert f"{missed.key} timed out before anybody began it" in caplog.text
        assert begun.key not in caplog.text
        assert await network.find(begun.job_id) == begun


async def test_blocks_in_which_everything_has_timed_out_are_passed_over_with_a_word(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.worker() as network:
        await network.pending()
        begin = world.chain.height()
        world.ask()
        world.chain.make_block(YIELD_TIMEOUT_BLOCKS * 3)
        world.ask()
        world.chain.make_block()
        reads = world.chain.calls["neardata"]
        with caplog.at_level(logging.WARNING):
            found = await network.pending()
    assert [job.request.request_id for job in found] == [1]
    assert world.chain.calls["neardata"] - reads <= YIELD_TIMEOUT_BLOCKS + 3
    assert f"blocks {begin + 1} to" in caplog.text


async def test_a_large_input_is_read_from_the_contract_and_kept(tmp_path: Path) -> None:
    with near_world(tmp_path, Dialect.head) as world:
        async with world.worker() as network:
            job = await world.job(network, input_data="x" * 20_000)
            assert job.request.input_data_in_state
            whole = await network.find(job.job_id)
            assert whole.request.input_data == "x" * 20_000
            world.chain.make_block(YIELD_TIMEOUT_BLOCKS + 2)
            # The contract has it no more, and who comes back after a crash still needs it.
            assert (await network.find(job.job_id)).request.input_data == "x" * 20_000


async def test_a_large_input_that_a_lagging_node_has_not_got_is_never_taken_for_an_empty_one(tmp_path: Path) -> None:
    """The request was executed without its input, and that was answered."""
    with near_world(tmp_path, Dialect.head) as world:
        async with world.worker() as network:
            job = await world.job(network, input_data="x" * 20_000)
            contract, request = network._contract, job.request

            async def lagging(_: ExecutionRequest) -> None:
                return None

            contract.input_of, honest = lagging, contract.input_of  # type: ignore[method-assign,assignment]
            seen = await network.find(job.job_id)
            contract.input_of = honest  # type: ignore[method-assign]
            with pytest.raises(Transient, match="input could not be read"):
                await network.still_open(seen)
            content, runtime = cast("Content", None), cast("Runtime", None)
            with pytest.raises(Transient, match="was not read"):
                await execute_request("", seen, 1, content=content, runtime=runtime)
            assert request.input_data_in_state
            assert await network.still_open(await network.find(job.job_id))


@pytest.mark.parametrize("job_id", ["", "7", "1003-", "-1", "01-1", "1003-99999999999999999999999", "../../etc"])
async def test_what_names_no_request_is_told(world: World, job_id: str) -> None:
    async with world.worker() as network:
        with pytest.raises(Permanent, match="names no request"):
            await network.find(job_id)


async def test_a_request_that_is_not_there_is_told(world: World) -> None:
    async with world.worker() as network:
        with pytest.raises(Permanent, match="has no request 7"):
            await network.find("1001-7")
        with pytest.raises(Transient, match="has not come to block"):
            await network.find("999999-7")


async def test_a_damaged_file_costs_nothing_but_a_word(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        (folder,) = (world.settings().data_dir / "discover").glob("offchainvm-*")
        (folder / "requests" / f"{job.job_id}.json").write_text('{"chain_id"')
        with caplog.at_level(logging.WARNING):
            assert await network.pending() == []
            assert await network.find(job.job_id) == job
        assert "cannot be read" in caplog.text


async def test_heights_that_were_wrongly_said_to_be_empty_are_read_again(tmp_path: Path) -> None:
    """A server that says `null` for a block it has not got yet would make a worker run past it."""
    with near_world(tmp_path, Dialect.head) as world:
        async with world.worker() as network:
            await network.pending()
            discovery = network._discovery
            honest = discovery._source
            world.ask()
            world.chain.make_block()
            lied: list[int] = []

            class Liar:
                async def at(self, height: int) -> SeenHeight | None:
                    if not lied:
                        lied.append(height)
                        return SeenHeight(height, skipped=True)
                    return await honest.at(height)

            discovery._source = Liar()
            for _ in range(3):
                try:
                    found = await network.pending()
                    if found:
                        break
                except Transient:
                    continue
            assert [job.request.request_id for job in found] == [0]


async def test_a_block_that_a_server_has_lost_is_read_from_the_nodes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `null` was believed until the next block did not follow, and then asked for again: for ever."""
    honest = NeardataSource.at

    async def forgetful(self: NeardataSource, height: int) -> SeenHeight | None:
        seen = await honest(self, height)
        return seen if seen is None or not seen.requests else SeenHeight(height, skipped=True)

    async with world.worker() as network:
        await network.pending()
        world.ask()
        world.chain.skip_heights(2)
        world.ask()
        world.chain.make_block(2)
        monkeypatch.setattr(NeardataSource, "at", forgetful)
        assert [job.request.request_id for job in await network.pending()] == [0, 1]


def test_the_cursor_is_what_it_was_after_a_restart() -> None:
    from stages.discover.offchainvm import _STATE, _State

    state = _State(cursor=Cursor(5, 4, "x"), begun=frozenset({"4-1"}))
    assert _STATE.validate_json(_STATE.dump_json(state)) == state
