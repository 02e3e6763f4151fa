"""Keep a link to a PoC validator: what it says goes into the inbox, what waits for it goes out, for ever."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NoReturn

from millrace.errors import Transient
from millrace.redaction import redact
from protocols.validator.job import PocJob
from protocols.validator.link import NotNow, OpenLink, Undeliverable, ValidatorLink
from protocols.validator.messages import BUSY, FAILED, MALFORMED, Incoming, JobMessage, JobRefused, Malformed, Unknown
from stages.discover.validator import Inbox, Received
from stages.submit.validator import Answers, digest_of

_logger = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_STEADY_SECONDS = 30.0
"""A link that lasted as long was a good one: the next failure begins with the shortest wait again."""

_LOOK_SECONDS = 0.5
"""Between two looks for answers: other processes write them."""

_LATER_SECONDS = 30.0
"""Before an answer that the validator does not take yet is offered again."""

_MOST_REFUSALS = 1_000
"""That may wait to be sent; of a flood the oldest are dropped."""

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
        self._refusals: deque[JobRefused] = deque(maxlen=_MOST_REFUSALS)
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
        """Refuse the jobs that came longer ago than that: whatever keeps them, somebody waits for a word.

        One that is worked on right now gets its result yet.
        """
        for received in self._inbox.open():
            late = self._clock() - received.received_at > job_seconds
            if late and not self._inbox.is_worked_on(received.job.job_id):
                self.give_up(received.job, f"not done within {job_seconds:g} s")

    def give_up(self, job: PocJob, why: str) -> None:
        """Nobody will do this job any more: the validator gets that for an answer, unless it has one."""
        refusal = self._refusal(job.job_id, FAILED, why)
        self._answers.put(refusal, job.payload)
        self._inbox.close(job.job_id)

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
            try:
                await asyncio.to_thread(self._take, message)
            except OSError as error:
                raise Transient(f"a job cannot be kept: {error.strerror}", hint="is the disk full?") from None
            except Exception:
                # Whatever it was that somebody made us stumble over, the next message may be a job.
                _logger.exception("a message was left alone")

    async def _deliver(self, link: ValidatorLink) -> NoReturn:
        later: dict[str, float] = {}
        while True:
            while self._refusals:
                await link.deliver(self._refusals[0].model_dump_json())
                self._refusals.popleft()
            for answer in await asyncio.to_thread(self._answers.waiting):
                if later.get(answer.job_id, 0.0) > self._clock():
                    continue
                try:
                    await link.deliver(answer.message.model_dump_json())
                except Undeliverable as error:
                    _logger.error("job %s: %s", answer.job_id, redact(str(error)))
                except NotNow as error:
                    later[answer.job_id] = self._clock() + _LATER_SECONDS
                    _logger.warning("job %s: %s", answer.job_id, redact(str(error)))
                    continue
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
        self._inbox.keep(Received(job=job, received_at=self._clock()))
        self.received += 1
        return None

    def _refuse(self, job_id: str, reason: str, message: str) -> None:
        """Say no for now: not on the disk, for the same id may be offered again and accepted."""
        self._refusals.append(self._refusal(job_id, reason, message))

    def _refusal(self, job_id: str, reason: str, message: str) -> JobRefused:
        refusal = {"job_id": job_id, "worker_address": self._worker_address, "reason": reason, "message": message}
        return JobRefused.model_validate(refusal)

    def _warn(self, text: str, told: str) -> None:
        now = self._clock()
        self._warned = [at for at in self._warned if now - at < _WARNINGS_SECONDS]
        if len(self._warned) < _WARNINGS:
            self._warned.append(now)
            _logger.warning(text, told)
