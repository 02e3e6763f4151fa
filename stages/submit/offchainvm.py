"""OffchainVM / OutLayer on NEAR as a Network: its requests, and how one is resolved with `resolve_execution`.

A transaction that landed is not a request that is settled: the contract's callback runs a block or two later, in the
requester's own transaction. So what counts is what the contract says about the request in a final block.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from millrace.errors import Declined, DeclineReason, Permanent, Transient
from millrace.network import Fate, Outcome, Result, Settlement, SignedSubmission
from protocols.near.answers import WaitUntil
from protocols.near.contract import YIELD_TIMEOUT_BLOCKS, ProjectSource
from protocols.near.contract_views import Contract
from protocols.near.job import NETWORK, OffchainVmJob, parse_handed_id
from protocols.near.keys import NearKey, hash_bytes
from protocols.near.lanes import VALIDITY_BLOCKS, next_nonce
from protocols.near.rpc import NearRpc
from protocols.near.rpc_errors import ExecutionFailed, TransactionRefused
from protocols.near.transactions import Transaction
from stages.discover.handed import HandedDiscovery
from stages.discover.offchainvm import OffchainVmDiscovery
from stages.submit.offchainvm_answer import Answer, calls_for
from stages.submit.offchainvm_fate import Fates, says_success, signed_bytes
from stages.submit.offchainvm_rules import Rules

FEE_YOCTO = 10**23
"""What a node wants to see in the account for 300 TGas: 0.03 NEAR at the least gas price, which may triple."""

_logger = logging.getLogger(__name__)


class OffchainVmNetwork:
    """One contract, served with one account; `offchainvm_opening` makes it from the settings.

    `key` is the access key that this process signs with: each of the account's keys is a lane of its own. `handed` are
    the requests that a coordinator handed out, in place of the chain's blocks.
    """

    name = NETWORK

    def __init__(
        self,
        rpc: NearRpc,
        contract: Contract,
        discovery: OffchainVmDiscovery,
        handed: HandedDiscovery,
        *,
        chain: str,
        account_id: str,
        key: NearKey,
        rules: Rules,
    ) -> None:
        self.chain = chain
        self._rpc = rpc
        self._contract = contract
        self._discovery = discovery
        self._handed = handed
        self._account_id = account_id
        self._key = key
        self._rules = rules
        self._fates = Fates(rpc, contract, handed)

    @property
    def address(self) -> str:
        """The worker's account."""
        return self._account_id

    @property
    def lane(self) -> str:
        """The nonces of this process's access key."""
        return f"{NETWORK}/{self.chain}/{self._account_id}/{self._key.public_key}"

    # ---- jobs ----

    async def pending(self) -> Sequence[OffchainVmJob]:
        """The requests that the chain would still resume, oldest first."""
        return await self._discovery.pending()

    def begun(self, jobs: Sequence[OffchainVmJob]) -> None:
        """These requests have a flow run: they are not missed when they time out."""
        self._discovery.begun(jobs)

    async def wait_for_news(self, seconds: float) -> None:
        """Return after `seconds`, or as soon as there is a new request."""
        await self._discovery.wait_for_news(seconds)

    async def find(self, job_id: str) -> OffchainVmJob:
        """The request `<height>-<request id>`, or `<request id>-<data id>` if it was handed out, with its input.

        A large input is in the contract's state, and there only until the request is settled: it is kept here. Raises
        Permanent if there is no such request; of one that was handed out, as `HandedDiscovery.find`.
        """
        handed = parse_handed_id(job_id) is not None
        job = await (self._handed.find(job_id) if handed else self._discovery.find(job_id))
        if job.request.input_data_in_state:
            found = await self._contract.input_of(job.request)
            if found is not None:
                request = job.request.model_copy(update={"input_data": found, "input_data_in_state": False})
                job = job.model_copy(update={"request": request})
                (self._handed if handed else self._discovery).keep(job)
        return job

    def allowed(self, job: OffchainVmJob) -> None:
        """Return if the operator serves that sender and the request asks for what is served here."""
        self._rules.ensure_wanted(job.request, handed_out=job.is_handed_out)
        if isinstance(job.request.code_source, ProjectSource):
            raise Declined(
                f"the project {job.request.code_source.project_id} is named by its id alone",
                reason=DeclineReason.unsupported,
                hint="the contract resolves projects before it announces a request",
            )

    async def still_open(self, job: OffchainVmJob) -> bool:
        """Whether the contract has the request and the chain would resume it.

        Raises Transient as long as the node has not seen the block that it was made in, or has it and its large input
        could not be read.
        """
        self._ensure_ours(job)
        head = await self.head()
        if head < job.height:
            raise Transient(f"the node has no final block {job.height} yet")
        if head - job.height > YIELD_TIMEOUT_BLOCKS or job.key in self._fates.over:
            return False
        if await self._contract.get_request(job.request.request_id, since=job.height) is None:
            return False
        if job.request.input_data_in_state:
            raise Transient("the contract has the request now; its input could not be read before")
        return True

    # ---- money ----

    async def balance(self) -> int:
        """The worker's balance, in yoctoNEAR."""
        return (await self._rpc.view_account(self._account_id)).amount

    async def affordable(self) -> None:
        """Return if the balance covers one more transaction and the floor; Declined(too_poor) if not."""
        await self._ensure_covered(1)

    async def _ensure_covered(self, transactions: int) -> None:
        have, need = await self.balance(), transactions * FEE_YOCTO + self._rules.balance_floor_yocto
        if have < need:
            raise Declined(
                f"{self._account_id} has {have} yoctoNEAR; {transactions} transaction(s) need {need}, the floor"
                f" of {self._rules.balance_floor_yocto} counted",
                reason=DeclineReason.too_poor,
                hint=f"send at least {need - have} yoctoNEAR to {self._account_id}",
            )

    # ---- submitting ----

    async def prepare(
        self, job: OffchainVmJob, result: Result, generation: int, unsettled: Sequence[SignedSubmission] = ()
    ) -> SignedSubmission:
        """Sign the resolution of the request; sends nothing.

        Raises Declined(closed) if the contract has the request no more or the chain would not resume it,
        Declined(too_poor) if the gas cannot be paid.
        """
        if not isinstance(result, Answer):
            raise TypeError("a request is resolved with an Answer")
        if not await self.still_open(job):
            raise Declined("the request was settled, cancelled or timed out", reason=DeclineReason.closed)
        await self._ensure_covered(1 + len(unsettled))
        access = await self._rpc.view_access_key(self._account_id, self._key.public_key)
        # A final block: one that may yet be taken back would take the transaction with it.
        header = (await self._rpc.block()).header
        nonce = next_nonce(access.nonce, [each.nonce for each in unsettled if each.nonce is not None])
        signed = Transaction(
            self._account_id,
            self._key.public_bytes,
            nonce,
            self._contract.contract_id,
            hash_bytes(header.hash),
            calls_for(self._contract, job.request, result),
        ).signed_by(self._key)
        return SignedSubmission(
            job_key=job.key,
            network=NETWORK,
            transaction_id=signed.hash,
            payload=signed.to_base64(),
            expires_at=header.height + VALIDITY_BLOCKS,
            generation=generation,
            sender=self._account_id,
            result_cid=result.result_cid,
            result_hash=result.result_hash,
            price=min(await self._price(result), job.request.payment_yocto),
            lane=self.lane,
            nonce=nonce,
            signed_at=header.height,
        )

    async def _price(self, answer: Answer) -> int:
        """What this answer costs its requester by the contract's prices, in yoctoNEAR."""
        prices = await self._contract.get_pricing()
        if not answer.success:
            return prices.base_fee
        return prices.cost(answer.instructions, answer.time_ms, answer.compile_time_ms or 0)

    async def send(self, submission: SignedSubmission) -> None:
        """Hand the same bytes to a node (again).

        A refusal for good is noted, and `outcome` tells it; a failed execution too. Raises Transient, UnknownOutcome
        or Declined(too_poor) as the node says.
        """
        try:
            await self._rpc.send_tx(signed_bytes(submission), WaitUntil.included)
        except TransactionRefused as error:
            _logger.warning("%s was refused: %s", submission.transaction_id, error.message)
            self._fates.refused[submission.transaction_id] = error.message
        except ExecutionFailed as error:
            _logger.info("%s: %s", submission.transaction_id, error.message)
        else:
            self._fates.refused.pop(submission.transaction_id, None)

    async def outcome(self, submission: SignedSubmission) -> Outcome:
        """What became of it; see `Fates`."""
        return await self._fates.of(submission)

    async def settlement(self, job: OffchainVmJob, submission: SignedSubmission) -> Settlement:
        """What the contract says in the end.

        Raises Transient if that has become uncertain while it was read.
        """
        self._ensure_ours(job)
        outcome = await self._fates.of(submission)
        if not outcome.final:
            raise Transient(f"what became of {submission.transaction_id} is not certain any more")
        if outcome.fate is not Fate.landed:
            return Settlement(ours=False, by_others=False, state=outcome.reason)
        signed = signed_bytes(submission)
        state = "resolved" if says_success(signed) else "resolved as failed"
        price: int | None = submission.price
        if self._fates.stays(signed):
            # The callback's panic takes back its refund as well.
            state, price = f"{state}; its deposit stays until its sender cancels it", None
        return Settlement(
            ours=True,
            state=state,
            result_cid=submission.result_cid,
            price=price,
            transaction_id=submission.transaction_id,
            height=outcome.height,
            fee=outcome.fee,
        )

    async def head(self) -> int:
        """The newest final block's height."""
        return (await self._rpc.block()).header.height

    def _ensure_ours(self, job: OffchainVmJob) -> None:
        ours = f"{self.chain}:{self._contract.contract_id}"
        if job.chain_id != ours:
            raise Permanent(
                f"the request is of {job.chain_id}; the settings name {ours}",
                job=job.key,
                hint="check OFFCHAINVM_CONTRACT_ID and MILLRACE_NEAR__RPC_URLS",
            )
