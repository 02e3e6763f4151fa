"""The RPC over HTTP on 127.0.0.1, with the faults that a node shows on a bad day."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, unquote, urlsplit

from localnet.computechain.chain import Chain
from localnet.computechain.controls import actions
from localnet.computechain.routes import ROUTES, HttpError, Request, Route
from localnet.controls import CONTROL_PATH, control
from localnet.faults import INSTEAD_OF_AN_ANSWER, Fault
from localnet.http_server import Connection
from localnet.ticking_server import TickingServer


class Server(TickingServer):
    """Serves one chain, and sees to it that its blocks come in time when nobody asks."""

    def __init__(self, chain: Chain, port: int) -> None:
        super().__init__(port, _Connection, "localnet-computechain", chain.settle)
        self.chain = chain

    def stop(self) -> None:
        """As every server, but first let go of those who wait for the chain."""
        self.chain.events.close()
        super().stop()


class _Connection(Connection):
    server: Server

    def on_get(self) -> None:
        self._answer("GET", b"")

    def on_post(self, body: bytes) -> None:
        if self.path == CONTROL_PATH:
            self._control(body)
        else:
            self._answer("POST", body)

    def _control(self, body: bytes) -> None:
        try:
            document = json.loads(body)
        except ValueError as error:
            return self.reply_json(400, {"error": str(error)})
        return self.reply_json(*control(actions(self.server.chain), document))

    def _answer(self, method: str, body: bytes) -> None:
        url = urlsplit(self.path)
        path = tuple(unquote(part) for part in url.path.strip("/").split("/"))
        route = next((route for route in ROUTES if route.matches(method, path)), None)
        if route is None:
            known = any(route.matches(other, path) for route in ROUTES for other in ("GET", "POST"))
            detail = "Method Not Allowed" if known else "Not Found"
            return self.reply_json(405 if known else 404, {"detail": detail})
        argument = next((part for part, mine in zip(path, route.path, strict=True) if mine == "*"), "")
        return self._call(route, Request(argument, dict(parse_qsl(url.query)), body))

    def _call(self, route: Route, request: Request) -> None:
        fault = self._count_and_take_fault(route)
        if fault is not None and fault.kind in INSTEAD_OF_AN_ANSWER:
            return self.misbehave(fault, {"detail": f"localnet was asked to answer {fault.status}"})
        if fault is not None and fault.kind == "slow":
            self.server.stopping.wait(fault.seconds)
        if route.answer is None:
            return self._stream()
        try:
            status, answer = 200, route.answer(self.server.chain, request)
        except HttpError as error:
            status, answer = error.status, {"detail": error.detail}
        if fault is not None and fault.kind == "lost_reply":
            return self.reset()
        text, kind = (answer, "text/plain") if isinstance(answer, str) else (json.dumps(answer), "application/json")
        return self.reply(status, text.encode(), content_type=kind, fault=fault)

    def _count_and_take_fault(self, route: Route) -> Fault | None:
        chain = self.server.chain
        with chain.lock:
            chain.calls[route.name] += 1
            return chain.faults.take(route.name)

    def _stream(self) -> None:
        """Send events until somebody hangs up."""
        self.close_connection = True
        with self.server.chain.events.listen() as stream:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.send_header("cache-control", "no-store")
            self.send_header("connection", "close")
            self.end_headers()
            for piece in stream:
                self.wfile.write(piece)
