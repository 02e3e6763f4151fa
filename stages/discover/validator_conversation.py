"""Keep a link to a PoC validator: what it says goes into the inbox, what waits for it goes out, for ever."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn

from millrace.errors import Transient
from millrace.redaction import redact
from protocols.validator.job import PocJob
from protocols.validator.link import OpenLink, Undeliverable, ValidatorLink
from protocols.validator.messages import BUSY, FAILED, MALFORMED, Incoming, JobMessage, JobRefused, Malformed, Unknown
from stages.discover.validator import Inbox, Received
from stages.submit.validator import Answers

_logger = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_STEADY_SECONDS = 30.0
"""A link that lasted as long was a good one: the next failure begins with the shortest wait again."""

_LOOK_SECONDS = 0.5
"""Between two looks for answers: other processes write them."""

_WARNINGS = 20
_WARNINGS_SECONDS = 60.0
"""At most so many warnings in so long about what the validator says: it may never stop."""


class Conversation:
    """Between one validator and one worker.

    Arguments: `open_link` opens a link; `validator` is the validator's name in keys; a job is refused when `backlog`
    others wait; `clock` is Unix time; `jitter` gives a factor for each wait.
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
        self._sleep = sleep
        self._jitter = jitter
        self._warned: list[float] = []
        self.received = 0
        """How many jobs came that were new."""

    async def hold(self) -> NoReturn:
        """Open a link and use it, again and again, with growing waits between failures.

        Raises Permanent if the validator does not let us in.
        """
        wait = _FIRST_WAIT_SECONDS
        while True:
            began = self._clock()
            try:
                async with self._open_link() as link:
                    _logger.info("linked to the validator at %s", self._validator)
                    await self._use(link)
            except Transient as error:
                if self._clock() - began >= _STEADY_SECONDS:
                    wait = _FIRST_WAIT_SECONDS
                pause = max(wait * self._jitter(), error.retry_after_seconds or 0.0)
                _logger.warning("%s; trying again in %.1f s", redact(str(error)), pause)
            await self._sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def refuse_overdue(self, job_seconds: float) -> None:
        """Refuse the jobs that came longer ago than that: whatever kept them, somebody waits for a word."""
        for received in self._inbox.open():
            if self._clock() - received.received_at > job_seconds:
                self._refuse(received.job.job_id, FAILED, f"not done within {job_seconds:g} s")
                self._inbox.close(received.job.job_id)

    async def _use(self, link: ValidatorLink) -> None:
        """Listen and deliver until the link breaks; raises what broke it."""
        both = [asyncio.ensure_future(self._listen(link)), asyncio.ensure_future(self._deliver(link))]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                await ended
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _listen(self, link: ValidatorLink) -> None:
        async for message in link.messages():
            await asyncio.to_thread(self._take, message)

    async def _deliver(self, link: ValidatorLink) -> NoReturn:
        while True:
            for answer in await asyncio.to_thread(self._answers.waiting):
                try:
                    await link.deliver(answer.message.model_dump_json())
                except Undeliverable as error:
                    _logger.error("job %s: %s", answer.job_id, redact(str(error)))
                await asyncio.to_thread(self._answers.delivered, answer)
            await self._sleep(_LOOK_SECONDS)

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
        answer = self._answers.find(message.job_id)
        if answer is not None and not answer.passing:
            _logger.info("job %s was offered again and gets the same answer", message.job_id)
            return self._answers.again(answer)
        job = PocJob(
            chain_id=self._validator,
            job_id=message.job_id,
            task_id=message.task_id or "",
            payload=message.payload,
            worker_address=self._worker_address,
        )
        known = self._inbox.find(message.job_id)
        if known is not None:
            if known.payload != job.payload:
                self._warn("job %s came with another payload; the first one counts", message.job_id)
            return None
        if len(self._inbox.open()) >= self._backlog:
            self._warn("job %s is refused: too many wait", message.job_id)
            return self._refuse(message.job_id, BUSY, f"{self._backlog} jobs wait already")
        if answer is not None:
            self._answers.forget(answer)
        self._inbox.keep(Received(job=job, received_at=self._clock()))
        self.received += 1
        return None

    def _refuse(self, job_id: str, reason: str, message: str) -> None:
        refusal = {"job_id": job_id, "worker_address": self._worker_address, "reason": reason, "message": message}
        self._answers.put(JobRefused.model_validate(refusal))

    def _warn(self, text: str, told: str) -> None:
        now = self._clock()
        self._warned = [at for at in self._warned if now - at < _WARNINGS_SECONDS]
        if len(self._warned) < _WARNINGS:
            self._warned.append(now)
            _logger.warning(text, told)
