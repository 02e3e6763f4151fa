"""Settle and record: what the chain says in the end, written into the job's receipt."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from millrace.job import Job
from millrace.network import Network, SignedSubmission
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from stages.submit.follow import Pace
from stages.submit.outbox import Outbox
from stages.submit.settle import settle_job


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
    has a receipt already, that one. Raises UnknownOutcome if finality does not come in time.
    """
    settlement = await settle_job(job, submission, network=network, outbox=outbox, pace=pace)
    receipt = draft.model_copy(
        update={
            "outcome": JobOutcome.settled if settlement.ours else JobOutcome.beaten,
            "worker": submission.sender,
            "transaction_id": settlement.transaction_id or submission.transaction_id,
            "height": settlement.height,
            "fee": settlement.fee,
            "price": settlement.price,
            "settled_at": datetime.fromtimestamp(clock(), UTC),
        }
    )
    receipts.append(receipt)
    return receipts.find(job.key) or receipt
