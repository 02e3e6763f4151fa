"""The one retry policy: a function of the error's type and nothing else."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from millrace.errors import MillraceError, Transient, UnknownOutcome
from millrace.logs import located
from millrace.redaction import redact

R = TypeVar("R")

_logger = logging.getLogger(__name__)

ATTEMPTS = 6
"""How often a stage is tried in all within one flow run."""

BACKOFF_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Waits between the attempts, before jitter."""

LONGEST_REQUESTED_WAIT_SECONDS = 300.0
"""So much longer than that the other side may have us wait."""

JITTER_FACTOR = 0.5
"""Each wait is stretched by a random share of itself, so that workers do not knock in step."""


def is_retriable(error: BaseException) -> bool:
    """Whether the stage that raised `error` may be run again.

    `UnknownOutcome` qualifies because every stage that can raise it begins by asking the chain.
    """
    return isinstance(error, Transient | UnknownOutcome)


async def retried(
    call: Callable[[], Awaitable[R]],
    *,
    job: str,
    stage: str,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> R:
    """What `call` returns, tried as often as a stage is: for what a flow must know between its stages.

    Waits as long as the other side asks for. Raises what the last try raised, or at once what is not worth another,
    with the job and the stage that it was for.
    """
    with located(job, stage):
        for seconds in (*BACKOFF_SECONDS, None):
            try:
                return await call()
            except MillraceError as error:
                error.located(job=job, stage=stage)
                if seconds is None or not is_retriable(error):
                    raise
                _logger.warning("trying again: %s", redact(str(error)))
                asked = (error.retry_after_seconds if isinstance(error, Transient) else None) or 0.0
            stretched = seconds * (1 + random.random() * JITTER_FACTOR)  # noqa: S311  (no secret)
            await sleep(stretched + min(asked, LONGEST_REQUESTED_WAIT_SECONDS))
    raise AssertionError("the last try returns or raises")
