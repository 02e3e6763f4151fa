"""A worker's side of the conversation with a validator, whose time passes only while somebody sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from localnet.validator import ValidatorLocalnet
from protocols.validator.messages import JobResult
from protocols.validator.polling import polling_link
from protocols.validator.websocket import websocket_link
from stages.discover.validator import Inbox
from stages.discover.validator_conversation import Conversation
from stages.submit.validator import Answers

ADDRESS = "cpc1us"
PAYLOAD = {"kind": "matmul-i32-v1", "block_hash": "ab" * 32, "n": 8}


class Side:
    """The worker's side, with a clock that only sleeping moves."""

    def __init__(self, folder: Path, validator: ValidatorLocalnet, transport: str = "ws", backlog: int = 10) -> None:
        self.seconds = 1_000.0
        self.clock_is_off_by = 0.0
        self.waits: list[float] = []
        self.inbox = Inbox(folder / "inbox")
        self.answers = Answers(folder / "answers", lambda: self.seconds)
        self.drains = False
        self.conversation = Conversation(
            (lambda: websocket_link(validator.url, ping_seconds=5))
            if transport == "ws"
            else (lambda: polling_link(validator.http_url, worker_address=ADDRESS, poll_seconds=0.01)),
            self.inbox,
            self.answers,
            validator="here",
            worker_address=ADDRESS,
            backlog=backlog,
            clock=lambda: self.seconds + self.clock_is_off_by,
            draining=lambda: self.drains,
            elapsed=lambda: self.seconds,
            sleep=self.sleep,
            jitter=lambda: 1.0,
        )

    async def sleep(self, seconds: float) -> None:
        if seconds >= 1:
            self.waits.append(seconds)
            self.seconds += seconds
        await asyncio.sleep(0.005)

    def result(self, job_id: str) -> JobResult:
        message = JobResult(job_id=job_id, worker_address=ADDRESS, result_hash="cd" * 32)
        self.answers.put(message, PAYLOAD)
        self.inbox.close(job_id)
        return message

    @asynccontextmanager
    async def talking(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.conversation.hold())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until_steady(self) -> None:
        """Return when no link has broken for a while."""
        broken = -1
        while broken != len(self.waits):
            broken = len(self.waits)
            await asyncio.sleep(0.3)

    async def until(self, ready: Any) -> None:
        for _ in range(2_000):
            if ready():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("it did not come to that")


async def answer(validator: ValidatorLocalnet, job_id: str) -> dict[str, Any]:
    return await asyncio.to_thread(validator.answer, job_id)
