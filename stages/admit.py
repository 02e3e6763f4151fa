"""Admit: is this job still open, allowed and affordable, and can we run it at all?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import Declined, DeclineReason, Permanent
from millrace.job import Job
from millrace.network import Network
from millrace.settings import Settings
from millrace.text import faults_in, printable
from protocols.near.contract import GitHubSource
from protocols.near.job import OffchainVmJob
from protocols.validator.job import PocJob
from protocols.validator.messages import MatmulTask, kind_of
from stages.compile.builder import image_digest
from stages.discover.validator import Inbox
from stages.drain import ensure_taking
from stages.execute.matmul.challenge import PORTABLE
from stages.execute.matmul.stage import ensure_solvable
from stages.execute.sandbox import Sandbox
from stages.execute.sandbox.selftest import ensure_working
from stages.execute.wasm.interface import Runtime
from stages.execute.wasm.selftest import ensure_keeping
from stages.submit.outbox import Outbox
from stages.submit.validator import Answers

_logger = logging.getLogger(__name__)


async def admit_job(job_id: str, *, network: Network[Any], sandbox: Sandbox, outbox: Outbox, settings: Settings) -> Job:
    """Re-read the job on its chain and decide whether to do it.

    A job for which we hold a signed submission is always admitted, also while the machine drains: its fate must be
    followed to the end, whatever the chain says about the job by now.

    Raises Declined with the reason otherwise, Permanent if there is no such job.
    """
    return await _admit(
        job_id, network, outbox, settings, lambda _: ensure_working(sandbox, settings.data_dir / "state")
    )


async def admit_challenge(job_id: str, *, network: Network[Any], outbox: Outbox, settings: Settings) -> Job:
    """Decide as `admit_job` does about a challenge of the chain itself: no stranger's program is run, so what must
    work is not the sandbox but the device.

    Raises Declined also if the device is missing, or has too little memory for the challenge.
    """
    compute = settings.computechain
    return await _admit(
        job_id, network, outbox, settings, lambda job: ensure_solvable(job.size, job.algorithm, compute.device)
    )


class AdmittedRequest(NamedTuple):
    """A request on NEAR, and the digest of the image to compile it with; empty if nothing is to be compiled."""

    job: OffchainVmJob
    image: str


async def admit_request(
    job_id: str, *, network: Network[Any], outbox: Outbox, runtime: Runtime, settings: Settings
) -> AdmittedRequest:
    """Decide as `admit_job` does about a request to OffchainVM.

    Raises Declined also if the WASM runtime fails its self-test here, or there is nothing to compile with.
    """

    def ensure_doable(job: OffchainVmJob) -> None:
        ensure_keeping(runtime)
        # What a coordinator hands out may be compiled already: it is seen when the module is asked for.
        if isinstance(job.source, GitHubSource) and not (job.is_handed_out and settings.coordinator.url):
            image_digest(settings)

    job = cast("OffchainVmJob", await _admit(job_id, network, outbox, settings, ensure_doable))
    image = ""
    if isinstance(job.source, GitHubSource):
        try:
            image = await asyncio.to_thread(image_digest, settings)
        except Declined:
            # It was admitted for its signature alone, which needs no builder, or for a module of the coordinator's.
            _logger.warning("%s cannot be compiled here", job.key)
    return AdmittedRequest(job, image)


async def admit_compilation(job_id: str, *, network: Network[Any], settings: Settings) -> AdmittedRequest:
    """Decide about a request of which only the module is wanted, by whoever executes it; no money is needed for that.

    Raises Declined as `admit_request`, Permanent if there is no such job.
    """
    job: OffchainVmJob = await network.find(job_id)
    network.allowed(job)
    image = await asyncio.to_thread(image_digest, settings) if isinstance(job.source, GitHubSource) else ""
    return AdmittedRequest(job, image)


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
            f"the task is of the kind {printable(kind, 100)!r}" if kind else "the payload names no kind of task",
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


async def _admit(
    job_id: str, network: Network[Any], outbox: Outbox, settings: Settings, ensure_doable: Callable[[Any], None]
) -> Job:
    job: Job = await network.find(job_id)
    if outbox.latest(job.key) is not None:
        return job
    if not (isinstance(job, OffchainVmJob) and job.is_handed_out):  # that was taken on when it was handed out
        ensure_taking(settings.data_dir)
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
