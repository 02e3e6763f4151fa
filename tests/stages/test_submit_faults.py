"""Submitting through a node that fails in every way, at every call: one transaction lands, and it is ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudmesh_world import CID, World, cloudmesh_world

from localnet.solana import SolanaLocalnet
from millrace.errors import Declined, DeclineReason, Permanent, Transient
from millrace.network import Fate, Result
from stages.submit.cloudmesh import open_network
from stages.submit.confirm import confirm_submission
from stages.submit.outbox import Outbox
from stages.submit.settle import settle_job
from stages.submit.sign import sign_submission

RESULT = Result(result_cid=CID)
METHODS = ["sendTransaction", "getSignatureStatuses", "getEpochInfo"]
FAULTS: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "retry_after_seconds": 3},
    "503": {"status": 503},
    "reset": {"kind": "reset"},
    "lost_reply": {"kind": "lost_reply"},
    "malformed": {"kind": "malformed"},
    "unhealthy": {"kind": "unhealthy"},
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with cloudmesh_world(tmp_path) as world:
        yield world


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", METHODS)
async def test_confirmation_outlives_a_failing_node(world: World, outbox: Outbox, method: str, fault: str) -> None:
    """Pins a public worker's fault: a slow or failed answer was a failed job, and everything ran again."""
    address = world.post("faulty")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        world.chain.fail(method, times=3, **FAULTS[fault])
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        assert outcome.fate is Fate.landed
        assert (await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())).ours
    assert world.completions(address) == 1


@pytest.mark.parametrize(
    "method", ["getAccountInfo", "getLatestBlockhash", "simulateTransaction", "getRecentPrioritizationFees"]
)
async def test_signing_through_a_failing_node_records_nothing_and_works_later(
    world: World, outbox: Outbox, method: str
) -> None:
    address = world.post("unsigned")
    async with world.worker() as network:
        job = await network.find(address)
        world.chain.fail(method)
        with pytest.raises(Transient):
            await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        assert outbox.latest(job.key) is None
        assert (await sign_submission(job, RESULT, 0, network=network, outbox=outbox)).generation == 0


async def test_a_fee_that_cannot_be_had_does_not_hold_up_the_settlement(world: World, outbox: Outbox) -> None:
    address = world.post("no fee")
    async with world.worker() as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        world.chain.fail("getTransaction", times=100)
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert settlement.ours
    assert settlement.fee is None


async def test_one_dead_endpoint_of_two_does_no_harm(world: World, outbox: Outbox) -> None:
    address = world.post("two endpoints")
    with SolanaLocalnet() as gone:
        dead_url = gone.url
    async with world.worker(rpc_urls=[dead_url, world.net.url]) as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        outcome = await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert outcome.fate is Fate.landed
    assert world.completions(address) == 1


async def test_no_endpoint_at_all_is_transient(world: World) -> None:
    with SolanaLocalnet() as gone:
        dead_url = gone.url
    with pytest.raises(Transient):
        async with world.worker(rpc_urls=[dead_url]):
            pytest.fail("opened without a chain")


async def test_a_wrong_genesis_hash_stops_everything(world: World) -> None:
    async with world.worker(genesis_hash="4uhcVJyU9pJkvQyS88uRDiswHXSCkY3zQawwpjk2NsNY") as network:
        with pytest.raises(Permanent, match=f"{world.net.url} serves the chain {world.net.genesis_hash}"):
            await network.pending()


async def test_a_job_of_another_chain_is_refused(world: World, outbox: Outbox) -> None:
    address = world.post("elsewhere")
    async with world.worker() as network:
        job = (await network.find(address)).model_copy(update={"chain_id": "another"})
        with pytest.raises(Permanent, match="the job is on chain another"):
            await sign_submission(job, RESULT, 0, network=network, outbox=outbox)


async def test_a_purse_that_covers_the_fees_is_told_from_one_that_does_not(world: World) -> None:
    reserve, fees = 890_880, 5_000 + 100_000
    async with world.worker("rich", lamports=reserve + fees) as rich:
        await rich.affordable()
    async with world.worker("poor", lamports=reserve + fees - 1) as poor:
        with pytest.raises(Declined) as caught:
            await poor.affordable()
    assert caught.value.reason is DeclineReason.too_poor
    for wanted in (poor.address, f"has {reserve + fees - 1} lamports", f"needs {reserve + fees}"):
        assert wanted in caught.value.message
    assert f"at least 1 lamports to {poor.address}" in caught.value.hint


async def test_an_empty_purse_is_declined_at_signing_too(world: World, outbox: Outbox) -> None:
    address = world.post("broke")
    async with world.worker("broke", lamports=0) as network:
        job = await network.find(address)
        with pytest.raises(Declined) as caught:
            await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
    assert caught.value.reason is DeclineReason.too_poor
    assert outbox.latest(job.key) is None


async def test_texts_that_the_account_cannot_hold_are_our_permanent_fault(world: World, outbox: Outbox) -> None:
    """Pins error 3004: title, code CID and result CID share 228 bytes."""
    address = world.post("t" * 32, "c" * 100)
    async with world.worker() as network:
        job = await network.find(address)
        with pytest.raises(Permanent, match="3004 AccountDidNotSerialize"):
            await sign_submission(job, Result(result_cid="r" * 97), 0, network=network, outbox=outbox)
        await sign_submission(job, Result(result_cid="r" * 96), 0, network=network, outbox=outbox)


@pytest.mark.parametrize("job_id", ["no-address", "1" * 32])
async def test_a_job_that_does_not_exist_is_permanent(world: World, job_id: str) -> None:
    async with world.worker() as network:
        with pytest.raises(Permanent):
            await network.find(job_id)


@pytest.mark.parametrize(
    ("fields", "setting"),
    [({"program_id": ""}, "PROGRAM_ID is not set"), ({"program_id": "x"}, "PROGRAM_ID is not a Solana address")],
)
async def test_a_program_that_is_not_named_rightly_is_refused_before_a_key_is_made(
    world: World, fields: dict[str, str], setting: str
) -> None:
    settings = world.settings(**fields)
    with pytest.raises(Permanent, match=setting):
        async with open_network(settings):
            pytest.fail("opened without a program")
    assert not settings.cloudmesh.keypair_path.exists()


async def test_the_price_is_the_policys_and_lands_on_the_chain(world: World, outbox: Outbox) -> None:
    address = world.post("metered")
    result = Result(result_cid=CID, code_bytes=100, result_bytes=50, wall_seconds=1.239)
    async with world.worker(cost_policy="metered") as network:
        job = await network.find(address)
        submission = await sign_submission(job, result, 0, network=network, outbox=outbox)
        assert submission.price == 1_000_000 + 1_500 + 123
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert settlement.price == submission.price


async def test_the_priority_fee_follows_the_market_up_to_the_cap(world: World, outbox: Outbox) -> None:
    world.chain.set_priority_fee(50_000_000)
    address = world.post("dear")
    async with world.worker(priority_fee_cap=2_000_000) as network:
        job = await network.find(address)
        submission = await sign_submission(job, RESULT, 0, network=network, outbox=outbox)
        await confirm_submission(job, submission, network=network, outbox=outbox, pace=world.pace())
        settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=world.pace())
    assert settlement.fee == 5_000 + submission.priority_fee
    assert 0 < submission.priority_fee <= 2_000_000 * 20_000 // 10**6
