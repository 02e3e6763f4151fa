"""When flow runs start: by the Prefect server's clock, whatever that of this machine says.

Prefect lets whoever schedules a flow run name its start, lets workers say until when they take what is due, and has a
process that comes early wait. Millrace always means now, and asks the server when that is. A start far ahead is still
met: Prefect's own tools name it by the clock of whoever uses them.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Scheduled

_TOLERANCE = timedelta(seconds=120)
"""So much may the clocks of a fleet differ."""

_AGE = timedelta(seconds=2.5)
"""So old may the time in an answer be: whole seconds, of which a busy server makes a new one late."""

_SET_ANEW = timedelta(seconds=30)
"""A server whose time is so much off what it was to be has had its clock set."""

_ASK_AGAIN_SECONDS = 10.0

_OF_AN_ATTEMPT = re.compile(r".+#\d+", re.DOTALL)
"""The idempotency keys of `flows.attempts`: what a person schedules by hand has another or none, and may wait."""

_logger = logging.getLogger(__name__)


def within(since: datetime, now: datetime, span: timedelta) -> bool:
    """Whether less than `span` has passed since then; no longer if that lies as far ahead: the clock was set back."""
    return abs(now - since) < span


async def server_now(client: PrefectClient) -> datetime:
    """The time by the Prefect server's clock, in UTC: it dates every state, and this machine's clock may be wrong.

    This machine's own time, where the server's answer does not rule it out; else off by up to 2.5 s. Whatever is asked
    raises httpx.HTTPError if the server does not answer.
    """
    return _agreeing(await _told_by(client), datetime.now(UTC))


class ServerClock:
    """`server_now` for whoever asks often: the server is asked once in a while, its time goes on by itself between.

    `elapsed` gives seconds that never go back, whatever is done to the clock.
    """

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._told: datetime | None = None
        self._since = -math.inf

    async def now(self, client: PrefectClient) -> datetime:
        """The server's time, as `server_now` tells it."""
        at = self._elapsed()
        if at - self._since > _ASK_AGAIN_SECONDS:
            told = await _told_by(client)
            at = self._elapsed()
            self._told, self._since = self._newer(told, at), at
        passed = timedelta(seconds=at - self._since)
        return _agreeing(self._told + passed if self._told is not None else None, datetime.now(UTC))

    def _newer(self, told: datetime | None, at: float) -> datetime | None:
        """What is told may be too old, and never too new: what was told before may be better, if no clock was set."""
        if told is None or self._told is None:
            return told
        before = self._told + timedelta(seconds=at - self._since)
        return max(told, before) if within(told, before, _SET_ANEW) else told


async def _told_by(client: PrefectClient) -> datetime | None:
    """What the server, or a proxy before it, says that the time is; None if neither does."""
    response = await client._client.get("/health")
    try:
        told = parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError, OverflowError):
        return None
    return told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)  # HTTP has no other zone


def _agreeing(told: datetime | None, own: datetime) -> datetime:
    """Our own time, or that nearest to it at which the server could have told what it told."""
    return own if told is None else min(max(own, told), told + _AGE)


async def bring_forward(client: PrefectClient, scheduled: Sequence[FlowRun]) -> list[str]:
    """Let those of the scheduled flow runs of jobs begin now whose start is far ahead; says which, in words."""
    now = await server_now(client)
    done: list[str] = []
    for run in scheduled:
        start: datetime | None = run.state.state_details.scheduled_time if run.state is not None else None
        if run.state is None or start is None or start - now < _TOLERANCE:
            continue
        if not _OF_AN_ATTEMPT.fullmatch(run.idempotency_key or ""):
            continue
        why = f"its start was {(start - now).total_seconds():.0f} s ahead: a clock was set back"
        begin_now: State[Any] = Scheduled(name=run.state.name, message=why, scheduled_time=now)
        await client.set_flow_run_state(run.id, begin_now, force=True)
        _logger.warning("flow run %s (%s): %s", run.name, run.id, why)
        done.append(f"{run.name}: {why}")
    return done
