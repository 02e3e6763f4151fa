from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outbox_places import FolderPlace, OutboxPlace

from millrace.errors import Permanent
from millrace.network import Fate, SignedSubmission
from stages.submit.outbox import Outbox, OutboxDamaged, StillAlive

KEY = "cloudmesh/genesis/job"


def submission(generation: int = 0, job_key: str = KEY, **fields: object) -> SignedSubmission:
    return SignedSubmission.model_validate(
        {
            "job_key": job_key,
            "network": "cloudmesh",
            "transaction_id": f"signature-{generation}",
            "payload": "AQID",
            "expires_at": 150 + generation,
            "generation": generation,
            "sender": "worker",
            "result_cid": "Qm",
            "price": 5,
            **fields,
        }
    )


@pytest.fixture(params=["folder", "fleet"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> OutboxPlace:
    return FolderPlace(tmp_path / "outbox") if request.param == "folder" else request.getfixturevalue("fleet")


@pytest.fixture
def outbox(place: OutboxPlace) -> Outbox:
    return place.open()


def only_file(outbox_folder: Path) -> Path:
    (path,) = outbox_folder.glob("*.json")
    return path


def test_what_was_recorded_is_there_for_the_next_process(outbox: Outbox, place: OutboxPlace) -> None:
    outbox.record(submission())
    reopened = place.open()
    assert reopened.latest(KEY) == submission()
    assert reopened.recorded(KEY, 0) == submission()
    assert reopened.recorded(KEY, 1) is None
    assert reopened.unsettled() == [submission()]


def test_an_unknown_job_has_no_history(outbox: Outbox) -> None:
    assert outbox.latest(KEY) is None
    assert outbox.history(KEY) == ()
    assert outbox.unsettled() == []


def test_recording_the_same_submission_twice_changes_nothing(outbox: Outbox) -> None:
    outbox.record(submission())
    outbox.record(submission())
    assert len(outbox.history(KEY)) == 1


@pytest.mark.parametrize("fate", [Fate.unknown, Fate.landed])
def test_a_new_generation_is_refused_while_the_former_may_have_effect(outbox: Outbox, fate: Fate) -> None:
    """Pins two live signatures for one job, which on another program would be two payments."""
    outbox.record(submission())
    outbox.mark(submission(), fate)
    with pytest.raises(StillAlive, match="signature-0"):
        outbox.record(submission(1))
    assert outbox.latest(KEY) == submission()


@pytest.mark.parametrize("fate", [Fate.expired, Fate.failed])
def test_a_new_generation_follows_a_dead_one(outbox: Outbox, fate: Fate) -> None:
    outbox.record(submission())
    outbox.mark(submission(), fate)
    outbox.record(submission(1))
    assert [entry.fate for entry in outbox.history(KEY)] == [fate, Fate.unknown]
    assert outbox.latest(KEY) == submission(1)


@pytest.mark.parametrize("generation", [0, 2])
def test_a_generation_out_of_turn_is_refused(outbox: Outbox, generation: int) -> None:
    outbox.record(submission())
    outbox.mark(submission(), Fate.expired)
    with pytest.raises(Permanent, match="generation 1 is the next one"):
        outbox.record(submission(generation, transaction_id="another"))


def test_marking_what_was_never_recorded_is_refused(outbox: Outbox) -> None:
    outbox.record(submission())
    with pytest.raises(Permanent, match="signature-1"):
        outbox.mark(submission(1), Fate.landed)


def test_a_settled_job_leaves_the_list_but_not_the_memory(outbox: Outbox) -> None:
    outbox.record(submission())
    outbox.settle(KEY)
    outbox.settle(KEY)
    assert outbox.unsettled() == []
    assert outbox.latest(KEY) == submission()
    outbox.mark(submission(), Fate.landed)
    assert outbox.history(KEY)[0].fate is Fate.landed
    assert outbox.unsettled() == []


def test_a_job_that_is_signed_for_again_after_it_was_settled_is_followed_again(outbox: Outbox) -> None:
    """A chain that says "closed" may take it back, and a person runs the job again: that signature has to be seen."""
    outbox.record(submission(lane="lane", nonce=1))
    outbox.mark(submission(lane="lane", nonce=1), Fate.expired)
    outbox.settle(KEY)
    again = submission(1, lane="lane", nonce=2)
    outbox.record(again)
    assert outbox.unsettled() == outbox.in_lane("lane") == [again]
    outbox.mark(again, Fate.landed)
    assert outbox.unsettled() == [again]
    outbox.settle(KEY)
    assert outbox.unsettled() == []
    assert [entry.fate for entry in outbox.history(KEY)] == [Fate.expired, Fate.landed]


@given(st.data())
def test_a_torn_file_is_reported_and_never_read_as_something_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("outbox")
    outbox = Outbox(folder)
    outbox.record(submission())
    path = only_file(folder)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(OutboxDamaged, match=path.name):
        outbox.latest(KEY)
    with pytest.raises(OutboxDamaged):
        outbox.record(submission(1))
    assert outbox.damaged() == [path]


def test_one_torn_record_is_logged_and_does_not_hide_the_others(
    outbox: Outbox, place: OutboxPlace, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.record(submission())
    outbox.record(submission(job_key="cloudmesh/genesis/other"))
    place.replace(KEY, b"{")
    with caplog.at_level(logging.ERROR):
        assert [found.job_key for found in outbox.unsettled()] == ["cloudmesh/genesis/other"]
    assert hashlib.sha256(KEY.encode()).hexdigest() in caplog.text
    assert outbox.damaged() == outbox.damaged_live()
    assert len(outbox.damaged()) == 1
    with pytest.raises(OutboxDamaged):
        outbox.latest(KEY)
    with pytest.raises(OutboxDamaged):
        outbox.record(submission(1))


def test_a_record_of_another_job_under_this_jobs_name_is_damage(outbox: Outbox, place: OutboxPlace) -> None:
    outbox.record(submission())
    content = json.loads(place.content(KEY))
    place.replace(KEY, json.dumps({**content, "job_key": "cloudmesh/genesis/other"}).encode())
    with pytest.raises(OutboxDamaged):
        outbox.latest(KEY)


def test_a_crash_while_writing_leaves_the_former_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    outbox.record(submission())

    def power_cut(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(KeyboardInterrupt):
        outbox.mark(submission(), Fate.expired)
    monkeypatch.undo()
    reopened = Outbox(tmp_path / "outbox")
    assert [entry.fate for entry in reopened.history(KEY)] == [Fate.unknown]
    assert reopened.damaged() == []
    reopened.mark(submission(), Fate.expired)
    assert [entry.fate for entry in reopened.history(KEY)] == [Fate.expired]


async def test_the_lock_keeps_a_second_signer_waiting(outbox: Outbox, place: OutboxPlace) -> None:
    other, order = place.open(), []

    async def second() -> None:
        async with other.lock(KEY):
            order.append("second")

    async with outbox.lock(KEY):
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.12)
        order.append("first")
    await waiting
    assert order == ["first", "second"]


def _hold_and_die(place: OutboxPlace, held: multiprocessing.synchronize.Event) -> None:
    async def hold() -> None:
        async with place.open().lock(KEY):
            held.set()
            await asyncio.sleep(60)

    asyncio.run(hold())


async def test_the_lock_of_a_killed_process_is_let_go(outbox: Outbox, place: OutboxPlace) -> None:
    """Pins locks that stay behind when their holder is killed, as those made of files or rows do."""
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold_and_die, args=(place, held))
    holder.start()
    assert await asyncio.to_thread(held.wait, 30)
    holder.kill()
    holder.join()
    async with asyncio.timeout(5), outbox.lock(KEY):
        pass


def test_a_record_of_an_older_version_is_read(outbox: Outbox, place: OutboxPlace) -> None:
    """An update must not lose what was signed: the fields that came later have defaults."""
    outbox.record(submission())
    content = json.loads(place.content(KEY))
    signed = content["entries"][0]["submission"]
    for later in ("lane", "nonce", "signed_at", "result_hash"):
        del signed[later]
    place.replace(KEY, json.dumps(content).encode())
    assert outbox.latest(KEY) == submission()
    assert outbox.damaged() == []


def in_lane(job: str, nonce: int, lane: str = "lane") -> SignedSubmission:
    return submission(job_key=f"computechain/test/{job}", lane=lane, nonce=nonce, expires_at=None)


def test_a_lane_has_what_may_still_land_in_the_order_of_its_nonces(outbox: Outbox) -> None:
    """The next nonce is found from these: one left out is given twice, a dead one kept leaves a gap for ever."""
    later, first, landed, dead, put_away = (
        in_lane(job, nonce) for job, nonce in zip("abcde", (9, 3, 2, 1, 0), strict=True)
    )
    for signed in (later, first, landed, dead, put_away, in_lane("f", 4, lane="another"), submission()):
        outbox.record(signed)
    outbox.mark(landed, Fate.landed)
    outbox.mark(dead, Fate.expired)
    outbox.settle(put_away.job_key)
    assert outbox.in_lane("lane") == [landed, first, later]
    assert outbox.in_lane("") == []


def _hold_lane(
    place: OutboxPlace, held: multiprocessing.synchronize.Event, go_on: multiprocessing.synchronize.Event
) -> None:
    async def hold() -> None:
        async with place.open().lane_lock("lane"):
            held.set()
            await asyncio.to_thread(go_on.wait, 30)

    asyncio.run(hold())


async def test_the_lock_of_a_lane_keeps_other_processes_waiting_and_no_other_lane(
    outbox: Outbox, place: OutboxPlace
) -> None:
    """Two processes that sign with one key at once both took the same nonce."""
    context = multiprocessing.get_context("spawn")
    held, go_on = context.Event(), context.Event()
    holder = context.Process(target=_hold_lane, args=(place, held, go_on))
    holder.start()
    assert await asyncio.to_thread(held.wait, 30)
    async with asyncio.timeout(5), outbox.lane_lock("another"), outbox.lane_lock(""), outbox.lane_lock(""):
        pass
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), outbox.lane_lock("lane"):
            pytest.fail("two hold the lock")
    go_on.set()
    async with asyncio.timeout(10), outbox.lane_lock("lane"):
        pass
    holder.join()
