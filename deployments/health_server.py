"""`/health` and `/metrics` over HTTP, from a process of their own: a worker that hangs cannot keep them from answering.

Whoever reaches the port may ask, so it listens on loopback unless the settings say otherwise, and tells no secret.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.health import Examiner, Snapshot
from deployments.metrics import CONTENT_TYPE, metrics_page
from millrace.errors import Permanent
from millrace.redaction import redact
from millrace.settings import HealthSettings
from millrace.text import printable

_FRESH_SECONDS = 1.0
"""A look serves everybody who asks within so long."""

_PATIENCE_SECONDS = 5.0
"""For a look: on a folder that hangs, `not known` is the answer."""

_ENGINE_SECONDS = 60.0
"""Between two looks for the Docker daemon."""

_MOST_CONNECTIONS = 64
_MOST_HEADER_BYTES = 16 << 10


class Reporter:
    """Answers from the newest look; only one look is under way at a time, however many ask."""

    def __init__(self, examiner: Examiner, clock: Callable[[], float] = time.time) -> None:
        self._examiner = examiner
        self._clock = clock
        self._known: tuple[float, Snapshot] | None = None
        self._looking: asyncio.Task[Snapshot] | None = None

    def application(self) -> Starlette:
        """The two pages; anything else is 404, and any method but GET and HEAD is 405."""
        return Starlette(routes=[Route("/health", self._health), Route("/metrics", self._metrics)])

    async def try_engine_on(self) -> NoReturn:
        """See again and again whether the Docker daemon answers."""
        while True:
            await asyncio.to_thread(self._examiner.try_engine, self._clock())
            await asyncio.sleep(_ENGINE_SECONDS)

    async def _health(self, request: Request) -> Response:
        try:
            snapshot = await self._snapshot()
        except (OSError, TimeoutError) as error:
            return _json(503, {"status": "ill", "reasons": [_why(error)]})
        return _json(503 if snapshot.reasons else 200, snapshot.document())

    async def _metrics(self, request: Request) -> Response:
        try:
            snapshot = await self._snapshot()
        except (OSError, TimeoutError) as error:
            return Response(f"{_why(error)}\n", 503, media_type="text/plain")
        return Response(metrics_page(snapshot), headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})

    async def _snapshot(self) -> Snapshot:
        if self._known is not None and time.monotonic() - self._known[0] < _FRESH_SECONDS:
            return self._known[1]
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(asyncio.to_thread(self._examiner.look, self._clock()))
        snapshot = await asyncio.wait_for(asyncio.shield(self._looking), _PATIENCE_SECONDS)
        self._known = (time.monotonic(), snapshot)
        return snapshot


def _why(error: Exception) -> str:
    told = str(error) if isinstance(error, OSError) and not isinstance(error, TimeoutError) else "it takes too long"
    return f"the data folder cannot be read: {printable(redact(told), 200)}"


def _json(status: int, document: object) -> Response:
    body = json.dumps(document, indent=1).encode() + b"\n"
    return Response(body, status, media_type="application/json", headers={"cache-control": "no-store"})


def listen(settings: HealthSettings) -> socket.socket:
    """The socket to serve on. Permanent if the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise Permanent(
            f"/health and /metrics cannot be served at {settings.host}, port {settings.port}: {error.strerror}",
            hint="set MILLRACE_HEALTH__PORT to a free port, or to 0 to do without them",
        ) from None
    return listening


async def serve(reporter: Reporter, listening: socket.socket, *, until_stdin_ends: bool = False) -> None:
    """Answer on `listening` until SIGTERM or Ctrl-C, or until standard input ends: whoever started us is gone."""
    server = uvicorn.Server(
        uvicorn.Config(
            reporter.application(),
            access_log=False,
            log_level="warning",
            lifespan="off",
            ws="none",
            http="h11",
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
    )
    if until_stdin_ends:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _end_with_stdin, server)
    trying = asyncio.create_task(reporter.try_engine_on())
    try:
        await server.serve([listening])
    finally:
        trying.cancel()


def _end_with_stdin(server: uvicorn.Server) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        server.should_exit = True
