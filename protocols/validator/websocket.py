"""A link over a WebSocket: the validator pushes jobs, and a ping tells whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from millrace.errors import Permanent, Transient
from protocols.validator.link import validator_label
from protocols.validator.messages import MOST_BYTES, Incoming, incoming

_NOT_LET_IN = (401, 403)


class WebSocketLink:
    """An open WebSocket."""

    def __init__(self, connection: ClientConnection, label: str, patience_seconds: float) -> None:
        self._connection = connection
        self._label = label
        self._patience_seconds = patience_seconds

    async def messages(self) -> AsyncIterator[Incoming]:
        """Every message of every frame, text or binary."""
        try:
            async for frame in self._connection:
                for message in incoming(frame):
                    yield message
        except ConnectionClosed as error:
            raise Transient(f"the connection to {self._label} broke: {_why(error)}") from None
        raise Transient(f"{self._label} closed the connection")

    async def deliver(self, message: str) -> None:
        """Send, then wait for the answer to a ping: frames are read in order, so the message was read before it.

        The protocol has no acknowledgement, and what a broken connection swallowed looks as if it had been sent.
        """
        try:
            await self._connection.send(message)
            answered = await self._connection.ping()
            async with asyncio.timeout(self._patience_seconds):
                await answered
        except ConnectionClosed as error:
            raise Transient(f"the connection to {self._label} broke: {_why(error)}") from None
        except TimeoutError:
            raise Transient(f"{self._label} has not answered a ping for {self._patience_seconds:g} s") from None


def _why(error: ConnectionClosed) -> str:
    return f"close code {error.rcvd.code}" if error.rcvd is not None else "without a word"


class _Straight(connect):
    """A redirect is not followed: it would lead the token, or the jobs, somewhere else."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


@asynccontextmanager
async def websocket_link(
    url: str, token: str = "", *, ping_seconds: float = 20.0, open_seconds: float = 10.0
) -> AsyncIterator[WebSocketLink]:
    """Connect to `url` (ws or wss), with `token` as a bearer token if there is one.

    A ping goes out every `ping_seconds`; without an answer for as long, the link is broken. Raises Permanent if the
    validator does not let us in or the URL cannot be one, Transient if it cannot be reached now.
    """
    label = validator_label(url)
    opening = _Straight(
        url,
        additional_headers={"Authorization": f"Bearer {token}"} if token else None,
        compression=None,  # messages are small, and nothing compressed has to be bounded
        max_size=MOST_BYTES,
        open_timeout=open_seconds,
        ping_interval=ping_seconds,
        ping_timeout=ping_seconds,
        close_timeout=5,
    )
    try:
        connection = await opening
    except InvalidStatus as error:
        status = error.response.status_code
        if status in _NOT_LET_IN:
            raise Permanent(
                f"{label} does not let us in: status {status}", hint="check MILLRACE_VALIDATOR__TOKEN"
            ) from None
        raise Transient(f"{label} answers with the status {status} instead of a WebSocket") from None
    except InvalidURI:
        raise Permanent("MILLRACE_VALIDATOR__URL is no URL of a WebSocket", hint="wss://host/worker, say") from None
    except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
        # Its text may quote the whole address.
        raise Transient(f"{label} cannot be reached: {type(error).__name__}") from None
    try:
        yield WebSocketLink(connection, label, ping_seconds)
    finally:
        await connection.close()
