"""Jobs from a PoC validator: a long flow run keeps the link to it, and each job is a flow run of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import httpx
from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.states import Completed

from flows.dispatch import Dispatcher
from flows.endless import first_of, stoppable, told_to_stop
from flows.life import closed, current_flow_run_id, job_life, named_after, settled
from flows.networks import VALIDATOR, VALIDATOR_NAME
from flows.tasks import admit_poc, answer, publish, solve
from flows.workbench import Workbench
from millrace.errors import Declined, MillraceError, Permanent
from millrace.logs import Sparing
from millrace.redaction import redact
from millrace.settings import Settings, load_settings
from protocols.validator.messages import FAILED, MALFORMED, JobRefused
from stages.admit import MalformedPayload
from stages.discover.validator import Inbox
from stages.discover.validator_conversation import Conversation
from stages.discover.validator_opening import open_conversation
from stages.progress import Progress
from stages.submit.answer import answer_of, draft_answer

_logger = logging.getLogger("flows.validator")

_LOOK_SECONDS = 1.0
"""Between two looks into the inbox for jobs to start."""

_TELL_SECONDS = 10.0
"""Between two words about a link that is as it was."""


@flow(name="poc-job", flow_run_name=named_after("job_id"))
async def poc_job(job_id: str) -> State[Any]:
    """Do the validator's job `job_id` and leave the answer, or a refusal with the reason, to be delivered.

    Ends `Answered` with a receipt, `Declined` with the reason, or `Failed` with what a person can do about it.
    """
    async with job_life() as life, _at_work(life, job_id):
        try:
            admitted = await admit_poc(f"validator/{job_id}", job_id)
            job, task = admitted.job, admitted.task
            solution = await solve(job.key, task.block_hash, job.worker_address, task.n, task.kind)
            bundle = await publish(job.key, solution.bundle_json(job.key), f"{job_id}-proof.json")
            draft = draft_answer(job, solution, bundle, life.stage_seconds, current_flow_run_id())
            return await settled(await answer(job.key, job, answer_of(solution, bundle), draft))
        except Declined as error:
            await _refuse(life, job_id, error.reason.value, error)
            return await closed(error)
        except Permanent as error:
            await _refuse(life, job_id, MALFORMED if isinstance(error, MalformedPayload) else FAILED, error)
            raise


@asynccontextmanager
async def _at_work(life: Workbench, job_id: str) -> AsyncIterator[None]:
    """Nobody gives the job up inside."""
    with (await life.tool("inbox")).at_work(job_id):
        yield


async def _refuse(life: Workbench, job_id: str, reason: str, error: MillraceError) -> None:
    """Tell the validator, unless the job was answered or never was one of its own."""
    inbox, answers = await life.tool("inbox"), await life.tool("answers")
    job = inbox.find(job_id)
    if job is None:
        return
    refusal = {"job_id": job_id, "worker_address": job.worker_address, "reason": reason}
    answers.put(JobRefused.model_validate({**refusal, "message": redact(error.message)}), job.payload)
    inbox.close(job_id)


@flow(name="validator", flow_run_name="validator")
async def validator(run_seconds: float = 86_400.0) -> State[Any]:
    """Keep the link to the validator for `run_seconds`: take its jobs, start their flow runs, deliver the answers.

    Ended by SIGTERM, it closes the link and completes; nothing is lost, the next run goes on. `Failed` if the
    validator does not let us in. Without a validator in the settings it does nothing.
    """
    settings = load_settings()
    if not VALIDATOR.configured(settings):
        return Completed(name="Not configured", message=f"to serve a validator: {VALIDATOR.remedy}")
    async with stoppable() as told, job_life() as bench, get_client() as client:
        conversation = open_conversation(settings, await bench.tool("inbox"), await bench.tool("answers"))
        dispatcher = await Dispatcher.create(client, VALIDATOR, settings)
        await first_of(
            conversation.hold(),
            _start_jobs(conversation, dispatcher, await bench.tool("inbox"), settings),
            told_to_stop(told, run_seconds),
        )
    return Completed(name=f"Took {conversation.received}", message=f"{conversation.received} new jobs came")


async def _start_jobs(conversation: Conversation, dispatcher: Dispatcher, inbox: Inbox, settings: Settings) -> NoReturn:
    """See to it that each job in the inbox has a flow run, as many at once as there is room for."""
    warn = Sparing(_logger.warning, time.monotonic)
    tell = _Telling(conversation, Progress(settings.data_dir))
    while True:
        try:
            await asyncio.to_thread(conversation.refuse_overdue, settings.validator.job_seconds)
            jobs = [received.job for received in await asyncio.to_thread(inbox.open)]
            await dispatcher.start(jobs)
            given_up = {job.job_id: why for job, why in dispatcher.given_up}
            await asyncio.to_thread(tell, len(jobs))
            for job in jobs:
                if job.job_id in given_up:
                    await asyncio.to_thread(conversation.give_up, job, given_up[job.job_id])
        except (httpx.HTTPError, PrefectException, OSError) as error:
            warn("no flow run can be started now: %s", redact(f"{type(error).__name__}: {error}"))
        await asyncio.sleep(_LOOK_SECONDS)


class _Telling:
    """Has whoever asks for our progress hear of the link, when that changed and once in a while."""

    def __init__(self, conversation: Conversation, progress: Progress) -> None:
        self._conversation = conversation
        self._progress = progress
        self._told: tuple[str, float] | None = None

    def __call__(self, pending: int) -> None:
        trouble, now = self._conversation.trouble, time.monotonic()
        if self._told is not None and self._told[0] == trouble and now - self._told[1] < _TELL_SECONDS:
            return
        self._told = (trouble, now)
        if trouble:
            self._progress.could_not_look(VALIDATOR_NAME, now=time.time(), trouble=trouble)
        else:
            self._progress.looked(VALIDATOR_NAME, now=time.time(), head=None, pending=pending, given_up=0)
