"""Submission on Solana's runtime as a model: whatever happens in whatever order, one transaction a job, and an end."""

from __future__ import annotations

import base64
from contextlib import AbstractAsyncContextManager

from cloudmesh_world import LAMPORTS, cloudmesh_world
from hypothesis import strategies as st
from hypothesis.stateful import rule
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from submission_actor import Machine
from submission_model import CIDS, SubmissionMachine, job_numbers, model_settings, run_model, seldom

from localnet.solana.accounts import StoredAccount
from localnet.solana.runtime import SYSTEM_PROGRAM
from millrace.job import Job
from millrace.network import Network, SignedSubmission
from protocols.solana.instructions import cancel_job, complete_job, initialize_job
from protocols.solana.job import CloudMeshJob
from protocols.solana.job_account import JobStatus, JobType, decode_job_account
from protocols.solana.keypair import load_or_create_keypair
from protocols.solana.rpc import SolanaRpc

METHODS = (
    "sendTransaction",
    "getSignatureStatuses",
    "getEpochInfo",
    "getAccountInfo",
    "getLatestBlockhash",
    "simulateTransaction",
    "*",
)
PRICE_LAMPORTS = 1_000_000
"""Ours as well: a stranger may say the very same."""

FAULTS = ("status", "reset", "lost_reply", "malformed", "cut", "unhealthy", "slow")


class CloudMeshMachine(SubmissionMachine):
    """Transactions expire with their blockhash; the program itself lets a job be completed once."""

    def open_chain(self) -> None:
        self.world = self.stack.enter_context(cloudmesh_world(self.folder))
        self.chain = self.world.chain
        self.program = Pubkey.from_string(self.world.net.program_id)
        self.owner = Keypair.from_seed(b"o" * 32)
        self.stranger = Keypair.from_seed(b"s" * 32)
        for address in (self.owner, self.stranger):
            self.chain.airdrop(str(address.pubkey()), LAMPORTS)
        self.keys = {machine.name: self.key_of(machine) for machine in self.machines}
        for key in self.keys.values():
            self.chain.airdrop(str(key.pubkey()), LAMPORTS)

    def key_of(self, machine: Machine) -> Keypair:
        return load_or_create_keypair(self.world.settings(machine.name).cloudmesh.keypair_path)[0]

    def open_network(self, machine: Machine) -> AbstractAsyncContextManager[Network[CloudMeshJob]]:
        return self.world.worker(machine.name)

    def new_job(self) -> Job:
        key = self.owner.pubkey()
        instruction = initialize_job(self.program, key, f"job {next(self.numbers)}", CIDS[0], JobType.manual)
        self.include(instruction, self.owner)
        self.chain.advance(2)
        address = instruction.accounts[0].pubkey
        stored = self.chain.account(str(address), "confirmed")
        assert stored is not None
        account = decode_job_account(address, Pubkey.from_string(stored.owner), stored.content, self.program)
        return CloudMeshJob.from_account(
            account, genesis_hash=self.world.net.genesis_hash, program_id=str(self.program)
        )

    def include(self, instruction: Instruction, signer: Keypair) -> None:
        """Somebody's transaction, in the newest block at once."""
        blockhash = Hash.from_string(self.chain.blockhash(self.chain.slot()))
        message = Message.new_with_blockhash([instruction], signer.pubkey(), blockhash)
        self.chain._include(VersionedTransaction(message, [signer]), self.chain.slot())

    def make_blocks(self, count: int) -> None:
        self.chain.advance(count)

    def end_trouble(self) -> None:
        self.chain.clear_faults()
        for machine in self.machines:
            self.fill_a_purse(machine.name, full=True)

    # ---- what only happens here ----

    @rule(count=st.sampled_from([149, 150, 151, 153, 160, 400]))
    def pass_a_blockhashs_life(self, count: int) -> None:
        self.chain.advance(count)

    @rule(times=st.sampled_from([0, 1, 2, 1_000, 1_000]))
    def drop(self, times: int) -> None:
        self.chain.drop_next(times)

    @rule(times=st.integers(1, 2), slots=st.sampled_from([1, 3, 60, 149, 200]))
    def hold(self, times: int, slots: int) -> None:
        """Let the next transactions land late, or too late."""
        self.chain.hold_next(times, slots)

    @rule(machine=st.sampled_from(["one", "two"]), full=st.booleans())
    def fill_a_purse(self, machine: str, full: bool) -> None:
        """Or empty it, so that nothing of the machine's can be paid for."""
        purse = StoredAccount(LAMPORTS if full else 0, SYSTEM_PROGRAM, b"")
        self.chain.set_account(str(self.keys[machine].pubkey()), purse)

    @rule(method=st.sampled_from(METHODS), kind=st.sampled_from(FAULTS), times=st.integers(1, 3))
    def fail(self, method: str, kind: str, times: int) -> None:
        self.chain.fail(method, times, kind=kind, seconds=0.01)

    @rule(job=job_numbers, really=seldom, signer=st.sampled_from(["owner", "stranger"]))
    def somebody_ends_a_job(self, job: int, really: bool, signer: str) -> None:
        if really:
            self.end_by(job, self.owner if signer == "owner" else self.stranger)

    def end_by(self, number: int, signer: Keypair) -> None:
        job = Pubkey.from_string(self.jobs[number % len(self.jobs)].job_id)
        if signer is self.owner:
            self.include(cancel_job(self.program, job, signer.pubkey()), signer)
        else:
            self.include(complete_job(self.program, job, signer.pubkey(), CIDS[1], PRICE_LAMPORTS), signer)

    # ---- what the chain says ----

    def landed(self, submission: SignedSubmission) -> bool:
        self.chain.settle()
        found = self.chain.log.get(submission.transaction_id)
        return found is not None and found.execution.error is None

    def may_land(self, submission: SignedSubmission) -> bool:
        self.chain.settle()
        signed = VersionedTransaction.from_bytes(base64.b64decode(submission.payload))
        fresh = self.chain.blockhash_is_valid(str(signed.message.recent_blockhash), self.chain.slot())
        return fresh and self.chain.log.get(submission.transaction_id) is None

    def is_over(self, job: Job) -> bool:
        address = Pubkey.from_string(job.job_id)
        stored = self.chain.account(job.job_id, "confirmed")
        assert stored is not None
        account = decode_job_account(address, Pubkey.from_string(stored.owner), stored.content, self.program)
        return account.status is not JobStatus.pending

    def submissions_in_blocks(self, job: Job, machine: Machine) -> list[str]:
        us = str(self.keys[machine.name].pubkey())
        return [each.signature for each in self.chain.log.touching(job.job_id) if us in each.addresses]


def test_submission_on_cloudmesh_whatever_happens() -> None:
    run_model(CloudMeshMachine, SolanaRpc, ["read", "send"], model_settings(examples=25, steps=50))
