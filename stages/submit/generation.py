"""With which signature a flow run begins: the newest there is, unless that one failed and the job still waits."""

from __future__ import annotations

from typing import Any

from millrace.job import Job
from millrace.network import Fate, Network
from stages.submit.outbox import Outbox


async def first_generation(job: Job, *, network: Network[Any], outbox: Outbox) -> int:
    """The generation to sign or to take up first.

    All before the newest are dead. The newest is followed further, also if it expired: `confirm` finds that out. One
    that failed for good while the job is still open (its fee was too low for its work, say) is dead too, and whoever
    runs the job again has seen the reason: only then does a new one begin. Errors are those of the network.
    """
    history = outbox.history(job.key)
    if not history:
        return 0
    newest = history[-1]
    if newest.fate is Fate.failed:
        outcome = await network.outcome(newest.submission)
        if outcome.fate is Fate.failed and outcome.final and await network.still_open(job):
            return len(history)
    return len(history) - 1
