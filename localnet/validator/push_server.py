"""The validator's WebSocket, on 127.0.0.1: says what is on the desk to each worker, and hears what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from localnet.validator.desk import Desk

_PATH = "/worker"
_CUT = 1011


class _Connection(ServerConnection):
    """One that can die with what a worker has just sent."""

    def __init__(self, *arguments: Any, desk: Desk, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._desk = desk

    def data_received(self, data: bytes) -> None:
        """Bytes are there: unread ones get no pong."""
        if self.protocol.state is State.OPEN and self._desk.swallowing > 0:
            self._desk.swallowing -= 1
            return self.transport.abort()
        return super().data_received(data)


class PushServer:
    """Serves in a thread with an event loop of its own."""

    def __init__(self, desk: Desk, port: int) -> None:
        self._desk = desk
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="localnet-validator", daemon=True)
        self._news: set[asyncio.Event] = set()
        self._server: Server | None = None
        desk.on_offer = self._nudge

    def start(self) -> str:
        """Serve; returns the URL. Raises OSError if the port is taken."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)
        return f"ws://127.0.0.1:{self._port}{_PATH}"

    def stop(self) -> None:
        """End every connection, and the thread."""
        if self._server is not None:
            asyncio.run_coroutine_threadsafe(self._close(self._server), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _nudge(self) -> None:
        self._loop.call_soon_threadsafe(self._tell)

    def cut(self) -> None:
        """Abort every connection."""
        asyncio.run_coroutine_threadsafe(self._abort(), self._loop).result(10)

    def _tell(self) -> None:
        for news in self._news:
            news.set()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _serve(self) -> None:
        self._server = await serve(
            self._talk,
            "127.0.0.1",
            self._port,
            process_request=self._admit,
            compression=None,
            create_connection=functools.partial(_Connection, desk=self._desk),  # type: ignore[arg-type]
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self, server: Server) -> None:
        server.close()
        await server.wait_closed()

    async def _abort(self) -> None:
        for connection in self._server.connections if self._server is not None else ():
            connection.transport.abort()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        status = self._desk.status_for(request.headers.get("Authorization"))
        if status is None and request.path != _PATH:
            status = 404
        return connection.respond(HTTPStatus(status), "turned away\n") if status is not None else None

    async def _talk(self, connection: ServerConnection) -> None:
        news = asyncio.Event()
        self._news.add(news)
        self._desk.connected(more=1)
        saying = asyncio.ensure_future(self._say(connection, news))
        try:
            async for frame in connection:
                if fault := self._desk.heard(frame):
                    return await connection.close(_CUT, fault[:100])
        except ConnectionClosed:
            return None
        finally:
            saying.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await saying
            self._news.discard(news)
            self._desk.connected(more=-1)

    async def _say(self, connection: ServerConnection, news: asyncio.Event) -> None:
        """Everything that was ever said, then what comes: there is no resuming in this protocol."""
        said = 0
        while True:
            news.clear()
            for message in self._desk.said_since(said):
                said += 1
                await connection.send(message if isinstance(message, str | bytes) else json.dumps(message))
            await news.wait()
