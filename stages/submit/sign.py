"""Sign a job's result: the signed bytes are on disk before anybody may send them."""

from __future__ import annotations

from typing import Any

from millrace.errors import Declined, DeclineReason
from millrace.job import Job
from millrace.network import Network, Result, SignedSubmission
from stages.submit.outbox import Outbox


async def sign_submission(
    job: Job, result: Result, generation: int, *, network: Network[Any], outbox: Outbox
) -> SignedSubmission:
    """The signed submission of `result`; the recorded one if that generation was signed before. Sends nothing.

    A recorded submission wins over a new `result`: it may have been sent already.

    Where signatures depend on each other, one at a time is made and recorded, each knowing of those before it.

    Raises Declined(closed) if the chain no longer wants the job done; StillAlive if the generation before may still
    land; what the network raises when it cannot be asked.
    """
    async with outbox.lock(job.key):
        recorded = outbox.recorded(job.key, generation)
        if recorded is not None:
            return recorded
        outbox.ensure_next(job.key, generation)
        async with outbox.lane_lock(network.lane):
            try:
                submission = await network.prepare(job, result, generation, outbox.in_lane(network.lane))
            except Declined as error:
                if error.reason is DeclineReason.closed:
                    # Every earlier signature is dead and there will be no other: nothing is left to follow.
                    outbox.settle(job.key)
                raise
            outbox.record(submission)
        return submission
