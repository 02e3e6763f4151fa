"""The job owner's client for demos and tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from job_abi import CODE_CID, complete, signed
from rpc_client import RpcClient
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from localnet.solana import SolanaLocalnet
from localnet.solana.client import JobPoster, Refused
from millrace.errors import Transient, UnknownOutcome
from protocols.solana.job_account import InvalidAccount, JobStatus, JobType


@pytest.fixture
def net() -> Iterator[SolanaLocalnet]:
    """A chain whose slots pass by themselves, quickly."""
    with SolanaLocalnet(slot_milliseconds=5) as running:
        yield running


def test_a_job_is_posted_completed_and_marked_paid(net: SolanaLocalnet, rpc: RpcClient, payer: Keypair) -> None:
    with JobPoster(net.url, net.program_id) as poster:
        poster.fund()
        address = poster.post("hello", CODE_CID, JobType.api)
        job = poster.wait(address, until=lambda job: True)
        assert (job.title, job.code_cid, job.job_type) == ("hello", CODE_CID, JobType.api)
        rpc.send(signed(complete(Pubkey.from_string(address), payer.pubkey(), "bafy", 9), payer, rpc.blockhash()))
        done = poster.wait(address)
        assert (done.status, done.result_cid, done.cost_lamports) == (JobStatus.completed, "bafy", 9)
        poster.mark_payment(address)
        paid = poster.job(address)
        assert paid is not None
        assert paid.cost_paid


def test_a_cancelled_job_is_cancelled_once(net: SolanaLocalnet) -> None:
    with JobPoster(net.url, net.program_id) as poster:
        net.chain.airdrop(poster.address, 10**9)
        address = poster.post("hello", CODE_CID)
        poster.cancel(address)
        assert poster.wait(address).status is JobStatus.cancelled
        with pytest.raises(Refused, match="custom program error: 0x1775") as caught:
            poster.cancel(address)
        assert caught.value.error["code"] == -32002


def test_what_cannot_be_a_job_is_refused_before_it_is_sent(net: SolanaLocalnet) -> None:
    with JobPoster(net.url, net.program_id) as poster, pytest.raises(InvalidAccount, match="32 bytes"):
        poster.post("t" * 33, CODE_CID)
    assert net.chain.calls["sendTransaction"] == 0


def test_waiting_ends_and_says_what_the_job_still_is(net: SolanaLocalnet) -> None:
    with JobPoster(net.url, net.program_id) as poster:
        net.chain.airdrop(poster.address, 10**9)
        address = poster.post("hello", CODE_CID)
        with pytest.raises(Transient, match=f"{address} is still pending"):
            poster.wait(address, timeout_seconds=0.1)


def test_a_lost_transaction_is_an_unknown_outcome(net: SolanaLocalnet) -> None:
    with JobPoster(net.url, net.program_id, timeout_seconds=0.3) as poster:
        net.chain.airdrop(poster.address, 10**9)
        net.chain.drop_next()
        with pytest.raises(UnknownOutcome, match="did not confirm"):
            poster.post("hello", CODE_CID)


def test_a_node_that_fails_is_transient_unless_something_was_sent(net: SolanaLocalnet) -> None:
    with JobPoster(net.url, net.program_id) as poster:
        net.chain.airdrop(poster.address, 10**9)
        net.chain.fail("getLatestBlockhash")
        with pytest.raises(Transient, match="503"):
            poster.post("hello", CODE_CID)
        net.chain.fail("sendTransaction", kind="lost_reply")
        with pytest.raises(UnknownOutcome):
            poster.post("hello", CODE_CID)
