"""Both APIs over HTTP on 127.0.0.1, with the faults that a coordinator shows on a bad day."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from localnet.controls import CONTROL_PATH, control
from localnet.coordinator.board import Board
from localnet.coordinator.controls import actions
from localnet.coordinator.routes import ROUTES, HttpError, Request, Route
from localnet.faults import INSTEAD_OF_AN_ANSWER
from localnet.http_server import Connection, StandInServer

_MOST_BODY_BYTES = 10 * 1024 * 1024


class Server(StandInServer):
    """Serves one board."""

    def __init__(self, board: Board, port: int) -> None:
        super().__init__(port, _Connection, "localnet-coordinator")
        self.board = board

    def stop(self) -> None:
        """Send away who waits, close the port and every connection, and wait until their threads are gone."""
        self.board.queues.close()
        super().stop()


class _Connection(Connection):
    server: Server

    def on_get(self) -> None:
        self._answer("GET", b"")

    def on_post(self, body: bytes) -> None:
        if self.path == CONTROL_PATH:
            return self._control(body)
        return self._answer("POST", body)

    def do_DELETE(self) -> None:  # noqa: N802  the base class's name
        """What the base class calls for a DELETE."""
        self._answer("DELETE", b"")

    def _control(self, body: bytes) -> None:
        try:
            document = json.loads(body)
        except ValueError as error:
            return self.reply_json(400, {"error": str(error)})
        return self.reply_json(*control(actions(self.server.board), document))

    def _answer(self, method: str, body: bytes) -> None:
        url = urlsplit(self.path)
        # Split first: a slash that is written %2F belongs to its segment, one that is written / ends it.
        path = tuple(unquote(part) for part in url.path.removeprefix("/").split("/"))
        route = next((route for route in ROUTES if route.matches(method, path)), None)
        if route is None:
            known = any(route.matches(other, path) for route in ROUTES for other in ("GET", "POST", "DELETE"))
            return self.reply(405 if known else 404, b"", content_type="text/plain")
        if route.name != "health" and not self.server.board.lets_in(self.headers.get("authorization")):
            return self.reply(401, b"", content_type="text/plain")
        if len(body) > _MOST_BODY_BYTES:
            return self.reply(413, b"length limit exceeded", content_type="text/plain")
        argument = next((part for part, mine in zip(path, route.path, strict=True) if mine == "*"), "")
        session_id = self.headers.get("x-tee-session")
        content_type = self.headers.get("content-type", "")
        return self._call(route, Request(argument, dict(parse_qsl(url.query)), content_type, session_id, body))

    def _call(self, route: Route, request: Request) -> None:
        fault = self.server.board.count(route.name)
        if fault is not None and fault.kind in INSTEAD_OF_AN_ANSWER:
            return self.misbehave(fault, {"error": f"localnet was asked to answer {fault.status}"})
        if fault is not None and fault.kind == "slow":
            self.server.stopping.wait(fault.seconds)
        try:
            status, answer = route.answer(self.server.board, request)
        except HttpError as error:
            status, answer = error.status, error.detail.encode()
        if fault is not None and fault.kind == "lost_reply":
            return self.reset()
        content, content_type = _written(answer)
        return self.reply(status, content, content_type=content_type, fault=fault)


def _written(answer: Any) -> tuple[bytes, str]:
    if answer is None:
        return b"", "text/plain"
    if isinstance(answer, bytes):
        return answer, "application/octet-stream"
    return json.dumps(answer, separators=(",", ":")).encode(), "application/json"
