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

import httpx

from millrace.errors import Permanent, Transient
from protocols.http_json import JsonServer
from protocols.validator.link import (
    NOT_LET_IN,
    NobodyThere,
    NotNow,
    Undeliverable,
    authorization,
    ensure_let_in,
    validator_label,
)
from protocols.validator.messages import MOST_BYTES, Incoming, incoming

_LATER = (*NOT_LET_IN, 404, 408, 409, 425)
"""What a validator that is being set up anew, or is at this very job, may say of an answer for a while.

Whether we are let in, the next look for jobs tells; something between us may only dislike this one answer.
"""


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
        self._first_look: asyncio.Future[bool] | None = None
        """Whether it was answered; None before it is begun."""

    async def messages(self) -> AsyncIterator[Incoming]:
        """What each look finds; the same job again and again, until it is answered."""
        first = self._first_look = asyncio.get_running_loop().create_future()
        try:
            while True:
                answer = await self._server.ask("GET", self._path)
                ensure_let_in(answer.status, self._server.label)
                if answer.status >= 300:
                    raise Transient(f"{self._server.label} answers with the status {answer.status}")
                if not first.done():
                    first.set_result(True)
                if answer.body is not None:
                    for message in incoming(json.dumps(answer.body)):
                        yield message
                await self._sleep(self._poll_seconds)
        finally:
            if not first.done():
                first.set_result(False)

    async def deliver(self, message: str) -> None:
        """Return once it was taken. The status says so, whatever else the validator says."""
        try:
            status = (await self._server.fetch("POST", "/results", json.loads(message), read=False)).status
        except Transient as error:
            if self._first_look is not None and not await asyncio.shield(self._first_look):
                raise NobodyThere(error.message, retry_after_seconds=error.retry_after_seconds) from None
            raise
        told = f"{self._server.label} does not take the message: status {status}"
        if status in _LATER:
            raise NotNow(told)
        if status >= 300:
            raise Undeliverable(told)


def base_of(url: str) -> str:
    """What paths are put after. Raises Permanent, not quoting it, if `url` has a query, which no path can follow."""
    if httpx.URL(url).query or httpx.URL(url).fragment:
        raise Permanent(
            "MILLRACE_VALIDATOR__URL has a query, which only a WebSocket's address may have",
            hint="give the token as MILLRACE_VALIDATOR__TOKEN",
        )
    return url.rstrip("/")


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

    Nothing is asked before the first message is wanted. Raises Permanent if the URL or the token cannot be one.
    """
    server = JsonServer(
        validator_label(url),
        base_url=base_of(url),
        timeout_seconds=timeout_seconds,
        hint="is it a PoC validator?",
        most_bytes=MOST_BYTES,
        headers=authorization(token),
    )
    try:
        yield PollingLink(server, worker_address, poll_seconds, sleep)
    finally:
        await server.close()
