"""Wait for a service to say that content is pinned: what it says right away is only that it means to."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from protocols.ipfs.errors import PublishFailed

T = TypeVar("T")

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 10.0


@dataclass(frozen=True)
class PinPolling:
    """How to wait: until when, by which clock, with which sleep, and how often to ask."""

    deadline_seconds: float = 60.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random

    async def until_told(self, ask: Callable[[], Awaitable[T | None]], what: str) -> T:
        """The first answer of `ask` that is not None; asked less and less often, later if the service wishes.

        Raises PublishFailed, saying `what` is not pinned, at the deadline; and what `ask` raises, but a PublishFailed
        only then.
        """
        deadline = self.clock() + self.deadline_seconds
        for attempt in count():
            wait_seconds = min(_FIRST_SECONDS * 2**attempt, _LONGEST_SECONDS) * (1 + self.jitter() / 2)
            failure = PublishFailed(
                f"{what} is not pinned after {self.deadline_seconds:.0f} s", hint="it is asked about again, not sent"
            )
            try:
                if (told := await ask()) is not None:
                    return told
            except PublishFailed as error:
                failure = error
                wait_seconds = max(wait_seconds, error.retry_after_seconds or 0.0)
            if self.clock() + wait_seconds > deadline:
                raise failure
            await self.sleep(wait_seconds)
        raise AssertionError("counting has no end")
