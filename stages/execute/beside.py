"""Work on a thread beside the event loop that is stopped, not abandoned, when its task is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def beside_the_loop(work: Callable[[threading.Event], Result]) -> Result:
    """What `work` returns. If this task is cancelled, the event is set and the end of `work` awaited."""
    cancel = threading.Event()
    run = asyncio.ensure_future(asyncio.to_thread(work, cancel))
    try:
        return await asyncio.shield(run)
    except asyncio.CancelledError:
        cancel.set()
        await asyncio.wait([run])
        if not run.cancelled():
            run.exception()  # taken note of: the run was stopped on purpose
        raise
