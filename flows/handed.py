"""The life of a job that a coordinator handed out: claimed, done as any other request, and told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from prefect import State
from prefect.states import Completed

from flows.life import closed, settled
from flows.modules import module_of
from flows.tasks import admit_compilation, claim, share_module
from flows.workbench import Workbench
from millrace.errors import Declined, JobFault, MillraceError, Permanent
from millrace.network import Fate
from millrace.receipt import Receipt
from millrace.redaction import redact
from stages.discover.coordinator import Desk, Handed
from stages.submit.coordinator import Report
from stages.submit.coordinator_outcome import answered, compiled, failed, fault_of
from stages.submit.offchainvm_answer import Answer
from stages.submit.outbox import Outbox

AnswerRequest = Callable[[Workbench, str, Handed], Awaitable[tuple[Receipt, Answer]]]
"""Answers the request of a handed job on the chain; its receipt, and what was answered."""


async def handed_job(life: Workbench, job_id: str, answer_request: AnswerRequest) -> State[Any]:
    """Do the job and leave its end to be told: what is on the desk no more was told, or will be.

    Ends as a job of the chain's does; `Compiled` or `Not compiled` if a module was all that was wanted of us, `Not
    ours` if another worker has the job. Reasons that pass are not told: the job is tried again.
    """
    desk: Desk = await life.tool("desk")
    handed = await claim(f"offchainvm/{job_id}", job_id)
    if handed.ended and not _is_followed(await life.tool("outbox"), _job_key(_as_known(desk, handed))):
        return Completed(name="Told", message="the work has ended, and the coordinator is told how")
    if not handed.is_ours:
        await _end(desk, handed, [], success=False)
        return Completed(name="Not ours", message="another worker has the job, or it is not ready")
    try:
        if handed.only_compiles:
            return await _compile(desk, handed)
        receipt, answer = await answer_request(life, job_id, handed)
    except Declined as error:
        if not error.reason.temporary:
            await _end(desk, handed, failed(handed, _redacted(error), time.time()), success=False)
        return await closed(error)
    except Permanent as error:
        if not may_be_answered(await life.tool("outbox"), _as_known(desk, handed)):
            await _end(desk, handed, failed(handed, _redacted(error), time.time()), success=False)
        raise
    reports = answered(handed, answer, receipt, time.time())
    await _end(desk, handed, reports, success=all(report.success for report in reports))
    return await settled(receipt)


async def _compile(desk: Desk, handed: Handed) -> State[Any]:
    """Compile for the fleet: whoever gets the execution downloads the module."""
    key = f"offchainvm/{handed.job_id}"
    job, image = await admit_compilation(key, handed.job_id)
    try:
        if (fault := fault_of(handed)) is not None:
            raise fault
        module = await module_of(job, image, handed.checksum)
    except JobFault as error:
        await _end(desk, handed, failed(handed, _redacted(error), time.time()), success=False)
        return Completed(name="Not compiled", message=redact(str(error)))
    await share_module(job.key, job, module, handed.checksum)
    await _end(desk, handed, compiled(handed, module, time.time()), success=True)
    return Completed(name="Compiled", message=f"{module.sha256}: whoever executes it finds it at the coordinator")


def may_be_answered(outbox: Outbox, handed: Handed) -> bool:
    """Whether an answer to the job was signed that has landed or may yet land: then it is not to be told as failed.

    Raises OutboxDamaged if that cannot be told, Transient if the outbox is a fleet's and cannot be asked.
    """
    key = _job_key(handed)
    history = outbox.history(key) if key else ()
    return bool(history) and (history[-1].fate not in (Fate.expired, Fate.failed) or _is_followed(outbox, key))


def _is_followed(outbox: Outbox, job_key: str) -> bool:
    """Whether something was signed for the job whose fate is not final: that comes first."""
    return any(submission.job_key == job_key for submission in outbox.unsettled())


def _job_key(handed: Handed) -> str:
    """The key of the job in the outbox; empty before the contract was asked for it."""
    return handed.job.key if handed.job is not None else ""


def _as_known(desk: Desk, handed: Handed) -> Handed:
    """The work with what was noted of it meanwhile."""
    return desk.find(handed.job_id) or handed


async def _end(desk: Desk, handed: Handed, reports: list[Report], *, success: bool) -> None:
    await asyncio.to_thread(desk.end, handed, reports, success=success)


def _redacted(error: MillraceError) -> MillraceError:
    error.message = redact(error.message)
    return error
