"""Settle a job: wait until the chain can no longer take its answer back, and compare it with ours."""

from __future__ import annotations

from typing import Any

from millrace.errors import Permanent, UnknownOutcome
from millrace.job import Job
from millrace.network import Fate, Network, Outcome, Settlement, SignedSubmission
from stages.submit.follow import Pace, follow
from stages.submit.outbox import Outbox


class SubmissionFailed(Permanent):
    """Our transaction failed for good, and not because the job was done or withdrawn: it is still open."""


async def settle_job(
    job: Job, submission: SignedSubmission, *, network: Network[Any], outbox: Outbox, pace: Pace
) -> Settlement:
    """The chain's own record of the job at its firmest commitment; the outbox may then put the job away.

    A settlement that is not `ours` means that somebody else ended the job.

    Raises UnknownOutcome if finality does not come before the deadline, or if the submission expired and the job
    still waits; SubmissionFailed if it failed and the job still waits.
    """
    outcome = await follow(submission, network=network, outbox=outbox, until=lambda outcome: outcome.final, pace=pace)
    outbox.mark(submission, outcome.fate)
    settlement: Settlement = await network.settlement(job, submission)
    if not settlement.ours and await network.still_open(job):
        raise _unfinished(job, submission, outcome)
    return settlement


def _unfinished(job: Job, submission: SignedSubmission, outcome: Outcome) -> Permanent | UnknownOutcome:
    if outcome.fate is Fate.failed:
        return SubmissionFailed(
            f"the transaction {submission.transaction_id} failed: {outcome.reason}",
            job=job.key,
            hint="the job is still open; the reason says what to change",
        )
    return UnknownOutcome(
        f"the transaction {submission.transaction_id} came to nothing and the job is still open",
        job=job.key,
        hint="run the job's flow again: it signs anew",
    )
