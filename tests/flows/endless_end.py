"""Ending a flow run of this very process as a stopping worker ends those that go on without end.

Prefect has a handler for SIGTERM while a flow run is at work, and puts back the one before when the run has ended.
Where two flow runs share a process, as in a test, the one that ends by SIGTERM must listen before the other begins and
be told after the other has ended: else the signal meets the wrong handler, and may end the test runner.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any


async def until_it_listens(run: asyncio.Future[Any]) -> None:
    """Return once SIGTERM would end the flow run well, or it has ended already."""
    while not run.done() and not _loop_has_sigterm():
        await asyncio.wait([run], timeout=0.01)


async def end_by_sigterm(run: asyncio.Future[Any]) -> Any:
    """What the flow run returns, once SIGTERM has ended it; the caller let it listen first."""
    if not _loop_has_sigterm():
        await asyncio.wait([run], timeout=10)  # it is ending by itself
    if not run.done():
        assert _loop_has_sigterm(), "the flow run does not listen: SIGTERM would end the test runner"
        os.kill(os.getpid(), signal.SIGTERM)
    return await run


def _loop_has_sigterm() -> bool:
    """Whether the event loop gets SIGTERM, and neither Prefect's handler nor the system's."""
    return getattr(signal.getsignal(signal.SIGTERM), "__module__", "").startswith("asyncio")
