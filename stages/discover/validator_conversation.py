"""Keep a link to a PoC validator: what it says goes into the inbox, what waits for it goes out, for ever."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from millrace.errors import DeclineReason, Transient
from millrace.logs import Sparing
from millrace.redaction import redact
from protocols.validator.job import PocJob
from protocols.validator.link import OpenLink, ValidatorLink
from protocols.validator.messages import (
    BUSY,
    FAILED,
    MALFORMED,
    Incoming,
    JobMessage,
    JobRefused,
    JobResult,
    Malformed,
    Unknown,
)
from stages.discover.validator import Inbox, Received
from stages.submit.validator import Answers, digest_of
from stages.submit.validator_delivery import Delivery

_logger = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_STEADY_SECONDS = 30.0
"""A link that lasted as long was a good one: the next failure begins with the shortest wait again."""


class Conversation:
    """Between one validator and one worker.

    Arguments: `open_link` opens a link; `validator` is the validator's name in keys; a job is refused when `backlog`
    others wait, and while `draining` says so; `clock` is Unix time, `elapsed` gives seconds that never go back;
    `jitter` gives a factor for each wait.
    """

    def __init__(
        self,
        open_link: OpenLink,
        inbox: Inbox,
        answers: Answers,
        *,
        validator: str,
        worker_address: str,
        backlog: int,
        clock: Callable[[], float],
        draining: Callable[[], bool] = lambda: False,
        elapsed: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = lambda: random.uniform(0.75, 1.25),  # noqa: S311  (no secret)
    ) -> None:
        self._open_link = open_link
        self._inbox = inbox
        self._answers = answers
        self._validator = validator
        self._worker_address = worker_address
        self._backlog = backlog
        self._clock = clock
        self._draining = draining
        self._elapsed = elapsed
        self._sleep = sleep
        self._jitter = jitter
        self._delivery = Delivery(answers, elapsed=elapsed, sleep=sleep)
        self._warn = Sparing(_logger.warning, elapsed)
        self._since: dict[str, float] = {}
        """Since when each job waits, in the seconds of `elapsed`."""
        self.received = 0
        """How many jobs came that were new."""
        self.trouble = "no link yet"
        """Why there is no link now; empty while there is one."""

    async def hold(self) -> NoReturn:
        """Open a link and use it, again and again, with growing waits between failures.

        Raises Permanent if the validator does not let us in.
        """
        wait = _FIRST_WAIT_SECONDS
        while True:
            began = self._elapsed()
            try:
                async with self._open_link() as link:
                    _logger.info("linked to the validator at %s", self._validator)
                    self.trouble = ""
                    await self._use(link)
            except Transient as error:
                if self._elapsed() - began >= _STEADY_SECONDS:
                    wait = _FIRST_WAIT_SECONDS
                pause = max(wait * self._jitter(), error.retry_after_seconds or 0.0)
                self.trouble = redact(str(error))
                _logger.warning("%s; trying again in %.1f s", self.trouble, pause)
            await self._sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def refuse_overdue(self, job_seconds: float) -> None:
        """Refuse the jobs that came longer ago than that: whatever keeps them, somebody waits for a word.

        One that is worked on right now gets its result yet; one that has its result lacks only the receipt.
        """
        waiting = self._inbox.open()
        self._since = {received.job.job_id: self._waits_since(received) for received in waiting}
        for received in waiting:
            job_id = received.job.job_id
            late = self._elapsed() - self._since[job_id] > job_seconds
            if late and not self._inbox.is_worked_on(job_id) and not self._has_result(job_id):
                self.give_up(received.job, f"not done within {job_seconds:g} s")

    def _waits_since(self, received: Received) -> float:
        """The clock counts for what was before the first look only: it may be set at any time."""
        known = self._since.get(received.job.job_id)
        return self._elapsed() - max(0.0, self._clock() - received.received_at) if known is None else known

    def _has_result(self, job_id: str) -> bool:
        answer = self._answers.find(job_id)
        return answer is not None and isinstance(answer.message, JobResult)

    def give_up(self, job: PocJob, why: str) -> None:
        """Nobody will do this job any more: the validator gets that for an answer, unless it has one."""
        refusal = self._refusal(job.job_id, FAILED, why)
        self._answers.put(refusal, job.payload)
        self._inbox.close(job.job_id)

    async def _use(self, link: ValidatorLink) -> None:
        """Listen and deliver until the link breaks; raises what broke it."""
        listening = asyncio.ensure_future(self._listen(link))
        delivering = asyncio.ensure_future(self._delivery.over(link))
        both = (listening, delivering)
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if delivering not in done and isinstance(listening.exception(), Transient):
                self._delivery.broke()
                await asyncio.wait([delivering])
            for ended in done:
                await ended
        except OSError as error:
            raise Transient(f"the data folder fails: {error.strerror}", hint="is the disk full?") from None
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _listen(self, link: ValidatorLink) -> None:
        async for message in link.messages():
            try:
                await asyncio.to_thread(self._take, message)
            except OSError:
                raise
            except Exception:
                # Whatever it was that somebody made us stumble over, the next message may be a job.
                _logger.exception("a message was left alone")

    def _take(self, message: Incoming) -> None:
        match message:
            case JobMessage():
                self._take_job(message)
            case Malformed(job_id=job_id, fault=fault):
                self._warn("a job that cannot be one: %s", fault)
                if job_id:
                    self._refuse(job_id, MALFORMED, fault)
            case Unknown(told=told):
                self._warn("not understood, left alone: %s", told)

    def _take_job(self, message: JobMessage) -> None:
        known = self._inbox.find(message.job_id)
        answer = self._answers.find(message.job_id)
        if answer is not None and answer.payload_sha256 == digest_of(message.payload):
            _logger.info("job %s was offered again and gets the same answer", message.job_id)
            return self._answers.again(answer)
        if answer is not None or (known is not None and known.payload != message.payload):
            self._warn("job %s came with another payload than before", message.job_id)
            return self._refuse(message.job_id, MALFORMED, "this id was used for another payload")
        if known is not None:
            return None
        if self._draining():
            return self._refuse(message.job_id, DeclineReason.draining, "this worker takes nothing new for now")
        if self._inbox.count() >= self._backlog:
            self._warn("job %s is refused: too many wait", message.job_id)
            return self._refuse(message.job_id, BUSY, f"{self._backlog} jobs wait already")
        job = PocJob(
            chain_id=self._validator,
            job_id=message.job_id,
            task_id=message.task_id or "",
            payload=message.payload,
            worker_address=self._worker_address,
        )
        self._delivery.withdraw(job.job_id)
        try:
            self._inbox.keep(Received(job=job, received_at=self._clock()))
        except OSError as error:
            self._warn("job %s is refused, it cannot be kept: %s", job.job_id, error.strerror)
            return self._refuse(job.job_id, BUSY, "it cannot be kept now")
        self.received += 1
        return None

    def _refuse(self, job_id: str, reason: str, message: str) -> None:
        """Say no for now: the same id may be offered again and accepted."""
        self._delivery.refuse(self._refusal(job_id, reason, message))

    def _refusal(self, job_id: str, reason: str, message: str) -> JobRefused:
        refusal = {"job_id": job_id, "worker_address": self._worker_address, "reason": reason, "message": message}
        return JobRefused.model_validate(refusal)
