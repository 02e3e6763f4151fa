"""JSON-RPC over HTTP on 127.0.0.1, with the faults that a public node shows on a bad day."""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from localnet.gzip_bomb import gzip_bomb
from localnet.solana.chain import Chain
from localnet.solana.controls import CONTROL_PATH, control
from localnet.solana.faults import Fault
from localnet.solana.rpc import Rpc
from localnet.solana.rpc_error import INVALID_REQUEST, NODE_UNHEALTHY, PARSE_ERROR

LARGEST_BODY_BYTES = 256 * 1024 * 1024  # accounts are seeded through the same door
_SLOTS_BEHIND = 150
_BOMB_BYTES = 1 << 30
_INSTEAD = frozenset({"status", "hang", "reset", "malformed", "unhealthy", "endless", "gzip_bomb"})
"""Faults that take the place of an answer."""

_STOP_POLL_SECONDS = 0.02


class Server(ThreadingHTTPServer):
    """Serves one chain; a thread for each connection, all of them ended by `stop`."""

    daemon_threads = False  # so that closing waits for them
    request_queue_size = 128

    def __init__(self, chain: Chain, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.chain = chain
        self.rpc = Rpc(chain)
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_STOP_POLL_SECONDS,), name="localnet-solana", daemon=True
        )

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        """Answer requests, in threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection, and wait until their threads are gone."""
        self.stopping.set()
        if self._thread.ident is not None:
            self.shutdown()
            self._thread.join()
        with self._open_lock:
            for connection in self._open:
                _shut(connection)
        self.server_close()

    def opened(self, connection: socket.socket) -> None:
        """Remember a connection, to be able to end it."""
        with self._open_lock:
            self._open.add(connection)
            if self.stopping.is_set():
                _shut(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection that has ended."""
        with self._open_lock:
            self._open.discard(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is its own business; everything else is reported."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        return

    def do_GET(self) -> None:
        if self.path == "/health":
            self._reply(200, b"ok", content_type="text/plain")
        else:
            self._reply(405, b"Used HTTP Method is not allowed. POST is required", content_type="text/plain")

    def do_POST(self) -> None:
        announced = self.headers.get("content-length", "")
        if not announced.isascii() or not announced.isdigit():
            self.close_connection = True
            return self._reply(411, b"Content-Length is required", content_type="text/plain")
        length = int(announced)
        if length > LARGEST_BODY_BYTES:
            self.close_connection = True
            return self._reply(413, b"Payload too large", content_type="text/plain")
        body = self.rfile.read(length)
        try:
            document = json.loads(body)
        except ValueError:
            return self._reply_json(200, _error(PARSE_ERROR, "Parse error"))
        if self.path == CONTROL_PATH:
            status, answer = control(self.server.chain, document)
            return self._reply_json(status, answer)
        return self._answer(document)

    def _answer(self, document: Any) -> None:
        requests = document if isinstance(document, list) else [document]
        if not requests:
            return self._reply_json(200, _error(INVALID_REQUEST, "Invalid request"))
        fault = self._count_and_take_fault(requests)
        if fault is not None and fault.kind in _INSTEAD:
            return self._refuse(fault, requests)
        if fault is not None and fault.kind == "slow":
            self.server.stopping.wait(fault.seconds)
        answers = [self.server.rpc.answer(request) for request in requests]
        if fault is not None and fault.kind == "lost_reply":
            return self._reset()
        return self._reply_json(200, answers if isinstance(document, list) else answers[0])

    def _count_and_take_fault(self, requests: list[Any]) -> Fault | None:
        """Count every call, also those that fail; the first fault any of them meets is the whole reply's."""
        chain = self.server.chain
        fault = None
        with chain.lock:
            for request in requests:
                method = request.get("method") if isinstance(request, dict) else None
                if isinstance(method, str):
                    chain.calls[method] += 1
                    fault = fault or chain.faults.take(method)
        return fault

    def _refuse(self, fault: Fault, requests: list[Any]) -> None:
        if fault.kind == "hang":
            self.server.stopping.wait(fault.seconds)
            self.close_connection = True
        elif fault.kind == "reset":
            self._reset()
        elif fault.kind == "endless":
            self._never_end()
        elif fault.kind == "gzip_bomb":
            self._reply(200, gzip_bomb(_BOMB_BYTES), {"content-encoding": "gzip"})
        elif fault.kind == "malformed":
            self._reply(200, b'{"jsonrpc":"2.0","id":1,"resu')
        elif fault.kind == "unhealthy":
            extra = {"numSlotsBehind": _SLOTS_BEHIND}
            request_id = requests[0].get("id") if isinstance(requests[0], dict) else None
            answer = _error(NODE_UNHEALTHY, f"Node is behind by {_SLOTS_BEHIND} slots", request_id, extra)
            self._reply_json(200, answer)
        else:
            wait = {} if fault.retry_after_seconds is None else {"retry-after": str(fault.retry_after_seconds)}
            self._reply_json(fault.status, _error(fault.status, f"localnet was asked to answer {fault.status}"), wait)

    def _never_end(self) -> None:
        """Send until the client goes away, without ever saying how much it will be."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"jsonrpc":"2.0","id":1,"result":"')
        piece = b"A" * 65_536
        while not self.server.stopping.is_set():
            self.wfile.write(piece)

    def _reset(self) -> None:
        """End the connection with a TCP reset, as a crashed proxy does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _reply_json(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        self._reply(status, json.dumps(document, separators=(",", ":")).encode(), headers)

    def _reply(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, content_type: str = "application/json"
    ) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _error(code: int, message: str, request_id: Any = None, extra: Any = None) -> dict[str, Any]:
    error = {"code": code, "message": message, **({} if extra is None else {"data": extra})}
    return {"jsonrpc": "2.0", "error": error, "id": request_id}
