"""Sign, confirm and settle on NEAR: what lands, how often, and what the contract shows in the end."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from near_world import CID, FAILED, World, answer, near_world

from localnet.near import CONTRACT, OPERATOR, REQUESTER, Dialect
from localnet.near.environment import panic
from millrace.errors import Declined, DeclineReason, Permanent, Transient, UnknownOutcome
from millrace.network import Fate, SignedSubmission
from protocols.near.contract import YIELD_TIMEOUT_BLOCKS
from protocols.near.contract_views import EARLY_BLOCKS
from protocols.near.job import OffchainVmJob
from protocols.near.keys import NearKey, hash_bytes
from protocols.near.transactions import FunctionCall, SignedTransaction, Transaction
from stages.submit.confirm import confirm_submission
from stages.submit.generation import first_generation
from stages.submit.offchainvm import OffchainVmNetwork
from stages.submit.offchainvm_answer import Answer, in_format
from stages.submit.outbox import Outbox, StillAlive
from stages.submit.settle import SubmissionFailed, settle_job
from stages.submit.sign import sign_submission


@pytest.fixture(params=[0, 3], ids=["final at once", "final 3 blocks later"])
def finality_lag(request: pytest.FixtureRequest) -> int:
    lag: int = request.param
    return lag


@pytest.fixture(params=list(Dialect))
def world(request: pytest.FixtureRequest, tmp_path: Path, finality_lag: int) -> Iterator[World]:
    with near_world(tmp_path, request.param, finality_lag=finality_lag) as world:
        yield world


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


class Worker:
    """The submitting half of a flow run."""

    def __init__(self, world: World, network: OffchainVmNetwork, outbox: Outbox) -> None:
        self.world, self.network, self.outbox = world, network, outbox

    async def sign(self, job: OffchainVmJob, result: Answer, generation: int = 0) -> SignedSubmission:
        return await sign_submission(job, result, generation, network=self.network, outbox=self.outbox)

    async def confirm(self, job: OffchainVmJob, submission: SignedSubmission) -> Any:
        return await confirm_submission(
            job, submission, network=self.network, outbox=self.outbox, pace=self.world.pace()
        )

    async def settle(self, job: OffchainVmJob, submission: SignedSubmission) -> Any:
        return await settle_job(job, submission, network=self.network, outbox=self.outbox, pace=self.world.pace())

    async def do(self, job: OffchainVmJob, result: Answer) -> Any:
        submission = await self.sign(job, result)
        await self.confirm(job, submission)
        return await self.settle(job, submission)


async def handed_over(network: OffchainVmNetwork, submission: SignedSubmission) -> None:
    """Send it to a node whose blocks do not come by themselves, so that it cannot say that it is in one."""
    with pytest.raises(UnknownOutcome):
        await network.send(submission)


def returned(world: World) -> Any:
    """What the newest transaction of the requester's came to."""
    for height in range(world.chain.height(), 0, -1):
        block = world.chain.block(height)
        for sent in block.transactions if block else ():
            if sent.transaction.signer_id == REQUESTER:
                return world.chain.result_of(sent.hash)
    raise AssertionError("nobody asked")


