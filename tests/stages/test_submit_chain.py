"""Sign, confirm and settle on a real runtime: what lands, how often, and what we say about it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloudmesh_world import CID, OTHER_CID, World, cloudmesh_world

from millrace.errors import Declined, DeclineReason, Transient, UnknownOutcome
from millrace.network import Fate, Result
from protocols.solana.job_account import JobStatus
from stages.submit.confirm import confirm_submission
from stages.submit.outbox import Outbox, StillAlive
from stages.submit.settle import settle_job
from stages.submit.sign import sign_submission

RESULT = Result(result_cid=CID)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with cloudmesh_world(tmp_path) as world:
        yield world


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


async def test_a_result_is_signed_confirmed_and_settled_once(world: World, outbox: Outbox) -> None:
    address = world.post("a job")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        assert world.status(address) is JobStatus.pending
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert (outcome.fate, outcome.final) == (Fate.landed, False)
        assert outbox.unsettled() == [submission]
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert settlement.ours
    assert (settlement.state, settlement.result_cid, settlement.price) == ("completed", CID, 1_000_000)
    assert settlement.transaction_id == submission.transaction_id
    assert settlement.fee == 5_000
    assert world.completions(address) == 1
    assert world.chain.calls["sendTransaction"] == 2  # the owner's and ours


async def test_dropped_transactions_are_sent_again_until_they_land(world: World, outbox: Outbox) -> None:
    """Pins a public worker's fault: one status check two seconds after one send, then everything over again."""
    address = world.post("dropped")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.drop_next(5)
        sent_before = world.chain.calls["sendTransaction"]
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert outcome.fate is Fate.landed
    assert world.chain.calls["sendTransaction"] - sent_before == 6
    assert world.completions(address) == 1


async def test_an_expired_submission_is_signed_anew_and_lands_once(world: World, outbox: Outbox) -> None:
    address = world.post("expired")
    async with world.worker() as network:
        job = await network.find(address)
        first = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.drop_next(10_000)
        outcome = await confirm_submission(job, first, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.expired
        world.chain.clear_faults()
        second = await sign_submission(job, RESULT, 1, network=network, outbox=outbox)
        assert second.transaction_id != first.transaction_id
        assert (await confirm_submission(job, second, network=network, outbox=outbox, pace=world.pace())).fate is (
            Fate.landed
        )
        # A rerun of the whole job from the beginning walks through the same generations and signs nothing.
        assert await sign_submission(job, RESULT, 0, network=network, outbox=outbox) == first
        assert (await network.outcome(first)).fate is Fate.expired
        assert await sign_submission(job, RESULT, 1, network=network, outbox=outbox) == second
    assert world.completions(address) == 1


async def test_no_second_signature_while_the_first_may_land(world: World, outbox: Outbox) -> None:
    address = world.post("alive")
    async with world.worker() as network:
        job = await network.find(address)
        await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        with pytest.raises(StillAlive):
            await sign_submission(job, RESULT, 1, network=network, outbox=outbox)


async def test_expiry_is_not_believed_from_a_node_that_lags(world: World, outbox: Outbox) -> None:
    """Pins the double signature that follows when the height comes from one node and the status from a slower one."""
    address = world.post("lagging")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.advance(155)
        assert (await network.outcome(submission)).fate is Fate.expired
        ahead = world.chain.slot

        def one_node_behind(commitment: str = "processed") -> int:
            return ahead(commitment) - 150 if commitment == "processed" else ahead(commitment)

        world.chain.slot = one_node_behind  # type: ignore[method-assign]
        assert (await network.outcome(submission)).fate is Fate.unknown


async def test_a_rivals_completion_in_the_same_block_is_not_taken_for_ours(world: World, outbox: Outbox) -> None:
    """Pins a public worker's fault: a transaction that landed with error 6003 was reported as confirmed."""
    address = world.post("raced")
    async with world.worker() as network, world.worker("rival") as rival:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        theirs = await rival.prepare(job, Result(result_cid=OTHER_CID), 0)
        await rival.send(theirs)  # processed, not yet confirmed: our preflight does not see it
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.failed
        assert "6003 JobAlreadyCompleted" in outcome.reason
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert not settlement.ours
    assert (settlement.state, settlement.result_cid) == ("completed", OTHER_CID)
    assert settlement.fee == 5_000
    assert world.completions(address) == 1


async def test_the_same_result_from_a_rival_is_still_not_ours(world: World, outbox: Outbox) -> None:
    address = world.post("twins")
    async with world.worker() as network, world.worker("rival") as rival:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await rival.send(await rival.prepare(job, RESULT, 0))
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert settlement.result_cid == submission.result_cid
    assert not settlement.ours


async def test_a_cancellation_between_signing_and_sending_costs_no_fee(world: World, outbox: Outbox) -> None:
    address = world.post("cancelled")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        balance = await network.balance()
        world.cancel(address)
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.failed
        assert "6004 JobCancelled" in outcome.reason
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert await network.balance() == balance
    assert (settlement.ours, settlement.state, settlement.fee) == (False, "cancelled", None)


@pytest.mark.parametrize("ending", ["completed", "cancelled"])
async def test_a_job_that_ended_is_not_signed_for(world: World, outbox: Outbox, ending: str) -> None:
    address = world.post("ended")
    async with world.worker() as network:
        job = await network.find(address)
        assert await network.still_open(job)
        if ending == "cancelled":
            world.cancel(address)
        else:
            await world.beat_us_to(address)
        assert not await network.still_open(job)
        with pytest.raises(Declined, match=f"the job was {ending} by") as caught:
            await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
    assert caught.value.reason is DeclineReason.closed
    assert outbox.latest(job.key) is None


async def test_after_a_crash_between_recording_and_sending_the_same_bytes_go_out(
    world: World, outbox: Outbox, tmp_path: Path
) -> None:
    address = world.post("crashed")
    async with world.worker() as network:
        job = await network.find(address)
        signed = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
    async with world.worker() as network:
        after = Outbox(tmp_path / "outbox")
        other_result = Result(result_cid=OTHER_CID)
        again = await sign_submission(job, other_result, 0, network=network, outbox=after)
        assert again == signed
        await confirm_submission(job, again, network=network, outbox=after, pace=world.pace())
    (landed,) = world.chain.landed(address)[1:]
    assert landed == signed.transaction_id


async def test_after_a_crash_between_sending_and_confirming_nothing_is_sent_again(
    world: World, outbox: Outbox, tmp_path: Path
) -> None:
    address = world.post("sent")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await network.send(submission)
    world.chain.advance(3)
    sent = world.chain.calls["sendTransaction"]
    async with world.worker() as network:
        after = Outbox(tmp_path / "outbox")
        outcome = await confirm_submission(job, submission, network=network, outbox=after, pace=world.pace())
    assert outcome.fate is Fate.landed
    assert world.chain.calls["sendTransaction"] == sent


async def test_two_workers_of_one_key_confirm_at_once_and_one_transaction_lands(
    world: World, outbox: Outbox, tmp_path: Path
) -> None:
    address = world.post("twice")
    async with world.worker() as one, world.worker() as two:
        job = await one.find(address)
        other = Outbox(tmp_path / "outbox")
        first, second = await asyncio.gather(
            sign_submission(job, RESULT, 0, network=one, outbox=outbox),
            sign_submission(job, RESULT, 0, network=two, outbox=other),
        )
        assert first == second
        assert world.chain.calls["simulateTransaction"] == 1  # the second one waited, and signed nothing
        outcomes = await asyncio.gather(
            confirm_submission(job, first, network=one, outbox=outbox, pace=world.pace()),
            confirm_submission(job, second, network=two, outbox=other, pace=world.pace()),
        )
    assert [outcome.fate for outcome in outcomes] == [Fate.landed, Fate.landed]
    assert world.completions(address) == 1


async def test_a_chain_without_blocks_ends_in_an_unknown_outcome_and_nothing_is_lost(
    world: World, outbox: Outbox
) -> None:
    address = world.post("halted")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.drop_next(10_000)
        with pytest.raises(UnknownOutcome, match="no word about"):
            await confirm_submission(
                job, submission, network=network, outbox=outbox, pace=world.pace(deadline_seconds=20.0)
            )
        world.chain.clear_faults()
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert outcome.fate is Fate.landed
    assert world.completions(address) == 1


async def test_a_transaction_that_arrives_late_is_waited_for(world: World, outbox: Outbox) -> None:
    address = world.post("late")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.hold_next(1, slots=60)
        world.chain.drop_next(0)
        outcome = await confirm_submission(
            job, submission, network=network, outbox=outbox, pace=world.pace(rebroadcast_seconds=1_000.0)
        )
    assert outcome.fate is Fate.landed
    assert world.completions(address) == 1


async def test_finality_that_does_not_come_leaves_the_job_in_the_outbox(world: World, outbox: Outbox) -> None:
    address = world.post("unfinal")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        with pytest.raises(UnknownOutcome):
            await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace(deadline_seconds=2.0))
        assert outbox.unsettled() == [submission]
        assert (await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())).ours


