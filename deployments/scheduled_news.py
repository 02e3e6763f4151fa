"""The server's events of flow runs that are scheduled: to be taken at once, and not at the next poll."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn
from uuid import UUID

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

_AGAIN_SECONDS = 10.0
"""How long after a lost connection the server is asked for events again."""

_logger = logging.getLogger(__name__)


async def listen(work_pool_id: Callable[[], UUID], heard: Callable[[], None]) -> NoReturn:
    """Call `heard` for each flow run that is scheduled in the pool; an event that does not come costs a poll's wait.

    The pool's id is asked for at each connection: there may be none yet.
    """
    while True:
        try:
            async with get_events_subscriber(_scheduled_in(work_pool_id())) as told:
                async for _ in told:
                    heard()
        except Exception:
            _logger.debug("events are not to be had; flow runs are found by polling", exc_info=True)
        await asyncio.sleep(_AGAIN_SECONDS)


def _scheduled_in(work_pool_id: UUID) -> EventFilter:
    return EventFilter(
        event=EventNameFilter(name=["prefect.flow-run.Scheduled", "prefect.flow-run.AwaitingRetry"]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{work_pool_id}"]),
    )
