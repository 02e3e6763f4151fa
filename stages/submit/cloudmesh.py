"""CloudMesh as a Network: its jobs, and how a result is submitted with `complete_job`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from solders.keypair import Keypair
from solders.pubkey import Pubkey

from millrace.errors import Declined, DeclineReason, MillraceError, Permanent, Transient
from millrace.network import Fate, Outcome, Result, Settlement, SignedSubmission
from millrace.settings import CloudMeshSettings, Settings
from protocols.solana import queries
from protocols.solana.fees import SIGNATURE_FEE_LAMPORTS, PriorityFeePolicy, priority_fee_lamports
from protocols.solana.instructions import complete_job
from protocols.solana.job import CloudMeshJob
from protocols.solana.job_account import JobAccount, JobStatus
from protocols.solana.job_reading import NoSuchJob, fetch_job_account
from protocols.solana.keypair import load_or_create_keypair
from protocols.solana.program_errors import Refusal, explain
from protocols.solana.rpc import SolanaRpc
from protocols.solana.rpc_errors import PreflightRefused
from protocols.solana.transactions import SimulationFailed, sign_transaction, transaction_outcome
from stages.discover.cloudmesh import CloudMeshDiscovery
from stages.submit.cost import CostPolicy, cost_policy

NETWORK = "cloudmesh"

AMPLE_COMPUTE_UNITS = 100_000
"""Far above what completing a job takes, for the balance that must be there before one is begun."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sending:
    """What this process remembers of a submission it handed to a node, or tried to."""

    preflight_passed: bool = False
    refused_because: str = ""


