"""Admit: is this job still open, allowed and affordable, and can we run it at all?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import Declined, DeclineReason, Permanent
from millrace.job import Job
from millrace.network import Network
from millrace.settings import Settings
from millrace.text import faults_in
from protocols.validator.job import PocJob
from protocols.validator.messages import MatmulTask, kind_of
from stages.discover.validator import Inbox
from stages.execute.matmul.challenge import PORTABLE
from stages.execute.matmul.stage import ensure_solvable
from stages.execute.sandbox import Sandbox
from stages.execute.sandbox.selftest import ensure_working
from stages.submit.outbox import Outbox
from stages.submit.validator import Answers


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


class MalformedPayload(Permanent):
    """What a validator wants done is of a kind that we know, and makes no sense."""


class AdmittedPocJob(BaseModel):
    """A validator's job, and its payload as the task that it is."""

    model_config = ConfigDict(frozen=True)

    job: PocJob
    task: MatmulTask

    @property
    def key(self) -> str:
        """The job's."""
        return self.job.key


async def admit_poc_job(job_id: str, *, inbox: Inbox, answers: Answers, settings: Settings) -> AdmittedPocJob:
    """Decide about a job that a PoC validator pushed, by the validator's own id of it.

    Raises Permanent if there is none, MalformedPayload if it makes no sense; Declined with the reason if it was
    answered, is of a kind that is not known here, is too big, or the device for it is missing.
    """
    job = inbox.find(job_id)
    if job is None:
        if answers.find(job_id) is not None:
            raise Declined("the job has its answer", reason=DeclineReason.closed, hint="nothing to do")
        raise Permanent(
            f"no job {job_id} came from the validator",
            hint="only what the validator pushed to this machine's data folder can be done",
        )
    kind = kind_of(job.payload)
    if kind != PORTABLE:
        raise Declined(
            f"the task is of the kind {kind!r}" if kind else "the payload names no kind of task",
            reason=DeclineReason.unsupported,
            hint=f"known here: {PORTABLE}",
        )
    try:
        task = MatmulTask.model_validate(job.payload)
    except ValidationError as error:
        raise MalformedPayload(
            f"the payload is no {PORTABLE}: {faults_in(error)}", hint="block_hash: 64 hex digits; n: a side"
        ) from None
    if task.n > settings.validator.largest_size:
        raise Declined(
            f"n = {task.n} is more than {settings.validator.largest_size}",
            reason=DeclineReason.too_big,
            hint="MILLRACE_VALIDATOR__LARGEST_SIZE is the limit",
        )
    ensure_solvable(task.n, task.kind, settings.computechain.device)
    return AdmittedPocJob(job=job, task=task)


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
