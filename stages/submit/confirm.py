"""Confirm a submission: it is sent until the chain says that it landed, failed, or can never land."""

from __future__ import annotations

from typing import Any

from millrace.job import Job
from millrace.network import Fate, Network, Outcome, SignedSubmission
from stages.submit.follow import Pace, follow
from stages.submit.outbox import Outbox


async def confirm_submission(
    job: Job, submission: SignedSubmission, *, network: Network[Any], outbox: Outbox, pace: Pace
) -> Outcome:
    """What became of the submission: landed, failed or expired, noted in the outbox.

    Only an expired one may be followed by a new signature. Running it again, or twice at once, is harmless: it asks
    first, and the same bytes land once.

    Raises UnknownOutcome if the chain has no answer before the deadline; Permanent as the network raises it, or if
    the outbox knows another submission in its place.
    """
    # A result that was kept elsewhere may outlive the outbox: nothing is sent that the outbox does not know.
    outbox.record(submission)
    outcome = await follow(
        submission, network=network, outbox=outbox, until=lambda outcome: outcome.fate is not Fate.unknown, pace=pace
    )
    outbox.mark(submission, outcome.fate)
    return outcome
