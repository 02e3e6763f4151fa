"""What flow runs share that go on until the worker ends them by SIGTERM: those with the tag `endless`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def stoppable() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM sets, and does nothing else inside.

    It goes around everything that the flow run does, its lease too: once the lease names the flow, the worker may ask
    it to end. While tools are still being opened Prefect's own handler would have it crash.
    """
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, told.set)
    try:
        yield told
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


async def told_to_stop(told: asyncio.Event, most_seconds: float | None = None) -> None:
    """Return after `most_seconds`, never if None, or once the event of `stoppable` is set."""
    try:
        async with asyncio.timeout(most_seconds):
            await told.wait()
    except TimeoutError:
        return


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Return when the first of them has ended, or raise what ended it; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            await ended
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
