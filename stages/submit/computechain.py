"""ComputeChain as a Network: its challenges, and how a result is submitted with `SUBMIT_RESULT`.

A transaction here never expires: it lands when its nonce is the account's, or never, once another transaction used that
nonce. The node's own receipts can be wrong for ever, so only the account's nonce and the blocks are believed.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from millrace.errors import Declined, DeclineReason, Permanent, Transient
from millrace.network import Fate, Outcome, Result, Settlement, SignedSubmission
from protocols.computechain.block import Block
from protocols.computechain.job import ComputeChainJob
from protocols.computechain.keys import ComputeKey
from protocols.computechain.rpc import ComputeChainRpc
from protocols.computechain.transaction import SUBMIT_RESULT_GAS, ComputeResult, Transaction, submit_result
from stages.discover.computechain import ComputeChainDiscovery
from stages.discover.computechain_hints import BlockHints
from stages.submit.computechain_inclusion import prove_inclusion
from stages.submit.computechain_search import BlockSearch, Use

NETWORK = "computechain"

_JOB_ID = re.compile(r"(0|[1-9][0-9]{0,17})-([0-9a-f]{64})")

_logger = logging.getLogger(__name__)


class ComputeChainNetwork:
    """One chain, served with one key; `computechain_opening` makes it from the settings."""

    name = NETWORK

    def __init__(
        self,
        rpc: ComputeChainRpc,
        key: ComputeKey,
        chain_id: str,
        discovery: ComputeChainDiscovery,
        hints: BlockHints,
        job_of: Callable[[int, str], ComputeChainJob],
        *,
        gas_price: int,
        confirmations: int,
        balance_floor_wei: int,
    ) -> None:
        self._rpc = rpc
        self._key = key
        self._chain_id = chain_id
        self._discovery = discovery
        self._hints = hints
        self._job_of = job_of
        self._gas_price = gas_price
        self._confirmations = confirmations
        self._balance_floor_wei = balance_floor_wei
        self._search = BlockSearch(rpc)
        self._refused: dict[str, str] = {}
        """What a node said for good about transactions that this process sent, by their hash."""

    @property
    def address(self) -> str:
        """The worker's own address: it signs and pays."""
        return self._key.address

    @property
    def lane(self) -> str:
        """The account's nonces: one for all that this key signs on this chain."""
        return f"{NETWORK}/{self._chain_id}/{self.address}"

    # ---- jobs ----

    async def pending(self) -> Sequence[ComputeChainJob]:
        """The challenges of the newest blocks, oldest first."""
        return await self._discovery.pending()

    def begun(self, jobs: Sequence[ComputeChainJob]) -> None:
        """These challenges have a flow run: they are not missed when their blocks are old."""
        self._discovery.begun(jobs)

    async def wait_for_news(self, seconds: float) -> None:
        """Return after `seconds`, or sooner if an event of the node's names a block that `pending` has not seen."""
        await self._hints.wait(seconds, self._discovery.newest)

    async def find(self, job_id: str) -> ComputeChainJob:
        """The challenge of that height and block hash; Permanent if that is none.

        Any hash does: one that the chain does not (any more) have at that height is of a block taken back.
        """
        found = _JOB_ID.fullmatch(job_id)
        if found is None:
            raise Permanent(
                f"{job_id!r} names no challenge", hint="give <height>-<block hash, 64 lower-case hex digits>"
            )
        return self._job_of(int(found[1]), found[2])

    def allowed(self, job: ComputeChainJob) -> None:
        """Every challenge of the chain is: who poses it is the chain itself."""

    async def still_open(self, job: ComputeChainJob) -> bool:
        """Whether the chain still has that block at that height.

        Raises Transient as long as it has none there: it may have been taken back, or the node may lag behind.
        """
        self._ensure_ours(job)
        block = await self._rpc.block(job.height)
        if block is None:
            raise Transient(f"the node has no block {job.height}")
        return block.hash == job.block_hash

    # ---- money ----

    @property
    def _fee_wei(self) -> int:
        return SUBMIT_RESULT_GAS * self._gas_price

    async def balance(self) -> int:
        """The worker's balance, in wei."""
        return await self._rpc.balance(self.address)

    async def affordable(self) -> None:
        """Return if the balance covers one more submission and the floor that is not to be touched.

        Raises Declined(too_poor) naming balance, need and the address to fund.
        """
        await self._ensure_covered(1)

    async def _ensure_covered(self, submissions: int) -> None:
        have, need = await self.balance(), submissions * self._fee_wei + self._balance_floor_wei
        if have < need:
            floor = f", and {self._balance_floor_wei} are to stay" if self._balance_floor_wei else ""
            raise Declined(
                f"{self.address} has {have} wei; {submissions} submission(s) at {self._fee_wei} need {need}{floor}",
                reason=DeclineReason.too_poor,
                hint=f"send at least {need - have} wei to {self.address}",
            )

    # ---- submitting ----

    async def prepare(
        self, job: ComputeChainJob, result: Result, generation: int, unsettled: Sequence[SignedSubmission] = ()
    ) -> SignedSubmission:
        """Sign `SUBMIT_RESULT` for `result`; sends nothing.

        Raises Declined(closed) if the block was taken back or holds no challenge of ours any more because a result of
        this key for it is on the chain, Declined(too_poor) if the fee cannot be paid, Permanent on another chain.
        """
        tip = await newest_block(self._rpc)
        ensure_chain(tip, self._chain_id)
        if not await self.still_open(job):
            raise Declined(f"block {job.height} was taken back", reason=DeclineReason.closed)
        if earlier := await self._search.result_for(self.address, job.task_id, job.height):
            raise Declined(
                f"a result of {self.address} for it is in block {earlier.height} already, by the"
                f" transaction {earlier.transaction.hash}",
                reason=DeclineReason.closed,
            )
        await self._ensure_covered(1 + len(unsettled))
        answer = ComputeResult(
            task_id=job.task_id,
            worker_address=self.address,
            result_hash=result.result_hash,
            proof=result.proof,
            nonce=0,
            signature="",
        )
        nonce = await self._free_nonce(unsettled)
        signed = submit_result(self._key, answer, nonce=nonce, gas_price=self._gas_price)
        return SignedSubmission(
            job_key=job.key,
            network=NETWORK,
            transaction_id=signed.hash,
            payload=base64.b64encode(signed.model_dump_json().encode()).decode("ascii"),
            generation=generation,
            sender=self.address,
            result_cid=result.result_cid,
            result_hash=result.result_hash,
            price=0,
            lane=self.lane,
            nonce=nonce,
            signed_at=tip.header.height,
        )

    async def _free_nonce(self, unsettled: Sequence[SignedSubmission]) -> int:
        """The first nonce that neither the node knows to be used nor a submission of ours has that it may not know."""
        nonce = await self._rpc.nonce(self.address, pending=True)
        ours = {submission.nonce for submission in unsettled}
        while nonce in ours:
            nonce += 1
        return nonce

    async def send(self, submission: SignedSubmission) -> None:
        """Hand the same bytes to a node (again), unless it has something with that nonce: asking comes first.

        A refusal for good is noted, and `outcome` tells it. Raises Transient if an earlier nonce has to be used first,
        or no node takes it now; UnknownOutcome if it cannot be told whether one did.
        """
        transaction = _transaction(submission)
        expected = await self._rpc.nonce(transaction.from_address, pending=True)
        if expected > transaction.nonce:
            return
        if expected < transaction.nonce:
            raise Transient(f"nonce {transaction.nonce} waits for nonce {expected} of {transaction.from_address}")
        try:
            await self._rpc.send(transaction)
        except Permanent as error:
            _logger.warning("%s was refused: %s", submission.transaction_id, error.message)
            self._refused[submission.transaction_id] = error.message
        else:
            self._refused.pop(submission.transaction_id, None)

    async def outcome(self, submission: SignedSubmission) -> Outcome:
        """What became of it: landed if a block has it, expired if a block that stays has another one with its nonce.

        Whether a block stays is a matter of confirmations. As long as the account's nonce did not move, nothing has
        happened yet: unknown, or failed if a node refused it for good.
        """
        return (await self._found(submission))[0]

    async def _found(self, submission: SignedSubmission) -> tuple[Outcome, Use | None]:
        """What became of the submission, and what used its nonce."""
        transaction = _transaction(submission)
        address, nonce = transaction.from_address, transaction.nonce
        if await self._rpc.nonce(address, pending=False) <= nonce:
            refused = self._refused.get(submission.transaction_id)
            fate = Fate.failed if refused else Fate.unknown
            return Outcome(fate=fate, final=bool(refused), reason=refused or ""), None
        use = await self._search.use_of(address, nonce, submission.signed_at or 0)
        if use is None:
            return Outcome(fate=Fate.unknown, reason="its nonce was used in a block that cannot be read yet"), None
        stays = use.confirmations >= self._confirmations
        if use.transaction.hash == submission.transaction_id:
            return Outcome(fate=Fate.landed, final=stays, height=use.height, fee=_charged(use.transaction)), use
        taken = f"its nonce {nonce} was used by {use.transaction.hash} in block {use.height}"
        return Outcome(fate=Fate.expired if stays else Fate.unknown, final=stays, reason=taken), use

    async def settlement(self, job: ComputeChainJob, submission: SignedSubmission) -> Settlement:
        """What the blocks say in the end, with the proof that our result is under its block's compute_root.

        Raises Permanent if the node's block does not fit together, Transient if it was taken back meanwhile.
        """
        self._ensure_ours(job)
        outcome, use = await self._found(submission)
        if not outcome.final:
            raise Transient(f"the block with {submission.transaction_id} was taken back while it was read")
        if outcome.fate is not Fate.landed or use is None:
            return Settlement(ours=False, by_others=False, state=outcome.reason)
        await self._ensure_in_chain(use.block)
        return Settlement(
            ours=True,
            state="in a block",
            result_cid=submission.result_cid,
            transaction_id=submission.transaction_id,
            height=use.height,
            fee=outcome.fee,
            inclusion=prove_inclusion(use.block, submission.transaction_id),
        )

    async def _ensure_in_chain(self, block: Block) -> None:
        """Return if the block after it, if there is one, calls it its predecessor."""
        after = await self._rpc.block(block.header.height + 1)
        if after is not None and after.header.prev_hash != block.hash:
            raise Transient(f"block {block.header.height} was taken back while it was read")

    async def head(self) -> int:
        """The newest block's height."""
        return (await self._rpc.status()).height

    def _ensure_ours(self, job: ComputeChainJob) -> None:
        if (job.chain_id, job.worker_address) != (self._chain_id, self.address):
            raise Permanent(
                f"the job is for {job.worker_address} on chain {job.chain_id}; we are {self.address} on"
                f" {self._chain_id}",
                job=job.key,
                hint="check MILLRACE_COMPUTECHAIN__CHAIN_ID and MILLRACE_COMPUTECHAIN__KEY_NAME",
            )


def _charged(transaction: Transaction) -> int:
    """What the chain takes, however much more of gas and fee was offered, in wei."""
    return SUBMIT_RESULT_GAS * transaction.gas_price


def _transaction(submission: SignedSubmission) -> Transaction:
    try:
        return Transaction.model_validate_json(base64.b64decode(submission.payload))
    except ValidationError:
        raise Permanent(
            f"the signed bytes of {submission.transaction_id} cannot be read",
            job=submission.job_key,
            hint="was the outbox changed by hand?",
        ) from None


async def newest_block(rpc: ComputeChainRpc) -> Block:
    """The chain's newest block. Raises Transient if there is none yet, or it cannot be had now."""
    height = (await rpc.status()).height
    block = await rpc.block(height) if height >= 0 else None
    if block is None:
        raise Transient("the node has no block yet")
    return block


def ensure_chain(block: Block, chain_id: str) -> None:
    """Return if a block of the node's is of the chain that the settings name; Permanent with both if not."""
    if block.header.chain_id != chain_id:
        raise Permanent(
            f"the node serves the chain {block.header.chain_id}, the settings say {chain_id}",
            hint="a transaction names no chain, so nothing is signed; see MILLRACE_COMPUTECHAIN__CHAIN_ID",
        )
