"""A process of the worker's that is killed on the spot: run with the place and the job."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any, NoReturn

from flows import submit as submission
from flows.offchainvm import offchainvm_job
from millrace.settings import load_settings
from protocols.coordinator.executions import Capability
from stages.discover.coordinator import Desk, desk_of
from stages.discover.coordinator_conversation import Conversation
from stages.discover.coordinator_opening import open_coordinator, worker_id_of


def die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


async def take() -> None:
    """Ask for one piece of work, and die when it is taken."""
    settings = load_settings()
    async with open_coordinator(settings) as coordinator:
        assert coordinator is not None
        conversation = Conversation(
            coordinator,
            desk_of(settings),
            api=settings.coordinator.api,
            worker_id=worker_id_of(settings),
            worker_name="killed",
            capabilities=lambda: list(Capability),
            poll_seconds=1,
            clock=lambda: 0.0,
        )
        if await conversation.ask():
            die()


async def do(place: str, job_id: str) -> None:
    """Do the job, and die instead of sending what was signed, or instead of leaving word of the end."""
    if place == "confirm":
        submission.confirm = die  # type: ignore[assignment]
    else:
        Desk.end = die  # type: ignore[method-assign]
    await offchainvm_job(job_id)


asyncio.run(take() if sys.argv[1] == "take" else do(*sys.argv[1:]))
