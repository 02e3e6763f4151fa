"""Sign, confirm and settle on ComputeChain: what lands, how often, and what we say about it."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from computechain_world import CONFIRMATIONS, FEE_WEI, RESULT, ROOT, WEI, World, computechain_world

from millrace.errors import Declined, DeclineReason, Permanent, Transient, UnknownOutcome
from millrace.network import Fate, Result, SignedSubmission
from protocols.computechain.transaction import ComputeResult
from stages.submit.computechain_inclusion import included_result
from stages.submit.computechain_opening import open_network
from stages.submit.confirm import confirm_submission
from stages.submit.generation import first_generation
from stages.submit.outbox import Outbox, StillAlive
from stages.submit.settle import SubmissionFailed, settle_job
from stages.submit.sign import sign_submission


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with computechain_world(tmp_path) as world:
        yield world


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


async def test_an_answer_is_signed_confirmed_and_settled_once_with_its_proof(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        assert (submission.nonce, submission.signed_at, submission.result_hash) == (0, job.height, ROOT)
        assert world.chain.calls["send"] == 0
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert (outcome.fate, outcome.final, outcome.fee) == (Fate.landed, False, FEE_WEI)
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert await network.balance() == WEI - FEE_WEI
        assert world.answers(network) == [submission.transaction_id]
    assert (settlement.ours, settlement.transaction_id) == (True, submission.transaction_id)
    assert settlement.fee == FEE_WEI
    assert settlement.inclusion is not None
    assert settlement.height == settlement.inclusion.block_height == job.height + 1
    assert included_result(settlement.inclusion) == ComputeResult(
        task_id=job.task_id,
        worker_address=job.worker_address,
        result_hash=ROOT,
        proof=RESULT.proof,
        nonce=0,
        signature="",
    )
    assert world.chain.calls["send"] == 1


async def test_the_proof_holds_in_a_block_with_others_results(world: World, outbox: Outbox) -> None:
    async with world.worker() as network, world.worker("a") as a, world.worker("b") as b, world.worker("c") as c:
        job = await world.newest_job(network)
        for rival in (a, b, c):
            theirs = await world.newest_job(rival)
            await rival.send(await rival.prepare(theirs, RESULT, 0))
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert settlement.inclusion is not None
    assert settlement.inclusion.count == 4
    assert len(settlement.inclusion.path) == 2
    assert included_result(settlement.inclusion).task_id == job.task_id


@pytest.mark.parametrize(
    ("field", "value"), [("root", "0" * 64), ("index", 5), ("block_hash", "1" * 64), ("leaf", '{"task_id":""}')]
)
async def test_a_proof_that_was_changed_is_found(world: World, outbox: Outbox, field: str, value: object) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert settlement.inclusion is not None
    with pytest.raises(Permanent):
        included_result(settlement.inclusion.model_copy(update={field: value}))


async def test_a_mempool_lost_in_a_restart_costs_time_and_nothing_else(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await network.send(submission)
        world.chain.restart()
        world.chain.make_block()
        assert (await network.outcome(submission)).fate is Fate.unknown
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed
        assert world.answers(network) == [submission.transaction_id]


async def test_what_the_proposer_drops_is_sent_again(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.drop_next(3)
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed
        assert world.chain.calls["send"] == 4
        assert world.answers(network) == [submission.transaction_id]


@pytest.mark.parametrize("kept", [True, False])
async def test_a_rollback_before_it_is_final_is_noticed_and_repaired(world: World, outbox: Outbox, kept: bool) -> None:
    """A block with our answer was taken back after we had called it landed."""
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        world.chain.rollback(1, keep_transactions=kept)
        assert (await network.outcome(submission)).fate is Fate.unknown
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert settlement.ours
        assert world.answers(network) == [submission.transaction_id]


async def test_after_a_deep_rollback_it_is_found_below_the_height_it_was_signed_at(
    world: World, outbox: Outbox
) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.rollback(6)
        await network.send(submission)
        lower = world.chain.make_block()
        outcome = await network.outcome(submission)
    assert lower < (submission.signed_at or 0)
    assert (outcome.fate, outcome.height) == (Fate.landed, lower)


async def test_a_nonce_that_a_stranger_took_is_signed_anew_only_once_that_is_confirmed(
    world: World, outbox: Outbox
) -> None:
    """Pins the double payment that follows when the stranger's block is taken back and both of ours land."""
    async with world.worker() as network:
        job = await world.newest_job(network)
        first = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.take_nonce(world.private_key())
        await network.send(first)
        world.chain.make_block(CONFIRMATIONS - 1)
        assert (await network.outcome(first)).fate is Fate.unknown
        with pytest.raises(StillAlive):
            await sign_submission(job, RESULT, 1, network=network, outbox=outbox)
        world.chain.make_block()
        outcome = await confirm_submission(job, first, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.expired
        assert "nonce 0 was used by" in outcome.reason
        second = await sign_submission(job, RESULT, 1, network=network, outbox=outbox)
        assert second.nonce == 1
        await confirm_submission(job, second, network=network, outbox=outbox, pace=world.pace())
        assert (await settle_job(job, second, network=network, outbox=outbox, pace=world.pace())).ours
        assert world.answers(network) == [second.transaction_id]


async def test_a_strangers_block_that_is_taken_back_leaves_the_nonce_to_us(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.take_nonce(world.private_key())
        world.chain.make_block()
        assert (await network.outcome(submission)).fate is Fate.unknown
        world.chain.rollback(1)
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed
        assert world.answers(network) == [submission.transaction_id]


async def test_a_receipt_that_stays_pending_or_lies_is_not_believed(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.stick_receipts()
        world.chain.forge_receipt(submission.transaction_id, "failed", "expired")
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed


async def test_a_block_that_is_stored_after_the_nonce_moved_is_waited_for(world: World, outbox: Outbox) -> None:
    """The node swaps its state first: the nonce was used, the block was not there, and a new one was signed."""
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await network.send(submission)
        world.chain.delay_storage(3600)
        world.chain.make_block()
        assert (await network.outcome(submission)).fate is Fate.unknown
        await network.send(submission)
        world.chain.delay_storage(0)
        assert (await network.outcome(submission)).fate is Fate.landed
    assert world.chain.calls["send"] == 1


async def test_a_refusal_for_good_is_told_and_the_next_run_sends_the_same_bytes(
    world: World, outbox: Outbox, tmp_path: Path
) -> None:
    """A rejection comes with HTTP 200; the node's own command line calls it a success."""
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.reject_next("invalid_signature")
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.failed
        with pytest.raises(SubmissionFailed, match="invalid_signature"):
            await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
    async with world.worker() as network:
        assert await first_generation(job, network=network, outbox=outbox) == 0
        again = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        assert again == submission
        await confirm_submission(job, again, network=network, outbox=outbox, pace=world.pace())
        assert (await settle_job(job, again, network=network, outbox=outbox, pace=world.pace())).ours
        assert world.answers(network) == [submission.transaction_id]


async def test_a_nonce_of_a_refused_answer_goes_to_the_next_job_and_the_first_is_signed_anew(
    world: World, outbox: Outbox
) -> None:
    """Kept for what no node takes, the nonce would hold up every answer after it."""
    async with world.worker() as network:
        refused_job = await world.newest_job(network)
        refused = await sign_submission(refused_job, RESULT, 0, network=network, outbox=outbox)
        world.chain.reject_next("invalid_signature")
        await confirm_submission(refused_job, refused, network=network, outbox=outbox, pace=world.pace())
        world.chain.make_block()
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        assert submission.nonce == refused.nonce
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        outcome = await confirm_submission(refused_job, refused, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.expired
        anew = await sign_submission(refused_job, RESULT, 1, network=network, outbox=outbox)
        await confirm_submission(refused_job, anew, network=network, outbox=outbox, pace=world.pace())
        assert world.answers(network) == [submission.transaction_id, anew.transaction_id]


async def test_what_a_former_key_signed_is_followed_to_its_end(world: World, outbox: Outbox) -> None:
    """After a change of the key the new account's nonce was taken for the old one's."""
    async with world.worker("former") as former:
        job = await world.newest_job(former)
        submission = await sign_submission(job, RESULT, 0, network=former, outbox=outbox)
    async with world.worker("present") as network:
        found = await network.find(job.job_id)
        outcome = await confirm_submission(found, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed
        settlement = await settle_job(found, submission, network=network, outbox=outbox, pace=world.pace())
        assert settlement.ours
        assert world.chain.landed(former.address) == [submission.transaction_id]


@pytest.mark.parametrize("words", ["mempool_full", "sender_limit_exceeded", "queued_limit_exceeded", "nonce_too_low"])
async def test_a_refusal_that_passes_is_no_failure(world: World, outbox: Outbox, words: str) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.reject_next(words, 2)
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed
        assert world.answers(network) == [submission.transaction_id]


async def test_jobs_signed_one_after_the_other_before_any_is_sent_get_nonces_of_their_own(
    world: World, outbox: Outbox
) -> None:
    """Two submissions within one block from the confirmed nonce: the second was rejected."""
    async with world.worker() as network:
        signed = []
        for _ in range(3):
            world.chain.make_block()
            job = await world.newest_job(network)
            signed.append((job, await sign_submission(job, RESULT, 0, network=network, outbox=outbox)))
        assert [submission.nonce for _, submission in signed] == [0, 1, 2]
        for job, submission in reversed(signed):
            outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
            assert outcome.fate is Fate.landed
        assert world.answers(network) == [submission.transaction_id for _, submission in signed]


async def test_what_nobody_follows_any_more_does_not_hold_up_what_comes_after_it(world: World, outbox: Outbox) -> None:
    """A flow run given up after hours without a node left a nonce unused, and every later answer waited for it."""
    async with world.worker() as network:
        abandoned_job = await world.newest_job(network)
        abandoned = await sign_submission(abandoned_job, RESULT, 0, network=network, outbox=outbox)
        world.chain.make_block()
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed
        assert world.answers(network) == [abandoned.transaction_id, submission.transaction_id]


async def test_a_nonce_that_only_the_lost_outbox_knew_is_given_again(
    world: World, outbox: Outbox, tmp_path: Path
) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        empty = Outbox(tmp_path / "another outbox")
        assert (await sign_submission(job, RESULT, 0, network=network, outbox=empty)).nonce == 0


async def test_an_answer_on_the_chain_is_not_given_twice_though_the_outbox_is_lost(
    world: World, outbox: Outbox, tmp_path: Path
) -> None:
    """The chain takes a second answer to the same task, and charges for it."""
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        with pytest.raises(Declined, match="already") as caught:
            await sign_submission(job, RESULT, 0, network=network, outbox=Outbox(tmp_path / "another outbox"))
    assert caught.value.reason is DeclineReason.closed


def _sign_many(folder: Path, settings_json: str, job_ids: list[str], ready: threading.Barrier) -> None:
    from millrace.settings import Settings

    async def sign() -> None:
        async with open_network(Settings.model_validate_json(settings_json)) as network:
            jobs = [await network.find(job_id) for job_id in job_ids]
            ready.wait(30)
            outbox = Outbox(folder)
            for job in jobs:
                await sign_submission(job, RESULT, 0, network=network, outbox=outbox)

    asyncio.run(sign())


@pytest.mark.slow
async def test_two_processes_with_one_key_at_once_take_no_nonce_twice(
    world: World, outbox: Outbox, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    async with world.worker() as network:
        jobs = []
        for _ in range(6):
            world.chain.make_block()
            jobs.append(await world.newest_job(network))
        settings = world.settings().model_dump_json()
        ready = context.Barrier(2)
        processes = [
            context.Process(target=_sign_many, args=(tmp_path / "outbox", settings, [j.job_id for j in half], ready))
            for half in (jobs[:3], jobs[3:])
        ]
        for process in processes:
            process.start()
        for process in processes:
            await asyncio.to_thread(process.join, 60)
        signed = outbox.in_lane(network.lane)
        assert [submission.nonce for submission in signed] == list(range(6))
        outcomes = await asyncio.gather(
            *[
                confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
                for job in jobs
                if (submission := outbox.latest(job.key)) is not None
            ]
        )
        assert [outcome.fate for outcome in outcomes] == [Fate.landed] * 6
        assert len(world.answers(network)) == 6


async def test_after_a_crash_between_recording_and_sending_the_same_bytes_go_out(
    world: World, outbox: Outbox, tmp_path: Path
) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        signed = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
    async with world.worker() as network:
        after = Outbox(tmp_path / "outbox")
        other = Result(result_cid="another", result_hash="6e" * 32, proof="{}")
        again = await sign_submission(job, other, 0, network=network, outbox=after)
        assert again == signed
        await confirm_submission(job, again, network=network, outbox=after, pace=world.pace())
        assert world.answers(network) == [signed.transaction_id]


async def test_after_a_crash_between_sending_and_confirming_nothing_is_sent_again(
    world: World, outbox: Outbox, tmp_path: Path
) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await network.send(submission)
    world.chain.make_block(2)
    async with world.worker() as network:
        after = Outbox(tmp_path / "outbox")
        outcome = await confirm_submission(job, submission, network=network, outbox=after, pace=world.pace())
        assert outcome.fate is Fate.landed
        assert world.answers(network) == [submission.transaction_id]
    assert world.chain.calls["send"] == 1


async def test_two_flow_runs_of_one_job_at_once_land_one_answer(world: World, outbox: Outbox, tmp_path: Path) -> None:
    async with world.worker() as one, world.worker() as two:
        job = await world.newest_job(one)
        other = Outbox(tmp_path / "outbox")
        first, second = await asyncio.gather(
            sign_submission(job, RESULT, 0, network=one, outbox=outbox),
            sign_submission(job, RESULT, 0, network=two, outbox=other),
        )
        assert first == second
        await asyncio.gather(
            confirm_submission(job, first, network=one, outbox=outbox, pace=world.pace()),
            confirm_submission(job, second, network=two, outbox=other, pace=world.pace()),
        )
        assert world.answers(one) == [first.transaction_id]


FAULTS: dict[str, dict[str, object]] = {
    "503": {"status": 503},
    "reset": {"kind": "reset"},
    "lost_reply": {"kind": "lost_reply"},
    "malformed": {"kind": "malformed"},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["send", "nonce", "block", "status"])
async def test_confirmation_outlives_a_failing_node(world: World, outbox: Outbox, call: str, fault: str) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.fail(call, times=3, **FAULTS[fault])  # type: ignore[arg-type]
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed
        assert (await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())).ours
        assert world.answers(network) == [submission.transaction_id]


async def test_a_chain_without_blocks_ends_in_an_unknown_outcome_and_nothing_is_lost(
    world: World, outbox: Outbox
) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.sleeping_makes_blocks = False
        with pytest.raises(UnknownOutcome, match="no word about"):
            await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        world.sleeping_makes_blocks = True
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed
        assert world.answers(network) == [submission.transaction_id]


async def test_a_block_that_was_taken_back_is_closed_and_not_signed_for(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        assert await network.still_open(job)
        world.chain.rollback(1)
        with pytest.raises(Transient):
            await network.still_open(job)  # a node that lags behind looks just like this
        world.chain.make_block()
        assert not await network.still_open(job), "another block has its height"
        with pytest.raises(Declined, match="taken back") as caught:
            await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
    assert caught.value.reason is DeclineReason.closed
    assert outbox.latest(job.key) is None


async def test_a_node_of_another_chain_is_refused_before_anything_is_signed(world: World, outbox: Outbox) -> None:
    """A transaction names no chain: signed for one, it can be replayed on every other."""
    with pytest.raises(Permanent, match="cpc-mainnet-1"):
        async with world.worker(chain_id="cpc-mainnet-1"):
            pytest.fail("opened on another chain")


async def test_a_purse_that_covers_fee_and_floor_is_told_from_one_that_does_not(world: World) -> None:
    floor = 1_000
    async with world.worker("rich", wei=FEE_WEI + floor, balance_floor_wei=floor) as rich:
        await rich.affordable()
    async with world.worker("poor", wei=FEE_WEI + floor - 1, balance_floor_wei=floor) as poor:
        with pytest.raises(Declined) as caught:
            await poor.affordable()
    assert caught.value.reason is DeclineReason.too_poor
    assert f"has {FEE_WEI + floor - 1} wei" in caught.value.message
    assert f"at least 1 wei to {poor.address}" in caught.value.hint


async def test_a_purse_emptied_before_sending_is_told_and_the_same_bytes_land_once_it_is_filled(
    world: World, outbox: Outbox
) -> None:
    async with world.worker(wei=FEE_WEI) as network:
        job = await world.newest_job(network)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.fund(network.address, -1)
        with pytest.raises(Declined) as caught:
            await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert caught.value.reason is DeclineReason.too_poor
        world.chain.fund(network.address, 1)
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed
        assert world.answers(network) == [submission.transaction_id]


@pytest.mark.parametrize("field", ["chain_id", "key_name"])
async def test_a_setting_that_is_missing_is_named(world: World, field: str) -> None:
    settings = world.settings(**{field: ""})
    with pytest.raises(Permanent, match=f"MILLRACE_COMPUTECHAIN__{field.upper()} is not set"):
        async with open_network(settings):
            pytest.fail("opened without it")


async def test_what_is_signed_and_not_charged_yet_counts_as_spent(world: World, outbox: Outbox) -> None:
    async with world.worker(wei=2 * FEE_WEI - 1) as network:
        job = await world.newest_job(network)
        await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.make_block()
        later = await world.newest_job(network)
        with pytest.raises(Declined) as caught:
            await sign_submission(later, RESULT, 0, network=network, outbox=outbox)
    assert caught.value.reason is DeclineReason.too_poor


async def test_a_gas_price_below_the_networks_least_is_refused_at_once(world: World) -> None:
    with pytest.raises(Permanent, match="below this network's least"):
        async with world.worker(gas_price=999):
            pytest.fail("opened with a gas price that no node takes")


@pytest.mark.parametrize("job_id", ["", "5", "5-xyz", f"-1-{'a' * 64}", f"5-{'A' * 64}", "../5"])
async def test_a_job_id_that_names_no_block_is_permanent(world: World, job_id: str) -> None:
    async with world.worker() as network:
        with pytest.raises(Permanent):
            await network.find(job_id)


async def test_a_job_found_by_its_id_is_the_one_that_was_discovered(world: World) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        assert await network.find(job.job_id) == job
        assert job.key == f"computechain/{world.net.chain_id}/{job.height}-{job.block_hash}"


async def test_signed_bytes_that_were_changed_by_hand_are_not_sent(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.newest_job(network)
        submission: SignedSubmission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        with pytest.raises(Permanent, match="cannot be read"):
            await network.send(submission.model_copy(update={"payload": "e30="}))
    assert world.chain.calls["send"] == 0
