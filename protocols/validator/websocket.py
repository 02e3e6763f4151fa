"""A link over a WebSocket: the validator pushes jobs, and a ping tells whether it is still there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidHandshake, InvalidStatus, InvalidURI

from millrace.errors import Permanent, Transient
from protocols.validator.link import authorization, ensure_let_in, validator_label
from protocols.validator.messages import MOST_BYTES, Incoming, incoming

_quiet = logging.getLogger(f"{__name__}.library")
_quiet.setLevel(logging.INFO)  # at DEBUG it quotes the headers, and with them the token

_CLOSE_SECONDS = 5.0
_MOST_PIECES = 4_096
"""Of one message. The library bounds their bytes alone, and an empty piece takes memory too."""

_MOST_PATIENCE = 10
"""How many times longer an answer to a ping may take of a validator that says other things meanwhile."""


class WebSocketLink:
    """An open WebSocket.

    The library's own keep-alive is not used: an answer to a ping waits behind what the validator said before it, and
    whoever has much to say is not silent.
    """

    def __init__(self, connection: ClientConnection, label: str, patience_seconds: float) -> None:
        self._connection = connection
        self._label = label
        self._patience_seconds = patience_seconds
        self._frames = 0
        self._given_up = ""

    async def messages(self) -> AsyncIterator[Incoming]:
        """Every message of every frame, text or binary."""
        try:
            while True:
                frame = await self._whole_message()
                self._frames += 1
                for message in incoming(frame):
                    yield message
        except ConnectionClosedOK:
            raise Transient(f"{self._label} closed the connection") from None
        except ConnectionClosed as error:
            raise Transient(self._given_up or f"the connection to {self._label} broke: {_why(error)}") from None

    async def _whole_message(self) -> bytes:
        """The next one, in UTF-8 if it is a text. Raises Transient if it comes in too many pieces."""
        pieces: list[bytes] = []
        async for piece in self._connection.recv_streaming():
            pieces.append(piece.encode() if isinstance(piece, str) else piece)
            if len(pieces) > _MOST_PIECES:
                self._connection.transport.abort()
                raise Transient(f"{self._label} says something in more than {_MOST_PIECES} pieces")
        return b"".join(pieces)

    async def deliver(self, message: str) -> None:
        """Send, then wait for the answer to a ping: frames are read in order, so the message was read before it.

        The protocol has no acknowledgement, and what a broken connection swallowed looks as if it had been sent.
        """
        await self._pinged(message)

    async def keep_alive(self) -> NoReturn:
        """Ping, again and again, and cut the connection when there is no answer."""
        while True:
            await asyncio.sleep(self._patience_seconds)
            try:
                await self._pinged()
            except Transient as error:
                self._given_up = error.message
                self._connection.transport.abort()

    async def _pinged(self, message: str | None = None) -> None:
        """Return when a ping, sent after `message`, was answered. Raises Transient if it is not, or the link broke."""
        try:
            # Sending takes for ever as well, if the validator reads nothing.
            async with asyncio.timeout(self._patience_seconds):
                if message is not None:
                    await self._connection.send(message)
                answered = asyncio.ensure_future(await self._connection.ping())
            try:
                await self._wait_for(answered)
            finally:
                answered.cancel()
        except ConnectionClosed as error:
            raise Transient(f"the connection to {self._label} broke: {_why(error)}") from None
        except TimeoutError:
            raise Transient(f"{self._label} has not answered a ping for {self._patience_seconds:g} s") from None

    async def _wait_for(self, answered: asyncio.Future[float]) -> None:
        """Raises TimeoutError if nothing at all comes for as long as we are patient, or only other things too long."""
        for _ in range(_MOST_PATIENCE):
            frames = self._frames
            done, _ = await asyncio.wait([answered], timeout=self._patience_seconds)
            if done:
                await answered
                return
            if self._frames == frames:
                break
        raise TimeoutError


def _why(error: ConnectionClosed) -> str:
    return f"close code {error.rcvd.code}" if error.rcvd is not None else "without a word"


async def _close(connection: ClientConnection) -> None:
    """Close it, politely if the validator reads that; the library alone would wait for ever for one that does not."""
    try:
        async with asyncio.timeout(2 * _CLOSE_SECONDS):
            await connection.close()
    except TimeoutError:
        pass  # it had its time
    finally:
        connection.transport.abort()


class _Straight(connect):
    """A redirect is not followed: it would lead the token, or the jobs, somewhere else."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


@asynccontextmanager
async def websocket_link(
    url: str, token: str = "", *, ping_seconds: float = 20.0, open_seconds: float = 10.0
) -> AsyncIterator[WebSocketLink]:
    """Connect to `url` (ws or wss), with `token` as a bearer token if there is one.

    A ping goes out every `ping_seconds`; without an answer, or anything else, for as long, the link is broken. Raises
    Permanent if the validator does not let us in, or URL or token cannot be one, Transient if it cannot be reached now.
    """
    label = validator_label(url)
    opening = _Straight(
        url,
        additional_headers=authorization(token),
        compression=None,  # messages are small, and nothing compressed has to be bounded
        max_size=MOST_BYTES,
        open_timeout=open_seconds,
        ping_interval=None,
        close_timeout=_CLOSE_SECONDS,
        logger=_quiet,
    )
    try:
        connection = await opening
    except InvalidStatus as error:
        status = error.response.status_code
        ensure_let_in(status, label)
        raise Transient(f"{label} answers with the status {status} instead of a WebSocket") from None
    except InvalidURI:
        raise Permanent("MILLRACE_VALIDATOR__URL is no URL of a WebSocket", hint="wss://host/worker, say") from None
    except (OSError, TimeoutError, InvalidHandshake, EOFError, ConnectionClosed) as error:
        # Its text may quote the whole address.
        raise Transient(f"{label} cannot be reached: {type(error).__name__}") from None
    link = WebSocketLink(connection, label, ping_seconds)
    keeping_alive = asyncio.create_task(link.keep_alive())
    try:
        yield link
    finally:
        keeping_alive.cancel()
        await asyncio.gather(keeping_alive, return_exceptions=True)
        await _close(connection)
