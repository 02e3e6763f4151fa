"""What became of a resolution on NEAR, and of the request that it was to resolve."""

from __future__ import annotations

import json
from typing import Any

from millrace.errors import Permanent
from millrace.network import Fate, Outcome, SignedSubmission
from protocols.near.answers import TransactionView, WaitUntil
from protocols.near.contract import YIELD_TIMEOUT_BLOCKS, Dialect
from protocols.near.contract_views import UNABLE_TO_RESUME, Contract, RefusedResume
from protocols.near.job import parse_handed_id, parse_job_id
from protocols.near.keys import public_key_text
from protocols.near.lanes import cannot_land
from protocols.near.rpc import NearRpc
from protocols.near.rpc_errors import UnknownAccessKey
from protocols.near.transactions import MalformedTransaction, SignedTransaction
from stages.discover.handed import HandedDiscovery


class Fates:
    """The fates of one contract's resolutions, as the chain and the contract tell them.

    `refused` is what a node said for good about transactions that this process sent, by their hash; `over` are the keys
    of the jobs that the chain resumes no more, whatever the contract shows.
    """

    def __init__(self, rpc: NearRpc, contract: Contract, handed: HandedDiscovery) -> None:
        self._rpc = rpc
        self._contract = contract
        self._handed = handed
        self.refused: dict[str, str] = {}
        self.over: set[str] = set()

    async def of(self, submission: SignedSubmission) -> Outcome:
        """What became of it: landed once it ran and the chain resumed the request, expired if it can land no more.

        A transaction that came too early, in the block of the request itself, came to nothing: expired as well, so
        that another is signed. Final is what the chain cannot take back, and for a success only what the contract
        shows: that it has the request no more. If it still has it long after, its callback failed, and so has this.
        """
        signed = signed_bytes(submission)
        view = await self._rpc.tx(signed.hash, signed.transaction.signer_id)
        if view is None or view.transaction_outcome is None:
            return await self._not_seen(signed, submission)
        final = view.reached is WaitUntil.final
        if view.failure is not None:
            return await self._failed(submission, view, view.failure.message)
        if not view.succeeded:
            return Outcome(fate=Fate.unknown, reason="it is in a block and has not run yet")
        if not final:
            return Outcome(fate=Fate.landed, fee=view.fee_yocto)
        height = (await self._rpc.block(view.transaction_outcome.block_hash)).header.height
        settled = self.stays(signed) or await self._is_gone(submission)
        if not settled and (await self._rpc.block()).header.height - height > YIELD_TIMEOUT_BLOCKS:
            self.over.add(submission.job_key)
            reason = "the chain resumed the request, and the contract's callback failed: it has the request still"
            return Outcome(fate=Fate.failed, final=True, reason=reason)
        reason = "" if settled else "the contract's callback has not run yet"
        return Outcome(
            fate=Fate.landed, final=settled, height=height if settled else None, fee=view.fee_yocto, reason=reason
        )

    async def _not_seen(self, signed: SignedTransaction, submission: SignedSubmission) -> Outcome:
        """What it means that no node has the transaction."""
        if refused := self.refused.get(signed.hash):
            return Outcome(fate=Fate.failed, final=True, reason=refused)
        transaction = signed.transaction
        final = (await self._rpc.block()).header.height
        signed_at = submission.signed_at or 0
        try:
            key = await self._rpc.view_access_key(
                transaction.signer_id, public_key_text(transaction.public_key), finality="final"
            )
            reason = "its nonce was used by another, or its block is too old"
            if not cannot_land(transaction.nonce, signed_at, final_nonce=key.nonce, final_height=final):
                return Outcome(fate=Fate.unknown, reason="no node has it yet")
        except UnknownAccessKey:
            reason = "its access key is no longer one of the account"
        # It may have landed between the two questions: only a look after it can land no more is the last one.
        if await self._rpc.tx(signed.hash, transaction.signer_id) is not None:
            return Outcome(fate=Fate.unknown, reason="it has just been seen")
        return Outcome(fate=Fate.expired, final=True, reason=reason)

    async def _failed(self, submission: SignedSubmission, view: TransactionView, words: str) -> Outcome:
        """What a transaction that ran and failed means for the request."""
        if view.reached is not WaitUntil.final:
            return Outcome(fate=Fate.unknown, reason=words)
        if UNABLE_TO_RESUME in words:
            refused_at = (await self._rpc.block(_where_it_failed(view))).header.height
            meaning = await self._contract.after_refused_resume(*self._request_of(submission), refused_at)
            if meaning is RefusedResume.early:
                return Outcome(fate=Fate.expired, final=True, reason="the chain did not let the contract resume yet")
            self.over.add(submission.job_key)
            gone = True
        else:
            gone = await self._is_gone(submission)
        if gone:
            words = f"the request was settled, cancelled or timed out before: {words}"
        return Outcome(fate=Fate.failed, final=True, reason=words)

    def stays(self, signed: SignedTransaction) -> bool:
        """Whether the contract keeps the request although it is resolved: in a panic, EARLY forgets that it was."""
        return self._contract.dialect is Dialect.early and not says_success(signed)

    async def _is_gone(self, submission: SignedSubmission) -> bool:
        request_id, height = self._request_of(submission)
        return await self._contract.get_request(request_id, since=height) is None

    def _request_of(self, submission: SignedSubmission) -> tuple[int, int]:
        """The request that a submission answers, and the height that it was made at, or was seen at by us."""
        job_id = submission.job_key.rpartition("/")[2]
        if (place := parse_job_id(job_id)) is not None:
            return place[1], place[0]
        if (named := parse_handed_id(job_id)) is not None:
            return named[0], self._handed.height_of(job_id) or submission.signed_at or 0
        raise Permanent(f"{submission.job_key} names no request", hint="was the outbox changed by hand?")


def signed_bytes(submission: SignedSubmission) -> SignedTransaction:
    """The transaction that a submission is. Raises Permanent if its bytes cannot be read."""
    try:
        return SignedTransaction.from_base64(submission.payload)
    except MalformedTransaction:
        raise Permanent(
            f"the signed bytes of {submission.transaction_id} cannot be read",
            job=submission.job_key,
            hint="was the outbox changed by hand?",
        ) from None


def _where_it_failed(view: TransactionView) -> str:
    """Hash of the block in which the transaction's receipt failed."""
    assert view.transaction_outcome is not None
    failed = (each for each in view.receipts_outcome if each.outcome.status.kind == "failure")
    return next(failed, view.transaction_outcome).block_hash


def says_success(signed: SignedTransaction) -> bool:
    """Whether the transaction resolves its request as a success."""
    document: dict[str, Any] = json.loads(signed.transaction.calls[-1].args)
    return bool(document.get("response", document)["success"])
