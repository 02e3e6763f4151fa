"""Admit: is this job still open, allowed and affordable, and can we run it at all?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millrace.errors import Declined, DeclineReason
from millrace.job import Job
from millrace.network import Network
from millrace.settings import Settings
from stages.execute.matmul.stage import ensure_solvable
from stages.execute.sandbox import Sandbox
from stages.execute.sandbox.selftest import ensure_working
from stages.submit.outbox import Outbox


async def admit_job(job_id: str, *, network: Network[Any], sandbox: Sandbox, outbox: Outbox, settings: Settings) -> Job:
    """Re-read the job on its chain and decide whether to do it.

    A job for which we hold a signed submission is always admitted: its fate must be followed to the end, whatever
    the chain says about the job by now.

    Raises Declined with the reason otherwise, Permanent if there is no such job.
    """
    return await _admit(job_id, network, outbox, lambda _: ensure_working(sandbox, settings.data_dir / "state"))


async def admit_challenge(job_id: str, *, network: Network[Any], outbox: Outbox, settings: Settings) -> Job:
    """Decide as `admit_job` does about a challenge of the chain itself: no stranger's program is run, so what must
    work is not the sandbox but the device.

    Raises Declined also if the device is missing, or has too little memory for the challenge.
    """
    compute = settings.computechain
    return await _admit(job_id, network, outbox, lambda job: ensure_solvable(job.size, job.algorithm, compute.device))


async def _admit(job_id: str, network: Network[Any], outbox: Outbox, ensure_doable: Callable[[Any], None]) -> Job:
    job: Job = await network.find(job_id)
    if outbox.latest(job.key) is not None:
        return job
    network.allowed(job)
    if not await network.still_open(job):
        raise Declined(
            "the job is no longer open on its chain",
            reason=DeclineReason.closed,
            hint="nothing to do: its owner cancelled it or somebody else completed it",
        )
    ensure_doable(job)
    await network.affordable()
    return job
