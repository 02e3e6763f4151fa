"""Follow a submission: ask the chain, send the same bytes again while it does not know, until an answer will do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from millrace.errors import MillraceError, Transient, UnknownOutcome
from millrace.network import Fate, Network, Outcome, SignedSubmission
from stages.submit.outbox import Outbox

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How a submission is followed; `clock` gives seconds that never go back."""

    poll_seconds: float = 1.0
    rebroadcast_seconds: float = 2.0
    deadline_seconds: float = 180.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


async def follow(
    submission: SignedSubmission,
    *,
    network: Network[Any],
    outbox: Outbox,
    until: Callable[[Outcome], bool],
    pace: Pace,
) -> Outcome:
    """The first outcome that `until` accepts.

    The chain is always asked before anything is sent, so that a rerun after a crash never sends what has landed. A
    chain that cannot be asked is asked again until the deadline.

    Raises UnknownOutcome at the deadline; Permanent as the network raises it.
    """
    deadline = pace.clock() + pace.deadline_seconds
    next_send = pace.clock()
    trouble = ""
    while True:
        wait = pace.poll_seconds
        try:
            outcome = await network.outcome(submission)
            if until(outcome):
                return outcome
            trouble = f"the chain says {outcome.fate}"
            if outcome.fate is Fate.unknown and pace.clock() >= next_send:
                next_send = pace.clock() + pace.rebroadcast_seconds
                await _send(submission, network, outbox)
        except (Transient, UnknownOutcome) as error:
            trouble = error.message
            wait = max(wait, _asked_for(error))
        if pace.clock() + wait > deadline:
            raise UnknownOutcome(
                f"no word about {submission.transaction_id} within {pace.deadline_seconds:.0f} s; last: {trouble}",
                job=submission.job_key,
                hint="nothing is lost: the same bytes are followed further by the next attempt",
            )
        await pace.sleep(wait)


async def _send(submission: SignedSubmission, network: Network[Any], outbox: Outbox) -> None:
    """Send it, after those that must land before it: nobody else may be following them any more."""
    if submission.lane:
        for earlier in outbox.in_lane(submission.lane):
            if earlier.nonce is not None and submission.nonce is not None and earlier.nonce < submission.nonce:
                await _send_again(earlier, network)
    await network.send(submission)


async def _send_again(earlier: SignedSubmission, network: Network[Any]) -> None:
    try:
        await network.send(earlier)
    except MillraceError as error:
        _logger.info("%s, which comes first, was not sent again: %s", earlier.transaction_id, error)


def _asked_for(error: MillraceError) -> float:
    return (error.retry_after_seconds or 0.0) if isinstance(error, Transient) else 0.0
