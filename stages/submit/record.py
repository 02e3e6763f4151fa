"""Settle and record: what the chain says in the end, written into the job's receipt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from millrace.job import Job
from millrace.network import Network, Settlement, SignedSubmission
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from stages.submit.follow import Pace
from stages.submit.outbox import Outbox
from stages.submit.settle import settle_job

_logger = logging.getLogger(__name__)


async def settle_and_record(
    job: Job,
    submission: SignedSubmission,
    draft: Receipt,
    *,
    network: Network[Any],
    outbox: Outbox,
    receipts: ReceiptLog,
    clock: Callable[[], float],
    pace: Pace,
) -> Receipt:
    """Wait until the chain's answer is final, compare it with ours, and append the receipt to the log.

    `draft` is the receipt as far as it is known before the chain has spoken. Returns the finished one; if the job
    has a receipt already, that one. The outbox keeps the job until its receipt is written.

    Raises UnknownOutcome if finality does not come in time; otherwise as `settle_job` and the receipt log.
    """
    settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=pace)
    receipt = _of_what_was_signed(draft, submission).model_copy(
        update={
            "outcome": _outcome(settlement),
            "worker": submission.sender,
            "transaction_id": settlement.transaction_id or submission.transaction_id,
            "height": settlement.height,
            "fee": settlement.fee,
            "price": settlement.price,
            "inclusion": settlement.inclusion,
            "settled_at": datetime.fromtimestamp(clock(), UTC),
        }
    )
    receipts.append(receipt)
    outbox.settle(job.key)
    return receipts.find(job.key) or receipt


def _outcome(settlement: Settlement) -> JobOutcome:
    if settlement.ours:
        return JobOutcome.settled
    return JobOutcome.beaten if settlement.by_others else JobOutcome.closed


def _of_what_was_signed(draft: Receipt, submission: SignedSubmission) -> Receipt:
    """`draft`, without what is not known if another run of the job was signed for before this one."""
    if draft.result_cid == submission.result_cid:
        return draft
    _logger.warning("the result %s was signed for before %s came out", submission.result_cid, draft.result_cid)
    nothing_known = {"execution": None, "solved": None, "result_sha256": "", "evidence_cid": "", "published_to": ()}
    return draft.model_copy(update={"result_cid": submission.result_cid, **nothing_known})