async def test_a_success_is_signed_confirmed_and_settled_once(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        submission = await worker.sign(job, answer())
        assert world.chain.calls["send_tx"] == 0
        outcome = await worker.confirm(job, submission)
        assert outcome.fate is Fate.landed
        settlement = await worker.settle(job, submission)
        assert not await network.still_open(job)
    assert (settlement.ours, settlement.state, settlement.result_cid) == (True, "resolved", CID)
    assert settlement.price == submission.price > 0
    assert settlement.fee > 0
    assert world.chain.pending() == []
    assert world.resolutions() == [submission.transaction_id]
    assert json.loads(base64_of(returned(world))) == "42"


def base64_of(status: Any) -> bytes:
    return base64.b64decode(status["SuccessValue"])


async def test_a_landed_success_is_not_final_before_the_contract_has_let_the_request_go(
    world: World, outbox: Outbox
) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        submission = await worker.sign(job, answer())
        await handed_over(network, submission)
        world.chain.make_block(2)
        assert world.chain.pending() == [job.request.request_id]
        outcome = await network.outcome(submission)
        assert (outcome.fate, outcome.final) == (Fate.landed, False)
        world.chain.make_block(1 + world.finality_lag)
        assert (await network.outcome(submission)).final


async def test_a_failure_is_an_answer_in_each_dialect(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        settlement = await Worker(world, network, outbox).do(job, FAILED)
    assert settlement.ours
    assert len(world.resolutions()) == 1
    if world.net.dialect is Dialect.early:
        # The contract's callback panics, and all that it did is taken back.
        assert world.chain.pending() == [job.request.request_id]
        assert "deposit stays" in settlement.state
        assert settlement.price is None
        world.chain.make_block()
        assert "out of fuel" in json.dumps(returned(world))
        assert CID in json.dumps(returned(world))
    else:
        assert world.chain.pending() == []
        assert settlement.price == 10**21
        assert base64_of(returned(world)) == b"null"


@pytest.mark.parametrize("world", [Dialect.head], indirect=True)
async def test_a_large_output_goes_through_the_contracts_storage(world: World, outbox: Outbox) -> None:
    text = "ä" * 20_000
    async with world.worker() as network:
        job = await world.job(network)
        await Worker(world, network, outbox).do(job, answer(text.encode()))
    assert json.loads(base64_of(returned(world))) == text


@pytest.mark.parametrize("world", [Dialect.early], indirect=True)
async def test_an_output_that_does_not_fit_is_answered_with_its_cid(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        await Worker(world, network, outbox).do(job, answer(b"x" * 2_000, result_bytes=2_000))
    told = json.loads(json.loads(base64_of(returned(world))))
    assert told == {"cid": CID, "sha256": "5f" * 32, "bytes": 2_000}


@pytest.mark.parametrize("world", [Dialect.early], indirect=True)
async def test_an_output_that_is_no_text_is_answered_with_its_cid(world: World, outbox: Outbox) -> None:
    """EARLY's contract returns null for it, and takes the whole price."""
    async with world.worker() as network:
        job = await world.job(network)
        await Worker(world, network, outbox).do(job, answer(b"\xff\xfe", result_bytes=2))
    assert json.loads(json.loads(base64_of(returned(world))))["cid"] == CID


@pytest.mark.parametrize("world", [Dialect.head], indirect=True)
async def test_what_is_not_in_the_format_asked_for_is_a_failure(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network, response_format="Json")
        settlement = await Worker(world, network, outbox).do(job, in_format(job, answer(b"not json")))
    assert (settlement.ours, settlement.state, settlement.price) == (True, "resolved as failed", 10**21)
    assert base64_of(returned(world)) == b"null"


@pytest.mark.parametrize("world", [Dialect.early], indirect=True)
async def test_a_request_that_early_keeps_although_it_was_resolved_as_failed_is_not_signed_for_again(
    world: World, outbox: Outbox, tmp_path: Path
) -> None:
    """Another machine's failure leaves the request in the contract: ours seemed to have come too early, five times."""
    async with world.worker() as network:
        job = await world.job(network)
        await Worker(world, network, Outbox(tmp_path / "another machine's")).do(job, FAILED)
        world.chain.make_block(10)
        assert await network.still_open(job)
        worker = Worker(world, network, outbox)
        submission = await worker.sign(job, answer())
        assert (await worker.confirm(job, submission)).fate is Fate.failed
    assert len(world.resolutions()) == 1


@pytest.mark.parametrize("world", [Dialect.head], indirect=True)
async def test_a_resolution_that_came_too_early_is_signed_anew(world: World, outbox: Outbox) -> None:
    """ "Unable to resume" means three things; only the contract can say that it was too early."""
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        world.chain.refuse_resumes(1)
        first = await worker.sign(job, answer())
        assert (await worker.confirm(job, first)).fate is Fate.expired
        second = await worker.sign(job, answer(), 1)
        assert second.transaction_id != first.transaction_id
        assert (await worker.confirm(job, second)).fate is Fate.landed
        assert (await worker.settle(job, second)).ours
    assert world.resolutions() == [second.transaction_id]


async def test_a_request_that_somebody_else_settled_is_told_so(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        ours = await worker.sign(job, answer())
        # The operator's other machine, which knows nothing of this one's outbox.
        other = await network.prepare(job, answer(b"43"), 0, [ours])
        await handed_over(network, other)
        world.chain.make_block(4 + world.finality_lag)
        outcome = await worker.confirm(job, ours)
        if world.net.dialect is Dialect.head:
            assert outcome.fate in (Fate.failed, Fate.expired)
        settlement = None
        if outcome.fate is Fate.failed:
            settlement = await worker.settle(job, ours)
            assert not settlement.ours
        with pytest.raises(Declined) as declined:
            await worker.sign(job, answer(), 1)
        assert declined.value.reason is DeclineReason.closed
    assert world.resolutions() == [other.transaction_id]


@pytest.mark.parametrize("world", [Dialect.early], indirect=True)
async def test_what_another_machine_answered_as_failed_is_left_alone_after_one_refusal(
    world: World, tmp_path: Path
) -> None:
    """EARLY shows such a request as pending for 200 blocks: five were signed in each of three attempts."""
    ours, theirs = Outbox(tmp_path / "ours"), Outbox(tmp_path / "theirs")
    async with world.worker("a") as network, world.worker("b") as other:
        job = await world.job(network)
        assert (await Worker(world, other, theirs).do(job, FAILED)).ours
        world.chain.make_block(EARLY_BLOCKS)
        worker = Worker(world, network, ours)
        submission = await worker.sign(job, answer())
        assert (await worker.confirm(job, submission)).fate is Fate.failed
        settlement = await worker.settle(job, submission)
        assert (settlement.ours, settlement.by_others) == (False, False)
        assert "settled, cancelled or timed out before" in settlement.state
    async with world.worker("a") as network:  # another attempt at it
        assert await first_generation(job, network=network, outbox=ours) == 0
        with pytest.raises(Declined):
            await network.prepare(job, answer(), 1)
    assert len(world.chain.sent_by(OPERATOR)) == 2


@pytest.mark.parametrize("world", [Dialect.head], indirect=True)
async def test_two_machines_at_once_sign_once_each(world: World, tmp_path: Path) -> None:
    """While the other's callback was not final yet, a refusal was taken for an early one."""
    second = NearKey(b"\x07" * 32)
    world.chain.add_key(OPERATOR, second.public_key)
    async with world.worker("a") as network, world.worker("b", private_keys=[second.secret_key]) as other:
        job = await world.job(network)
        ours = Worker(world, network, Outbox(tmp_path / "ours"))
        theirs = Worker(world, other, Outbox(tmp_path / "theirs"))
        mine, their = await ours.sign(job, answer()), await theirs.sign(job, answer(b"43"))
        await handed_over(other, their)
        assert (await ours.confirm(job, mine)).fate is Fate.failed
        assert not (await ours.settle(job, mine)).ours
        assert (await theirs.settle(job, their)).ours
    assert len(world.chain.sent_by(OPERATOR)) == 2


async def test_a_callback_that_fails_is_no_success(world: World, outbox: Outbox) -> None:
    """The request stays, the submission never became final, and its job was tried for ever."""

    def respond(*_: Any) -> bytes:
        raise panic("Exceeded the prepaid gas.")

    world.chain.contract._respond = respond  # type: ignore[method-assign,assignment]
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        submission = await worker.sign(job, answer())
        assert (await worker.confirm(job, submission)).fate is Fate.landed
        outcome = await network.outcome(submission)
        assert (outcome.fate, outcome.final) == (Fate.landed, False)
        world.chain.make_block(YIELD_TIMEOUT_BLOCKS + 10)
        settlement = await worker.settle(job, submission)
        assert not settlement.ours
        assert "callback failed" in settlement.state
        assert await first_generation(job, network=network, outbox=outbox) == 0


async def test_no_more_is_earned_than_the_requester_paid(world: World) -> None:
    """Limits that a request leaves open cost nothing in the contract's estimate, and are used all the same."""
    async with world.worker() as network:
        job = await world.job(network)
        submission = await network.prepare(job, answer(instructions=10**18), 0)
    assert submission.price == job.request.payment_yocto == 10**24


async def test_a_request_that_timed_out_is_closed(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        submission = await worker.sign(job, answer())
        world.chain.make_block(YIELD_TIMEOUT_BLOCKS)
        assert (await worker.confirm(job, submission)).fate is Fate.failed
        settlement = await worker.settle(job, submission)
    assert (settlement.ours, settlement.by_others) == (False, False)
    assert "timed out before" in settlement.state
    assert world.resolutions() == []


async def test_a_lost_transaction_is_sent_again_with_the_same_bytes(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        submission = await worker.sign(job, answer())
        world.chain.drop_next(2)
        assert (await worker.confirm(job, submission)).fate is Fate.landed
        assert world.chain.calls["send_tx"] == 3
    assert world.resolutions() == [submission.transaction_id]


async def test_a_reply_that_is_lost_is_looked_up(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        submission = await worker.sign(job, answer())
        world.chain.fail("send_tx", kind="lost_reply")
        assert (await worker.confirm(job, submission)).fate is Fate.landed
    assert world.resolutions() == [submission.transaction_id]


async def test_a_nonce_taken_by_a_stranger_is_proven_before_another_is_signed(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        submission = await worker.sign(job, answer())
        with pytest.raises(StillAlive):
            await worker.sign(job, answer(), 1)
        use_nonce(world, submission.nonce or 0)
        world.chain.make_block(2)
        assert (await worker.confirm(job, submission)).fate is Fate.expired
        again = await worker.sign(job, answer(), 1)
        assert (await worker.confirm(job, again)).fate is Fate.landed
    assert again.transaction_id in world.resolutions()
    assert submission.transaction_id not in world.resolutions()


def use_nonce(world: World, nonce: int) -> None:
    """Use that nonce of the operator's key for something else."""
    key: NearKey = world.net.operator
    call = FunctionCall("relay", b"{}")
    block = hash_bytes(world.chain.tip.hash)
    stranger = Transaction(OPERATOR, key.public_bytes, nonce, CONTRACT, block, (call,)).signed_by(key)
    assert world.chain.receive(stranger) is None


async def test_several_keys_are_lanes_that_do_not_wait_for_each_other(world: World, outbox: Outbox) -> None:
    second = NearKey(b"\x07" * 32)
    world.chain.add_key(OPERATOR, second.public_key)
    async with (
        world.worker("a") as first_lane,
        world.worker("b", private_keys=[second.secret_key]) as second_lane,
    ):
        assert first_lane.lane != second_lane.lane
        job = await world.job(first_lane)
        world.ask()
        world.chain.make_block(world.finality_lag)
        other = (await first_lane.pending())[-1]
        stuck = await Worker(world, first_lane, outbox).sign(job, answer())
        settlement = await Worker(world, second_lane, outbox).do(other, answer(b"43"))
        assert settlement.ours
        assert (await first_lane.outcome(stuck)).fate is Fate.unknown


async def test_signatures_of_one_lane_follow_each_other(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        world.ask()
        world.chain.make_block(world.finality_lag)
        other = (await network.pending())[-1]
        worker = Worker(world, network, outbox)
        first, second = await worker.sign(job, answer()), await worker.sign(other, answer(b"43"))
        assert (second.nonce or 0) == (first.nonce or 0) + 1
        # Following the second sends the first as well: landing alone, it would end the first's chance.
        assert (await worker.confirm(other, second)).fate is Fate.landed
        assert (await worker.confirm(job, first)).fate is Fate.landed
        assert (await worker.settle(other, second)).ours
        assert (await worker.settle(job, first)).ours
    assert world.chain.pending() == []


async def test_an_account_without_money_signs_nothing(world: World, outbox: Outbox) -> None:
    async with world.worker(balance_floor_yocto=10**30) as network:
        job = await world.job(network)
        with pytest.raises(Declined) as declined:
            await Worker(world, network, outbox).sign(job, answer())
    assert declined.value.reason is DeclineReason.too_poor
    assert outbox.history(job.key) == ()


async def test_a_node_that_lags_behind_the_request_is_asked_again(world: World) -> None:
    """A node that had not seen the request's block said "no such request", and the job was left as closed."""
    async with world.worker() as network:
        job = await world.job(network)
        ahead = job.model_copy(
            update={"context": type(job.context)(**{**vars(job.context), "block_height": world.chain.height() + 5})}
        )
        with pytest.raises(Transient, match="no final block"):
            await network.still_open(ahead)


async def test_a_node_that_is_away_leaves_the_outcome_unknown(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        submission = await worker.sign(job, answer())
        world.chain.fail("*", times=1000)
        with pytest.raises(UnknownOutcome):
            await worker.confirm(job, submission)
        world.chain.clear_faults()
        assert (await worker.confirm(job, submission)).fate is Fate.landed


async def test_another_contracts_request_is_not_ours(world: World) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        with pytest.raises(Permanent, match="the settings name"):
            await network.still_open(job.model_copy(update={"chain_id": "mainnet:outlayer.near"}))


async def test_a_transaction_that_a_node_refuses_for_good_fails(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        worker = Worker(world, network, outbox)
        submission = await worker.sign(job, answer())
        world.chain.reject_next({"ActionsValidation": "TotalPrepaidGasExceeded"}, times=50)
        assert (await worker.confirm(job, submission)).fate is Fate.failed
        with pytest.raises(SubmissionFailed, match="TotalPrepaidGas"):
            await worker.settle(job, submission)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"senders": ["somebody.else"]}, DeclineReason.not_allowed),
        ({"most_instructions": 5}, DeclineReason.too_big),
        ({"most_memory_mb": 1}, DeclineReason.too_big),
        ({"most_seconds": 1}, DeclineReason.too_big),
    ],
)
async def test_the_operators_rules_are_kept(world: World, fields: dict[str, Any], reason: DeclineReason) -> None:
    async with world.worker(**fields) as network:
        job = await world.job(network)
        with pytest.raises(Declined) as declined:
            network.allowed(job)
    assert declined.value.reason is reason


async def test_a_worker_that_the_contract_does_not_know_is_told_before_it_begins(world: World) -> None:
    stranger = NearKey(b"\x09" * 32)
    world.chain.fund("stranger.test.near", 10**25)
    world.chain.add_key("stranger.test.near", stranger.public_key)
    with pytest.raises(Permanent, match=r"takes answers from worker\.test\.near"):
        async with world.worker(account_id="stranger.test.near", private_keys=[stranger.secret_key]):
            pass


async def test_the_signed_bytes_are_what_the_outbox_says(world: World, outbox: Outbox) -> None:
    async with world.worker() as network:
        job = await world.job(network)
        submission = await Worker(world, network, outbox).sign(job, answer())
    signed = SignedTransaction.from_base64(submission.payload)
    assert signed.verifies
    assert (signed.hash, signed.transaction.nonce) == (submission.transaction_id, submission.nonce)
    assert outbox.latest(job.key) == submission
