"""A link over plain HTTP, for a validator behind something that lets no WebSocket through: jobs are asked for.

`GET <url>/jobs?worker=<address>` answers 200 with a job message or a list of them, 204 if there is none;
`POST <url>/results` takes an answer with any status below 300. A job is given out until its answer was taken.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlencode

from millrace.errors import Permanent, Transient
from protocols.http_json import JsonServer
from protocols.validator.link import NotNow, Undeliverable, validator_label
from protocols.validator.messages import MOST_BYTES, Incoming, incoming

_NOT_LET_IN = (401, 403)
_LATER = (404, 408, 409, 425)
"""What a validator that is being set up anew, or is at this very job, may say for a while."""


class PollingLink:
    """Asks every `poll_seconds`."""

    def __init__(
        self,
        server: JsonServer,
        worker_address: str,
        poll_seconds: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._server = server
        self._path = f"/jobs?{urlencode({'worker': worker_address})}"
        self._poll_seconds = poll_seconds
        self._sleep = sleep

    async def messages(self) -> AsyncIterator[Incoming]:
        """What each look finds; the same job again and again, until it is answered."""
        while True:
            answer = await self._server.ask("GET", self._path)
            self._ensure_let_in(answer.status)
            if answer.status >= 300:
                raise Transient(f"{self._server.label} answers with the status {answer.status}")
            if answer.body is not None:
                for message in incoming(json.dumps(answer.body)):
                    yield message
            await self._sleep(self._poll_seconds)

    async def deliver(self, message: str) -> None:
        """Return once it was taken. The status says so, whatever else the validator says."""
        status = (await self._server.fetch("POST", "/results", json.loads(message))).status
        self._ensure_let_in(status)
        told = f"{self._server.label} does not take the message: status {status}"
        if status in _LATER:
            raise NotNow(told)
        if status >= 300:
            raise Undeliverable(told)

    def _ensure_let_in(self, status: int) -> None:
        if status in _NOT_LET_IN:
            raise Permanent(
                f"{self._server.label} does not let us in: status {status}", hint="check MILLRACE_VALIDATOR__TOKEN"
            )


@asynccontextmanager
async def polling_link(
    url: str,
    token: str = "",
    *,
    worker_address: str,
    poll_seconds: float,
    timeout_seconds: float = 30.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[PollingLink]:
    """A link to the validator at `url` (http or https), with `token` as a bearer token if there is one.

    Nothing is asked before the first message is wanted. Raises Permanent if the URL cannot be one.
    """
    server = JsonServer(
        validator_label(url),
        base_url=url.rstrip("/"),
        timeout_seconds=timeout_seconds,
        hint="is it a PoC validator?",
        most_bytes=MOST_BYTES,
        headers={"Authorization": f"Bearer {token}"} if token else None,
    )
    try:
        yield PollingLink(server, worker_address, poll_seconds, sleep)
    finally:
        await server.close()
