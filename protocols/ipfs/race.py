"""Ask several places for one content: the next one when the last fails or takes long, and the first proof wins."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from math import ceil
from typing import Any, TypeVar

from millrace.errors import MillraceError, Transient
from protocols.ipfs.backends import ContentSource
from protocols.ipfs.cid import CID
from protocols.ipfs.errors import ContentRefused, ContentUnavailable, InvalidBlock

T = TypeVar("T")

HEDGE_SECONDS = 1.5
"""Silence of this length, and the next place is asked as well."""

MOST_IN_FLIGHT = 3

_logger = logging.getLogger(__name__)


async def first_verified(
    sources: Sequence[ContentSource],
    cid: CID,
    ask: Callable[[ContentSource, float], Coroutine[Any, Any, T]],
    timeout_seconds: float,
    *,
    clock: Callable[[], float],
    hedge_seconds: float = HEDGE_SECONDS,
) -> tuple[T, str]:
    """What the first source gave of `cid`, proven, and that source's name; the other requests are cancelled.

    `ask` asks one source within so many seconds. They are asked in order, at most MOST_IN_FLIGHT at a time, so that
    in `timeout_seconds` (by `clock`) each gets its turn. Raises LimitExceeded, UnsupportedContent or InvalidDag as
    soon as the content itself is shown to be unreadable; else, with what every source said, ContentUnavailable if
    any may have it later and ContentRefused if none will.
    """
    deadline = clock() + timeout_seconds
    hedge_seconds = min(hedge_seconds, timeout_seconds / (MOST_IN_FLIGHT + 1))
    waiting = deque(sources)
    running: dict[asyncio.Task[T], ContentSource] = {}
    failures: list[MillraceError] = []
    try:
        while waiting or running:
            if waiting and len(running) < MOST_IN_FLIGHT:
                share_seconds = max((deadline - clock()) / ceil(len(waiting) / MOST_IN_FLIGHT), 0.0)
                source = waiting.popleft()
                running[asyncio.create_task(ask(source, share_seconds))] = source
            more = waiting and len(running) < MOST_IN_FLIGHT
            done, _ = await asyncio.wait(
                running, timeout=hedge_seconds if more else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                name = running[task].name
                try:
                    return task.result(), name
                except (ContentUnavailable, ContentRefused, InvalidBlock) as error:
                    _logger.warning("%s not from %s: %s", cid, name, error)
                    failures.append(error)
                del running[task]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    raise _combined(cid, failures)


def _combined(cid: CID, failures: Sequence[MillraceError]) -> MillraceError:
    """One error for all: worth another try if any of them is, after the shortest wait that was asked for."""
    told = "; ".join(failure.message for failure in failures)
    transient = [failure for failure in failures if isinstance(failure, Transient)]
    if not failures:
        return ContentRefused(
            f"{cid} is not in the store, and there is nowhere else to look",
            hint="set MILLRACE_IPFS__GATEWAYS or MILLRACE_IPFS__DAEMON",
        )
    if not transient:
        return ContentRefused(f"nobody will give us {cid}: {told}")
    waits = [failure.retry_after_seconds for failure in transient if failure.retry_after_seconds is not None]
    return ContentUnavailable(
        f"nobody gave us {cid}: {told}",
        retry_after_seconds=min(waits) if len(waits) == len(transient) else None,
        hint="is the content published, and are the gateways reachable?",
    )