async def test_an_expired_submission_of_an_open_job_is_not_settled(world: World, outbox: Outbox) -> None:
    address = world.post("open")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.advance(200)
        with pytest.raises(UnknownOutcome, match="still open"):
            await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert outbox.unsettled() == [submission]


async def test_what_is_only_processed_has_not_landed(world: World, outbox: Outbox) -> None:
    address = world.post("processed")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await network.send(submission)
        early = await network.outcome(submission)
        assert (early.fate, early.height) == (Fate.unknown, world.chain.slot())
        world.chain.advance(2)
        assert (await network.outcome(submission)).fate is Fate.landed


async def test_a_settlement_is_never_read_from_less_than_finalized_state(world: World, outbox: Outbox) -> None:
    address = world.post("not final")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        with pytest.raises(Transient, match="Minimum context slot"):
            await network.settlement(job, submission)


async def test_sending_what_is_on_the_chain_already_is_no_refusal(
    world: World, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    address = world.post("repeated")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await network.send(submission)
    world.chain.advance(3)
    caplog.clear()
    async with world.worker() as restarted:
        await restarted.send(submission)
        assert (await restarted.outcome(submission)).fate is Fate.landed
    assert "was not sent" not in caplog.text
    assert world.completions(address) == 1


async def test_a_node_that_does_not_know_the_blockhash_is_tried_again_later(world: World, outbox: Outbox) -> None:
    address = world.post("stale")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.advance(200)
        with pytest.raises(Transient, match="BlockhashNotFound"):
            await network.send(submission)


async def test_a_job_that_ended_after_our_signature_expired_leaves_nothing_to_follow(
    world: World, outbox: Outbox
) -> None:
    address = world.post("too late")
    async with world.worker() as network:
        job = await network.find(address)
        first = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.advance(200)
        await confirm_submission(job, first, network=network, outbox=outbox, pace=world.pace())
        assert outbox.unsettled() == [first]
        await world.beat_us_to(address)
        with pytest.raises(Declined, match="completed by somebody else"):
            await sign_submission(job, RESULT, 1, network=network, outbox=outbox)
    assert outbox.unsettled() == []
    assert outbox.latest(job.key) == first