class CloudMeshNetwork:
    """One program on one chain, served with one key; `open_network` makes it from the settings."""

    name = NETWORK

    def __init__(
        self,
        rpc: SolanaRpc,
        program_id: Pubkey,
        genesis_hash: str,
        keypair: Keypair,
        discovery: CloudMeshDiscovery,
        *,
        fees: PriorityFeePolicy,
        cost: CostPolicy,
    ) -> None:
        self._rpc = rpc
        self._program_id = program_id
        self._genesis_hash = genesis_hash
        self._keypair = keypair
        self._discovery = discovery
        self._fees = fees
        self._cost = cost
        self._reserve_lamports: int | None = None
        self._context_slots: dict[str, int] = {}
        self._sendings: dict[str, _Sending] = {}

    @property
    def address(self) -> str:
        """The worker's own address: it pays the fees."""
        return str(self._keypair.pubkey())

    @property
    def lane(self) -> str:
        """None: a transaction here depends on no other one of ours."""
        return ""

    # ---- jobs ----

    async def pending(self) -> Sequence[CloudMeshJob]:
        """The jobs that wait for somebody, oldest first."""
        return await self._discovery.pending()

    def begun(self, jobs: Sequence[CloudMeshJob]) -> None:
        """Nothing to note: a job stays on the chain until somebody ends it."""

    async def wait_for_news(self, seconds: float) -> None:
        """Return after `seconds`: nothing is listened to."""
        await asyncio.sleep(seconds)

    async def find(self, job_id: str) -> CloudMeshJob:
        """The job whose account is at `job_id`, whatever its state; Permanent if there is none."""
        account = await self._account(job_id, "confirmed")
        program_id = str(self._program_id)
        return CloudMeshJob.from_account(account, genesis_hash=self._genesis_hash, program_id=program_id)

    def allowed(self, job: CloudMeshJob) -> None:
        """Return if the job's owner may be served; Declined(not_allowed) if the allow-list leaves it out."""
        if not self._discovery.serves(Pubkey.from_string(job.owner)):
            raise Declined(
                f"its owner {job.owner} is not on the allow-list",
                reason=DeclineReason.not_allowed,
                hint="MILLRACE_CLOUDMESH__OWNERS names whom this worker serves",
            )

    async def still_open(self, job: CloudMeshJob) -> bool:
        """Whether the job is pending at `confirmed`, read now."""
        self._ensure_ours(job)
        return (await self._account(job.job_id, "confirmed")).status is JobStatus.pending

    # ---- money ----

    async def balance(self) -> int:
        """The worker's balance at `confirmed`, in lamports."""
        return await queries.balance(self._rpc, self._keypair.pubkey())

    async def affordable(self) -> None:
        """Return if the balance covers one more completion at the highest fee we would offer.

        Raises Declined(too_poor) naming balance, need and the address to fund.
        """
        if self._reserve_lamports is None:
            self._reserve_lamports = await queries.rent_exempt_reserve(self._rpc, 0)
        fee = SIGNATURE_FEE_LAMPORTS + priority_fee_lamports(self._fees.cap, AMPLE_COMPUTE_UNITS)
        need, have = fee + self._reserve_lamports, await self.balance()
        if have < need:
            raise Declined(
                f"{self.address} has {have} lamports; one submission needs {need}: up to {fee} for fees, and a reserve"
                f" of {self._reserve_lamports}",
                reason=DeclineReason.too_poor,
                hint=f"send at least {need - have} lamports to {self.address}",
            )

    # ---- submitting ----

    async def prepare(
        self, job: CloudMeshJob, result: Result, generation: int, unsettled: Sequence[SignedSubmission] = ()
    ) -> SignedSubmission:
        """Sign `complete_job` for `result`; sends nothing.

        Raises Declined(closed) if the job was completed or cancelled, Declined(too_poor) if the fee cannot be paid,
        Permanent if the program would refuse it for another reason.
        """
        self._ensure_ours(job)
        account = await self._account(job.job_id, "confirmed")
        if account.status is not JobStatus.pending:
            raise _closed(account)
        price = self._cost.price(job, result)
        worker = self._keypair.pubkey()
        instruction = complete_job(self._program_id, account.address, worker, result.result_cid, price)
        try:
            signed = await sign_transaction(self._rpc, self._keypair, instruction, self._fees)
        except SimulationFailed as error:
            raise _declined_by(error) from None
        self._context_slots[signed.signature] = signed.context_slot
        return SignedSubmission(
            job_key=job.key,
            network=NETWORK,
            transaction_id=signed.signature,
            payload=signed.payload,
            expires_at=signed.last_valid_block_height,
            generation=generation,
            sender=self.address,
            result_cid=result.result_cid,
            price=price,
            priority_fee=signed.priority_fee_lamports,
        )

    async def send(self, submission: SignedSubmission) -> None:
        """Hand the same bytes to a node (again).

        The node tries them first, until it has once let them through. If it refuses them because the transaction
        would fail, that is noted and nothing was sent: `outcome` then looks at the job itself.

        Raises UnknownOutcome if no node said that it took them; Transient if the node lags behind.
        """
        signature = submission.transaction_id
        preflight = not self._sendings.get(signature, _Sending()).preflight_passed
        slot = self._context_slots.get(signature)
        try:
            await self._rpc.send(submission.payload, preflight=preflight, min_context_slot=slot)
        except PreflightRefused as error:
            self._note_refusal(signature, error)
        else:
            self._sendings[signature] = _Sending(preflight_passed=True)

    def _note_refusal(self, signature: str, error: PreflightRefused) -> None:
        words, refusal = explain(error.error)
        if refusal is Refusal.repeated:
            return  # it is on the chain: what is asked next will say so
        if refusal is Refusal.stale:
            raise Transient(f"not sent: {words}")
        _logger.warning("%s was not sent: %s", signature, words)
        self._sendings[signature] = _Sending(refused_because=words)

    async def outcome(self, submission: SignedSubmission) -> Outcome:
        """What the chain says about the submission; see `transaction_outcome`.

        A submission that a node refused to send has failed if the job itself has ended meanwhile: a completed or
        cancelled job never changes again, so the bytes could not do their work any more, wherever they are.
        """
        outcome = await self._transaction_outcome(submission)
        refused = self._sendings.get(submission.transaction_id, _Sending()).refused_because
        if outcome.fate is not Fate.unknown or outcome.height is not None or not refused:
            return outcome
        job_id = submission.job_key.rpartition("/")[2]
        if (await self._account(job_id, "confirmed")).status is JobStatus.pending:
            return outcome
        return Outcome(
            fate=Fate.failed, final=await self._has_ended(job_id), reason=f"refused before it was sent: {refused}"
        )

    async def _transaction_outcome(self, submission: SignedSubmission) -> Outcome:
        if submission.expires_at is None:
            raise Permanent(f"the submission {submission.transaction_id} does not say when it expires")
        return await transaction_outcome(self._rpc, submission.transaction_id, submission.expires_at)

    async def _has_ended(self, job_id: str) -> bool:
        """Whether the job has ended at `finalized`."""
        try:
            return (await self._account(job_id, "finalized")).status is not JobStatus.pending
        except NoSuchJob:
            return False  # posted so lately that `finalized` does not know it

    async def settlement(self, job: CloudMeshJob, submission: SignedSubmission) -> Settlement:
        """The job at `finalized`, compared with what we submitted.

        Anybody may complete any job, so it is ours only if our transaction landed and succeeded, and the account
        records our result and price.
        """
        self._ensure_ours(job)
        outcome = await self._transaction_outcome(submission)
        account = await self._account(job.job_id, "finalized", min_context_slot=outcome.height)
        recorded = (account.status, account.result_cid, account.cost_lamports)
        ours = outcome.fate is Fate.landed and recorded == (
            JobStatus.completed,
            submission.result_cid,
            submission.price,
        )
        return Settlement(
            ours=ours,
            state=account.status.name,
            result_cid=account.result_cid,
            price=account.cost_lamports,
            transaction_id=submission.transaction_id if ours else "",
            height=outcome.height,
            fee=await self._fee_paid(submission.transaction_id) if outcome.height is not None else None,
        )

    async def _fee_paid(self, signature: str) -> int | None:
        try:
            return await queries.transaction_fee(self._rpc, signature)
        except MillraceError as error:
            _logger.info("the fee of %s stays unknown: %s", signature, error)
            return None

    async def head(self) -> int:
        """The block height at `confirmed`."""
        return await queries.block_height(self._rpc)

    async def _account(
        self, job_id: str, commitment: queries.Commitment, *, min_context_slot: int | None = None
    ) -> JobAccount:
        try:
            address = Pubkey.from_string(job_id)
        except ValueError:
            raise Permanent(
                f"{job_id!r} is not a Solana address", hint="give the address of the job's account"
            ) from None
        return await fetch_job_account(
            self._rpc, address, self._program_id, commitment, min_context_slot=min_context_slot
        )

    def _ensure_ours(self, job: CloudMeshJob) -> None:
        if (job.chain_id, job.program_id) != (self._genesis_hash, str(self._program_id)):
            raise Permanent(
                f"the job is on chain {job.chain_id}, program {job.program_id}; we serve {self._genesis_hash},"
                f" {self._program_id}",
                job=job.key,
                hint="check SOLANA_RPC_URL and PROGRAM_ID",
            )


