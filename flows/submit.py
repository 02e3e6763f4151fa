"""Sign, send and confirm, on any network: how a result reaches its chain exactly once."""

from __future__ import annotations

import time
from functools import partial

from flows.stage import Stage
from flows.workbench import current_workbench
from millrace.errors import UnknownOutcome
from millrace.job import Job
from millrace.network import Fate, Outcome, Result, SignedSubmission
from millrace.retry import retried
from stages.progress import Landing, Progress
from stages.submit.confirm import confirm_submission
from stages.submit.generation import first_generation
from stages.submit.outbox import Outbox
from stages.submit.sign import sign_submission

sign: Stage[SignedSubmission] = Stage(
    "sign",
    sign_submission,
    tell=lambda s: f"signed {s.transaction_id}" + (f", valid up to height {s.expires_at}" if s.expires_at else ""),
)
confirm: Stage[Outcome] = Stage(
    "confirm",
    confirm_submission,
    cached=False,
    tell=lambda o: f"{o.fate} at {o.height}" + (o.reason and f": {o.reason}"),
)

_SIGNATURES = 5
"""How many signatures may expire in one flow run, one after the other, before a person should look at the fees."""


async def submit(job: Job, result: Result) -> SignedSubmission:
    """Submit `result`; returns the submission that the chain has an answer to, landed or failed.

    Within one flow run a new signature is made only after the former one is proven expired. Raises UnknownOutcome
    if even the last one expired.
    """
    bench = current_workbench()
    progress: Progress = await bench.tool("progress")
    first = await retried(partial(_first, job), job=job.key, stage="sign")
    for generation in range(first, first + _SIGNATURES):
        submission = await sign(job.key, job, result, generation)
        known = await retried(partial(_known, submission), job=job.key, stage="confirm")
        outcome = await confirm(job.key, job, submission)
        if outcome.fate is Fate.landed and known is not Fate.landed:  # a rerun confirms what landed long ago
            progress.landed(
                job.network,
                Landing(
                    job_key=job.key,
                    transaction_id=submission.transaction_id,
                    height=outcome.height,
                    seen_at=time.time(),
                ),
            )
        if outcome.fate is not Fate.expired:
            return submission
    raise UnknownOutcome(
        f"{_SIGNATURES} signed transactions expired one after the other",
        job=job.key,
        stage="confirm",
        hint="raise the fee that may be paid, look at the RPC endpoints, or see who else signs with this key",
    )


async def _first(job: Job) -> int:
    bench = current_workbench()
    return await first_generation(job, network=await bench.tool("network"), outbox=await bench.tool("outbox"))


async def _known(submission: SignedSubmission) -> Fate:
    outbox: Outbox = await current_workbench().tool("outbox")
    return outbox.fate(submission)
