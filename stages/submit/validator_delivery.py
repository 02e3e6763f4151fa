"""Deliver what a PoC validator is to be told, so that no one message keeps the others from getting there."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from millrace.logs import Sparing
from millrace.redaction import redact
from protocols.validator.link import NobodyThere, NotNow, Undeliverable, ValidatorLink
from protocols.validator.messages import JobRefused, JobResult
from stages.submit.validator import Answer, Answers

_logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""Between two looks for answers: other processes write them."""

_LATER_SECONDS = 30.0
"""Before an answer that the validator does not take yet is offered again."""

_LONGEST_LATER_SECONDS = 3_600.0

_SOON_SECONDS = 5.0
"""A link that breaks so soon after a message may be broken over it: pings are answered before it is looked at."""

_BRIEF_SECONDS = 60.0
"""A link that broke sooner and without a word from us broke for a reason of its own, and those before it may have."""

_MOST_BLAME = 3
"""With more, a message is taken for the reason why links break."""

_MOST_BLAMED = 1_000
"""Messages that are remembered for it, the newest."""

_MOST_REFUSALS = 1_000
"""That may wait to be sent; of a flood the oldest are dropped."""

_REFUSALS_A_ROUND = 20
"""Between two looks for answers: a flood of jobs to refuse does not hold up the results."""


@dataclass
class _Trouble:
    """What a message had so far: blame for links that broke, and when it may be tried again."""

    blame: int = 0
    not_before: float = 0.0


class Delivery:
    """What waits for one validator, over one link after the other.

    Arguments: `elapsed` gives seconds that never go back.
    """

    def __init__(
        self, answers: Answers, *, elapsed: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._answers = answers
        self._elapsed = elapsed
        self._sleep = sleep
        self._troubles: dict[str, _Trouble] = {}
        self._refusals: deque[JobRefused] = deque(maxlen=_MOST_REFUSALS)
        self._refusing: JobRefused | None = None
        """The one on its way, which waits again if it does not get there."""
        self._changing = threading.Lock()
        """Of the refusals: whoever listens is another thread."""
        self._said: tuple[str, float] | None = None
        """Whose answer went out last over this link, and when, until that is no longer soon ago."""
        self._broken = False
        """Nothing comes in over this link any more."""
        self._spoke = False
        """Something was said over this link, or tried."""
        self._began = 0.0
        self._complain = Sparing(_logger.error, elapsed)

    def refuse(self, refusal: JobRefused) -> None:
        """Have it sent once. It is not on the disk, for the same job may be offered again and accepted."""
        with self._changing:
            self._refusals.append(refusal)

    def withdraw(self, job_id: str) -> None:
        """The job was accepted after all: what was to be said against it, and has not been, is not true any more."""
        with self._changing:
            kept = [refusal for refusal in self._refusals if refusal.job_id != job_id]
            self._refusals = deque(kept, maxlen=_MOST_REFUSALS)
            if self._refusing is not None and self._refusing.job_id == job_id:
                self._refusing = None

    def broke(self) -> None:
        """Nothing comes in over the link any more: `over` offers the rest once, and returns.

        Over HTTP answers may be taken all the same. Over a WebSocket none is, and no message is to blame for that.
        """
        self._blame_the_last()
        if not self._spoke and self._elapsed() - self._began < _BRIEF_SECONDS:
            self._troubles.clear()
        self._broken = True

    async def over(self, link: ValidatorLink) -> None:
        """Deliver over `link` until it `broke`; raises what breaks it. OSError if the disk does not take what was done.

        Results come first, then refusals. A message over which links seem to break goes after all the others of its
        kind, and then less and less often: it may be that the validator hangs up on it, and will again.
        """
        self._said, self._broken, self._spoke, self._began = None, False, False, self._elapsed()
        try:
            while True:
                for answer in await asyncio.to_thread(self._due):
                    await self._deliver(link, answer)
                for _ in range(min(len(self._refusals), _REFUSALS_A_ROUND)):
                    await self._deliver_refusal(link)
                self._forgive()
                if self._broken:
                    return self._blame_the_last()
                await self._sleep(0.0 if self._refusals else _LOOK_SECONDS)
        except OSError:
            raise
        except BaseException:
            self._blame_the_last()
            raise

    def _due(self) -> list[Answer]:
        """The answers to try now."""
        due = [answer for answer in self._answers.waiting() if not self._is_put_off(answer.job_id)]
        return sorted(due, key=lambda each: (isinstance(each.message, JobRefused), self._blame_of(each)))

    def _blame_of(self, answer: Answer) -> int:
        known = self._troubles.get(answer.job_id)
        return known.blame if known is not None else 0

    async def _deliver(self, link: ValidatorLink, answer: Answer) -> None:
        try:
            await self._say(link, answer.message)
        except Undeliverable as error:
            self._complain("job %s: %s", answer.job_id, redact(str(error)))
        except NotNow as error:
            self._put_off(answer.job_id, _LATER_SECONDS)
            self._complain("job %s: %s", answer.job_id, redact(str(error)))
            return
        await asyncio.to_thread(self._answers.delivered, answer)

    async def _deliver_refusal(self, link: ValidatorLink) -> None:
        with self._changing:
            if not self._refusals:
                return None  # withdrawn meanwhile
            refusal = self._refusing = self._refusals.popleft()
        if self._is_put_off(refusal.job_id):
            return self._complain("the refusal of job %s is dropped: links broke over it", refusal.job_id)
        try:
            await self._say(link, refusal)
        except (Undeliverable, NotNow) as error:
            # The message is our own invention: not every validator knows it.
            self._complain("the refusal of job %s: %s", refusal.job_id, redact(str(error)))
        except BaseException:
            with self._changing:
                if self._refusing is refusal:
                    self._refusals.append(refusal)
            raise
        return None

    async def _say(self, link: ValidatorLink, message: JobResult | JobRefused) -> None:
        innocent = self._broken
        self._spoke = True
        try:
            await link.deliver(message.model_dump_json())
        except (Undeliverable, NotNow, NobodyThere):
            raise
        except BaseException:
            if not innocent:
                self._blame(message.job_id, 1)
            raise
        if not innocent:
            self._said = (message.job_id, self._elapsed())

    def _forgive(self) -> None:
        """What was said last did not break the link, or would have by now."""
        if self._said is not None and self._elapsed() - self._said[1] > _SOON_SECONDS:
            self._troubles.pop(self._said[0], None)
            self._said = None

    def _blame_the_last(self) -> None:
        if self._said is not None:
            self._blame(self._said[0], 2)
            self._said = None

    def _blame(self, job_id: str, much: int) -> None:
        """A link broke: over what was being said, or more likely over what had just been said."""
        trouble = self._trouble(job_id)
        trouble.blame += much
        if trouble.blame > _MOST_BLAME:
            wait = _LATER_SECONDS * 2.0 ** min(trouble.blame - _MOST_BLAME, 10)
            self._put_off(job_id, min(wait, _LONGEST_LATER_SECONDS))

    def _put_off(self, job_id: str, seconds: float) -> None:
        self._trouble(job_id).not_before = self._elapsed() + seconds

    def _is_put_off(self, job_id: str) -> bool:
        known = self._troubles.get(job_id)
        return known is not None and known.not_before > self._elapsed()

    def _trouble(self, job_id: str) -> _Trouble:
        if job_id not in self._troubles and len(self._troubles) >= _MOST_BLAMED:
            del self._troubles[next(iter(self._troubles))]
        return self._troubles.setdefault(job_id, _Trouble())