def _closed(account: JobAccount) -> Declined:
    ended = "cancelled by its owner" if account.status is JobStatus.cancelled else "completed by somebody else"
    result = f", with the result {account.result_cid!r}" if account.result_cid else ""
    return Declined(f"the job was {ended}{result}", reason=DeclineReason.closed)


def _declined_by(error: SimulationFailed) -> MillraceError:
    reasons = {Refusal.closed: DeclineReason.closed, Refusal.too_poor: DeclineReason.too_poor}
    reason = reasons.get(error.refusal)
    return error if reason is None else Declined(error.message, reason=reason)


@asynccontextmanager
async def open_network(settings: Settings) -> AsyncIterator[CloudMeshNetwork]:
    """CloudMesh as the settings describe it: endpoints, program, key, fees and cost policy.

    Makes the worker's key if there is none. Raises Permanent for a setting that is missing or wrong, Transient if no
    endpoint tells which chain it serves.
    """
    mesh = settings.cloudmesh
    program_id = _address(mesh.program_id, "PROGRAM_ID")
    owners = [_address(owner, "MILLRACE_CLOUDMESH__OWNERS") for owner in mesh.owners]
    cost = cost_policy(mesh)
    keypair = _keypair(mesh)
    async with SolanaRpc(mesh.rpc_urls, genesis_hash=mesh.genesis_hash) as rpc:
        genesis_hash = await rpc.genesis_hash()
        folder = settings.data_dir / "discover"
        discovery = CloudMeshDiscovery(rpc, program_id, genesis_hash, folder, owners=owners)
        fees = PriorityFeePolicy(mesh.priority_fee_percentile, mesh.priority_fee_floor, mesh.priority_fee_cap)
        yield CloudMeshNetwork(rpc, program_id, genesis_hash, keypair, discovery, fees=fees, cost=cost)


def _address(text: str, setting: str) -> Pubkey:
    if not text:
        raise Permanent(
            f"{setting} is not set",
            hint=f"export {setting}=<address>, as whoever posts the jobs names it: several programs circulate",
        )
    try:
        return Pubkey.from_string(text)
    except ValueError:
        raise Permanent(f"{setting} is not a Solana address: {text!r}", hint="32 bytes in base58") from None


def _keypair(mesh: CloudMeshSettings) -> Keypair:
    keypair, created = load_or_create_keypair(mesh.keypair_path)
    if created:
        _logger.warning(
            "made a new key, %s, in %s: back it up, and send it lamports for fees", keypair.pubkey(), mesh.keypair_path
        )
    return keypair
