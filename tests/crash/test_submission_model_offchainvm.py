"""Submission on NEAR as a model, with the contract in both dialects: nonces overtaken, requests that time out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from near_world import FAILED, answer, near_world
from submission_actor import Machine
from submission_model import (
    CIDS,
    SLOTS,
    STOPS,
    job_numbers,
    model_settings,
    run_model,
    seldom,
    slots,
)
from submission_pool import PoolMachine

from localnet.near import CONTRACT, OPERATOR, Dialect
from millrace.job import Job
from millrace.network import Network, Result, SignedSubmission
from protocols.near.contract import YIELD_TIMEOUT_BLOCKS
from protocols.near.job import OffchainVmJob, parse_job_id
from protocols.near.keys import NearKey, hash_bytes
from protocols.near.rpc import NearRpc
from protocols.near.transactions import FunctionCall, SignedTransaction, Transaction

CALLS = ("query", "block", "send_tx", "tx", "neardata", "*")
FAULTS = ("status", "reset", "lost_reply", "malformed", "cut", "slow")
REJECTIONS = ("Expired", "ShardCongested", "NotEnoughBalance", "InvalidNonce")
STALE_SECONDS = 601.0
FINALITY_LAG = 2


class OffchainVmMachine(PoolMachine):
    """The machines are one account with a key each: either may resolve a request, and the chain resumes it once."""

    dialect: ClassVar[Dialect] = Dialect.head
    usual_blocks = 1
    one_in_blocks = False
    """One that came too early is in a block as well, and did nothing."""

    def open_chain(self) -> None:
        self.world = self.stack.enter_context(
            near_world(self.folder, self.dialect, finality_lag=FINALITY_LAG, clock=lambda: 1e9 + self.seconds)
        )
        self.chain = self.world.chain
        self.keys = {"one": self.world.net.operator, "two": NearKey(b"\x07" * 32)}
        self.chain.add_key(OPERATOR, self.keys["two"].public_key)
        self.chain.make_block(1 + FINALITY_LAG)

    def open_network(self, machine: Machine) -> AbstractAsyncContextManager[Network[OffchainVmJob]]:
        return self.world.worker(machine.name, private_keys=[self.keys[machine.name].secret_key])

    def new_job(self) -> Job:
        with self.requester_spared():
            self.world.ask()
        height, request_id = self.chain.height(), self.chain.contract.state.next_request_id - 1
        self.chain.make_block(FINALITY_LAG)
        return Job(network="offchainvm", chain_id=f"localnet:{CONTRACT}", job_id=f"{height}-{request_id}")

    @contextmanager
    def requester_spared(self) -> Iterator[None]:
        """Without what waits to go wrong: that is meant for us."""
        to_drop, self.chain.pool.to_drop = self.chain.pool.to_drop, 0
        rejections, self.chain._rejections = self.chain._rejections, []
        yield
        self.chain.pool.to_drop, self.chain._rejections = to_drop, rejections

    def result(self, cid: str) -> Result:
        return answer() if cid == CIDS[0] else FAILED.model_copy(update={"result_cid": cid})

    def make_blocks(self, count: int) -> None:
        self.chain.make_block(count)

    # ---- what only happens here ----

    @rule(blocks=st.integers(1, FINALITY_LAG))
    def take_blocks_back(self, blocks: int) -> None:
        """As many as are not final yet, at most."""
        blocks = min(blocks, self.chain.height() - self.chain.final_block().height)
        if blocks > 0:
            self.chain.rollback(blocks)

    @rule(
        slot=slots,
        job=job_numbers,
        before=st.sampled_from(STOPS),
        trouble=st.sampled_from(["", "a stranger's nonce", "refused"]),
        blocks=st.integers(1, FINALITY_LAG),
        after=st.sampled_from(STOPS),
    )
    def a_block_is_seen_and_taken_back(
        self, slot: str, job: int, before: str, trouble: str, blocks: int, after: str
    ) -> None:
        """Between the two, a process comes from one point to another."""
        self.let(self.at_work(slot, job, CIDS[0]), 60, until=before)
        if trouble == "refused":
            self.chain.refuse_resumes(1)
        elif trouble:
            self.a_stranger_takes_a_nonce(self.machines[SLOTS[slot]].name, 1)
        self.make_blocks(blocks)
        self.let(self.at_work(slot, job, CIDS[0]), 60, until=after)
        self.take_blocks_back(FINALITY_LAG)

    @rule(key=st.sampled_from(["one", "two"]), ahead=st.integers(1, 3))
    def a_stranger_takes_a_nonce(self, key: str, ahead: int) -> None:
        used = self.chain.runtime.accounts[OPERATOR].keys[self.keys[key].public_key].nonce
        self.chain.receive(self.harmless(self.keys[key], used + ahead))

    def harmless(self, key: NearKey, nonce: int) -> SignedTransaction:
        """A transaction that does nothing but use its nonce."""
        calls = (FunctionCall("harmless", b"{}"),)
        block_hash = hash_bytes(self.chain.tip.hash)
        return Transaction(OPERATOR, key.public_bytes, nonce, CONTRACT, block_hash, calls).signed_by(key)

    @rule(times=st.integers(1, 2))
    def refuse_resumes(self, times: int) -> None:
        """As in the request's own block, where the chain does not find what is to be resumed."""
        self.chain.refuse_resumes(times)

    @rule(error=st.sampled_from(REJECTIONS), times=st.integers(1, 2))
    def reject(self, error: str, times: int) -> None:
        self.chain.reject_next(error, times)

    @rule(really=seldom, count=st.integers(YIELD_TIMEOUT_BLOCKS - 5, YIELD_TIMEOUT_BLOCKS + 1))
    def pass_a_requests_life(self, really: bool, count: int) -> None:
        if really:
            self.chain.make_block(count)

    @rule(job=job_numbers, really=seldom)
    def the_requester_cancels(self, job: int, really: bool) -> None:
        place = parse_job_id(self.jobs[job % len(self.jobs)].job_id)
        if really and place is not None:
            self.seconds += STALE_SECONDS
            with self.requester_spared():
                self.chain.cancel(place[1])

    @rule(call=st.sampled_from(CALLS), kind=st.sampled_from(FAULTS), times=st.integers(1, 3))
    def fail(self, call: str, kind: str, times: int) -> None:
        self.chain.fail(call, times, kind=kind, seconds=0.01)

    # ---- what the chain says ----

    def landed(self, submission: SignedSubmission) -> bool:
        return "SuccessValue" in self.chain.result_of(submission.transaction_id)

    def may_land(self, submission: SignedSubmission) -> bool:
        signed = SignedTransaction.from_base64(submission.payload)
        if self.chain.included(signed.hash) is not None:
            return bool(self.chain.result_of(signed.hash) == "Started")
        key = next(key for key in self.keys.values() if key.public_bytes == signed.transaction.public_key)
        used = self.chain.runtime.accounts[OPERATOR].keys[key.public_key].nonce
        return used < signed.transaction.nonce

    def is_over(self, job: Job) -> bool:
        place = parse_job_id(job.job_id)
        assert place is not None
        pending = self.chain.contract.state.pending.get(place[1])
        return pending is None or pending.data_id not in self.chain.runtime.yields

    def submissions_in_blocks(self, job: Job, machine: Machine) -> list[str]:
        sent = [self.chain.included(each) for each in self.chain.sent_by(OPERATOR)]
        signed = [each.signed for each in sent if each is not None]
        us = self.keys[machine.name].public_bytes
        return [each.hash for each in signed if each.transaction.public_key == us and _answers(each, job)]

    def ensure_chain_counts_one(self, job: Job) -> None:
        sent = [each for machine in self.machines for each in self.submissions_in_blocks(job, machine)]
        resolved = [each for each in sent if "SuccessValue" in self.chain.result_of(each)]
        assert len(resolved) <= 1, f"{job.key} was resolved by {resolved}"


def _answers(signed: SignedTransaction, job: Job) -> bool:
    """Whether the transaction is to resolve that request."""
    place = parse_job_id(job.job_id)
    told = [json.loads(call.args) for call in signed.transaction.calls if call.method != "harmless"]
    return place is not None and any(place[1] == each.get("request_id") for each in told)


class EarlyMachine(OffchainVmMachine):
    """The contract's first dialect, which keeps a request that was resolved as failed."""

    dialect = Dialect.early


@pytest.mark.parametrize("machine", [OffchainVmMachine, EarlyMachine])
def test_submission_on_offchainvm_whatever_happens(machine: type[OffchainVmMachine]) -> None:
    stops = ["view_access_key", "block", "call_function", "send_tx", "tx"]
    run_model(machine, NearRpc, stops, model_settings(examples=10, steps=50))
