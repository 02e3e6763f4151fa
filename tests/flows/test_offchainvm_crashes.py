"""A request of the chain whose flow run is killed, at each place of its life: answered once, recorded once."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from offchainvm_world import ECHO, TRAP, World, offchainvm_world, stand_in_for_the_builder

from flows import submit, tasks
from flows.stage import Stage
from localnet.near import OPERATOR, Dialect
from millrace.receipt import JobOutcome
from protocols.near.contract import YIELD_TIMEOUT_BLOCKS
from protocols.near.keys import NearKey

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.usefixtures("no_history_left")]

PLACES = ("execute", "recorded", "sign", "sent", "confirm", "receipt", "settled")
SOURCE = {"repo": "https://github.com/alice/tool", "commit": "a" * 40, "build_target": "wasm32-wasip1"}


@pytest.fixture(params=list(Dialect))
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with offchainvm_world(request.param, tmp_path, monkeypatch, finality_lag=3) as running:
        yield running


def asked(world: World, text: str) -> str:
    source: dict[str, Any] = SOURCE if world.net.dialect is Dialect.early else {"GitHub": SOURCE}
    return world.ask(source, input_data=text)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("world", "program"), [(Dialect.head, ECHO), (Dialect.early, TRAP)], ids=["success", "failure"], indirect=["world"]
)
async def test_a_request_is_answered_once_wherever_its_worker_is_killed(
    world: World, place: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = asked(world, "once")
    assert await world.killed_at(place, job_id, program)
    stand_in_for_the_builder(program, monkeypatch.setattr)
    for _ in range(2):
        state = await world.do(job_id)
        assert state.name == "Settled", state.message
    assert world.resolutions() == 1
    assert world.receipts.verify()[0] == 1
    assert world.outbox.unsettled() == []
    receipt = world.receipt(job_id)
    assert receipt.outcome is JobOutcome.settled
    assert receipt.execution is not None
    assert receipt.evidence_cid
    if program is ECHO:
        assert json.loads(base64.b64decode(world.answered()["SuccessValue"])) == "once"
    assert world.net.operator.secret_key.removeprefix("ed25519:") not in everything_in(world.folder)


@pytest.mark.parametrize("stage", ["execute", "upload", "sign", "confirm"])
async def test_a_request_that_times_out_on_the_way_is_closed_and_nothing_is_stuck(
    world: World, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_the_builder(ECHO, monkeypatch.setattr)
    job_id = asked(world, "too late")
    run = Stage._run
    late: list[int] = []

    async def slow(self: Stage[Any], job_key: str, *inputs: object) -> Any:
        if self.name == stage and not late:
            late.append(world.chain.make_block(YIELD_TIMEOUT_BLOCKS + 2))
        return await run(self, job_key, *inputs)

    for each in (tasks.execute_request, tasks.publish_run, submit.sign, submit.confirm):
        monkeypatch.setattr(each.task, "fn", partial(slow, each))
    states = [await world.do(job_id), await world.do(job_id)]
    assert late
    assert {state.name for state in states} <= {"Declined", "Closed"}, [state.message for state in states]
    assert world.outbox.unsettled() == []
    assert world.resolutions() == (stage == "confirm")


@pytest.mark.parametrize("world", [Dialect.head], indirect=True)
async def test_many_requests_at_once_with_three_keys_are_each_answered_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [world.net.operator, NearKey(b"\x07" * 32), NearKey(b"\x08" * 32)]
    for key in keys[1:]:
        world.chain.add_key(OPERATOR, key.public_key)
    monkeypatch.setenv("OPERATOR_PRIVATE_KEY", ",".join(key.secret_key for key in keys))
    stand_in_for_the_builder(ECHO, monkeypatch.setattr)
    jobs = [asked(world, str(number)) for number in range(10)]
    world.chain.drop_next(3)
    world.chain.fail("send_tx", times=3, kind="lost_reply")
    states = await asyncio.gather(*(world.do(job_id) for job_id in jobs))
    assert [state.name for state in states] == ["Settled"] * 10
    assert world.resolutions() == 10
    assert world.chain.pending() == []
    assert [world.read(world.receipt(job_id).result_cid) for job_id in jobs] == [b"%d" % n for n in range(10)]


def everything_in(folder: Path) -> str:
    """All that the worker has written: results, outbox, receipts, stores."""
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())
