"""Submission on ComputeChain as a model: nonces that others use, blocks taken back, a node that forgets."""

from __future__ import annotations

import base64
from contextlib import AbstractAsyncContextManager
from typing import Any

from computechain_world import ROOT, WEI, computechain_world
from hypothesis import strategies as st
from hypothesis.stateful import rule
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

from millrace.job import Job
from millrace.network import Network, Result, SignedSubmission
from protocols.computechain.job import ComputeChainJob, task_id_of
from protocols.computechain.keystore import Keystore
from protocols.computechain.rpc import ComputeChainRpc
from protocols.computechain.transaction import SUBMIT_RESULT, Transaction

CALLS = ("status", "block", "balance", "nonce", "send", "*")
CONFIRMATIONS = 6
FAULTS = ("status", "reset", "lost_reply", "malformed", "cut", "slow")
REJECTIONS = ("mempool_full", "sender_limit_exceeded", "nonce_too_low", "insufficient_balance")


class ComputeChainMachine(PoolMachine):
    """Transactions never expire: they wait for their nonce, and a stranger with the same key may use it."""

    usual_blocks = 1
    many_blocks = 5

    def open_chain(self) -> None:
        self.world = self.stack.enter_context(computechain_world(self.folder))
        self.chain = self.world.chain
        keystore = Keystore(self.folder / "keys")
        self.addresses = {machine.name: keystore.add(machine.name).address for machine in self.machines}
        for address in self.addresses.values():
            self.chain.fund(address, WEI)
        self.highest = self.chain.height()

    def open_network(self, machine: Machine) -> AbstractAsyncContextManager[Network[ComputeChainJob]]:
        return self.world.worker(machine.name, confirmations=CONFIRMATIONS)

    def new_job(self) -> Job:
        self.make_blocks(1)
        height = len(list(self.chain._blocks._blocks)) - 1
        block = self.chain._blocks._blocks[height]
        return Job(network="computechain", chain_id=self.world.net.chain_id, job_id=f"{height}-{block.header.hash}")

    def result(self, cid: str) -> Result:
        return Result(result_cid=cid, result_hash=ROOT, proof='{"version":1}')

    def make_blocks(self, count: int) -> None:
        self.chain.make_block(count)
        self.highest = max(self.highest, len(self.chain._blocks._blocks) - 1)

    # ---- what only happens here ----

    @rule(blocks=st.integers(1, CONFIRMATIONS - 1), keep=st.booleans())
    def take_blocks_back(self, blocks: int, keep: bool) -> None:
        """Never one that has been confirmed: what is final is so by the number of blocks after it."""
        most = len(self.chain._blocks._blocks) - 1 - (self.highest - CONFIRMATIONS + 1)
        if min(blocks, most) > 0:
            self.chain.rollback(min(blocks, most), keep)

    @rule(
        slot=slots,
        job=job_numbers,
        before=st.sampled_from(STOPS),
        stranger=st.booleans(),
        blocks=st.integers(1, 3),
        after=st.sampled_from(STOPS),
        keep=st.booleans(),
    )
    def a_block_is_seen_and_taken_back(
        self, slot: str, job: int, before: str, stranger: bool, blocks: int, after: str, keep: bool
    ) -> None:
        """Between the two, a process comes from one point to another."""
        self.let(self.at_work(slot, job, CIDS[0]), 60, until=before)
        if stranger:
            self.a_stranger_takes_a_nonce(self.machines[SLOTS[slot]].name, 0)
        self.make_blocks(blocks)
        self.let(self.at_work(slot, job, CIDS[0]), 60, until=after)
        self.take_blocks_back(CONFIRMATIONS - 1, keep)

    @rule(machine=st.sampled_from(["one", "two"]), ahead=st.integers(0, 1))
    def a_stranger_takes_a_nonce(self, machine: str, ahead: int) -> None:
        nonce = self.chain.account(self.addresses[machine]).nonce + ahead
        self.chain.take_nonce(self.world.private_key(machine), nonce)

    @rule(error=st.sampled_from(REJECTIONS), times=st.integers(1, 2), really=seldom)
    def reject(self, error: str, times: int, really: bool) -> None:
        if really:
            self.chain.reject_next(error, times)

    @rule(late=seldom)
    def let_blocks_be_readable_late(self, late: bool) -> None:
        self.chain.delay_storage(3_600.0 if late else 0.0)

    @rule(call=st.sampled_from(CALLS), kind=st.sampled_from(FAULTS), times=st.integers(1, 3))
    def fail(self, call: str, kind: str, times: int) -> None:
        self.chain.fail(call, times, kind=kind, seconds=0.01)

    # ---- what the chain says ----

    def in_blocks(self) -> list[Transaction]:
        return list(self.chain._blocks.transactions())

    def landed(self, submission: SignedSubmission) -> bool:
        return submission.transaction_id in {sent.hash for sent in self.in_blocks()}

    def may_land(self, submission: SignedSubmission) -> bool:
        nonce = Transaction.model_validate_json(base64.b64decode(submission.payload)).nonce
        return self.chain.account(submission.sender).nonce <= nonce

    def is_over(self, job: Job) -> bool:
        height, _, block_hash = job.job_id.partition("-")
        blocks: Any = self.chain._blocks._blocks
        taken_back = int(height) >= len(blocks) or blocks[int(height)].header.hash != block_hash
        return taken_back or any(self.submissions_in_blocks(job, machine) for machine in self.machines)

    def submissions_in_blocks(self, job: Job, machine: Machine) -> list[str]:
        us = self.addresses[machine.name]
        task_id = task_id_of(job.chain_id, job.job_id.partition("-")[2], us)
        ours = [sent for sent in self.in_blocks() if (sent.tx_type, sent.from_address) == (SUBMIT_RESULT, us)]
        return [sent.hash for sent in ours if sent.payload.get("task_id") == task_id]


def test_submission_on_computechain_whatever_happens() -> None:
    stops = ["status", "block", "nonce", "send"]
    run_model(ComputeChainMachine, ComputeChainRpc, stops, model_settings(examples=12, steps=50))
