"""When flow runs start: by the Prefect server's clock, whatever that of this machine says.

Prefect lets whoever schedules a flow run name its start, lets workers say until when they take what is due, and has a
process that comes early wait. Millrace always means now, and asks the server when that is. A start far ahead is still
met: Prefect's own tools name it by the clock of whoever uses them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Scheduled

_TOLERANCE = timedelta(seconds=120)
"""So much may the clocks of a fleet differ."""

_SAME = timedelta(seconds=2)
"""Clocks so close are one: the server tells whole seconds, and its answer takes a while."""

_OF_AN_ATTEMPT = re.compile(r".+#\d+", re.DOTALL)
"""The idempotency keys of `flows.attempts`: what a person schedules by hand has another or none, and may wait."""

_logger = logging.getLogger(__name__)


def within(since: datetime, now: datetime, span: timedelta) -> bool:
    """Whether less than `span` has passed since then; no longer if that lies as far ahead: the clock was set back."""
    return abs(now - since) < span


async def server_now(client: PrefectClient) -> datetime:
    """The time by the Prefect server's clock, which dates every state; this machine's may be wrong.

    In UTC; exact to a second where the clocks differ. This machine's where a proxy keeps the server's time from us.
    """
    response = await client._client.get("/health")
    own = datetime.now(UTC)
    try:
        told = parsedate_to_datetime(response.headers["date"]).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return own
    return own if within(told, own, _SAME) else told


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
