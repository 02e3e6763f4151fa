"""The later API's view of workers: heartbeats, how far event monitors are, and registration of trusted hardware."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from millrace.errors import Transient
from protocols.coordinator.link import Link
from protocols.near.answers import U64

HEARTBEAT_SECONDS = 30.0
"""Between two heartbeats."""


class WorkerState(StrEnum):
    """What a worker does. There is no fourth state: "stale", which others send, is refused."""

    online = "online"
    busy = "busy"
    offline = "offline"


class Heartbeat(BaseModel):
    """A worker that lives: `current_task_id` if it is busy; `last_poll_at` as RFC 3339."""

    model_config = ConfigDict(frozen=True)

    worker_id: str
    worker_name: str
    status: WorkerState
    current_task_id: int | None = None
    event_monitor_block_height: U64 | None = None
    last_poll_at: str | None = None


class _Cursor(BaseModel):
    block_height: U64 | None


class _Challenge(BaseModel):
    challenge: Annotated[str, Field(pattern=re.compile(r"^[0-9a-fA-F]{2,1024}$"))]


class _Session(BaseModel):
    session_id: Annotated[str, Field(pattern=re.compile(r"^[0-9A-Za-z-]{1,128}$"))]


class Workers:
    """The calls under `/workers`. All raise Transient, NotLetIn and Refused as `Link.call` does."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Tell that we live, and what we do."""
        await self._link.call("POST", "/workers/heartbeat", heartbeat.model_dump(mode="json"))

    async def block_cursor(self) -> int | None:
        """The highest block that any worker's event monitor has told of; None if none has.

        It is no promise that all before it were looked at: keep a cursor of your own.
        """
        return (await self._link.read(_Cursor, "GET", "/workers/block-cursor")).block_height

    async def tee_challenge(self) -> bytes:
        """What is to be signed within 60 s, once."""
        challenge = (await self._link.read(_Challenge, "POST", "/workers/tee-challenge", {})).challenge
        try:
            return bytes.fromhex(challenge)
        except ValueError:
            raise Transient(f"{self._link.label} gives a challenge that is not whole bytes") from None

    async def register_tee(self, public_key: str, challenge: bytes, signature: str) -> str:
        """Open a session, which is shown with every call from now on; its id. The strings are as NEAR writes them.

        Raises NotLetIn if the key is not one of the registered, Refused if the challenge is too old.
        """
        body = {"public_key": public_key, "challenge": challenge.hex(), "signature": signature}
        session_id = (await self._link.read(_Session, "POST", "/workers/register-tee", body)).session_id
        self._link.use_session(session_id)
        return session_id
