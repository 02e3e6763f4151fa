"""The HTTP server under a stand-in: on 127.0.0.1, a thread a connection, able to misbehave, gone when told to stop."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from localnet.faults import Fault
from localnet.gzip_bomb import gzip_bomb

LARGEST_BODY_BYTES = 256 * 1024 * 1024  # some stand-ins are filled through the same door
_BOMB_BYTES = 1 << 30
_DROPS = 20
_STOP_POLL_SECONDS = 0.02


class StandInServer(ThreadingHTTPServer):
    """Answers with `connection`, a handler class, until `stop` ends every connection.

    Arguments: `port` 0 takes a free one; `name` is the serving thread's; `certificate`, a PEM file with its key, makes
    it https. Raises OSError if the port is taken.
    """

    daemon_threads = False  # so that closing waits for them
    request_queue_size = 128

    def __init__(self, port: int, connection: type[Connection], name: str, *, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", port), connection)
        self._scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake is left to the connection's own thread: it may fail, and it may take long.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(_STOP_POLL_SECONDS,), name=name, daemon=True)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"{self._scheme}://127.0.0.1:{self.server_port}"

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
        """A client that goes away, or does not trust the certificate, is in its right; all else is reported."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster


class Connection(BaseHTTPRequestHandler):
    """What every stand-in's handler shares: reading bodies, answering, and the faults of `localnet.faults`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StandInServer

    def setup(self) -> None:
        """Let the server know of this connection."""
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        """Let the server forget it."""
        self.server.closed(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Say nothing."""

    def on_get(self) -> None:
        """Answer a GET of `self.path`."""
        raise NotImplementedError

    def on_post(self, body: bytes) -> None:
        """Answer a POST to `self.path`."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """What the base class calls for a GET."""
        self.on_get()

    def do_POST(self) -> None:
        """What the base class calls for a POST; a body that cannot be read is refused here."""
        announced = self.headers.get("content-length", "")
        if not announced.isascii() or not announced.isdigit():
            self.close_connection = True
            self.reply(411, b"Content-Length is required", content_type="text/plain")
        elif int(announced) > LARGEST_BODY_BYTES:
            self.close_connection = True
            self.reply(413, b"Payload too large", content_type="text/plain")
        else:
            self.on_post(self.rfile.read(int(announced)))

    def reply_json(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        """Answer with a JSON document."""
        self.reply(status, json.dumps(document, separators=(",", ":")).encode(), headers)

    def reply(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
        *,
        fault: Fault | None = None,
    ) -> None:
        """Answer with these bytes; a fault `cut` or `drip` is in how they are sent, any other changes nothing."""
        cut = fault is not None and fault.kind == "cut"
        self.close_connection = self.close_connection or cut
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if fault is not None and fault.kind == "drip":
            self._drip(body, fault.seconds)
        else:
            self.wfile.write(body[: len(body) // 2] if cut else body)

    def _drip(self, body: bytes, seconds: float) -> None:
        step = -(-len(body) // _DROPS) or 1
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            self.wfile.flush()
            self.server.stopping.wait(seconds / _DROPS)

    def misbehave(self, fault: Fault, error: Any) -> None:
        """Do what the fault says instead of answering; `error` is the body beside an HTTP status."""
        if fault.kind == "hang":
            self.server.stopping.wait(fault.seconds)
            self.close_connection = True
        elif fault.kind == "reset":
            self.reset()
        elif fault.kind == "endless":
            self._never_end()
        elif fault.kind == "gzip_bomb":
            self.reply(200, gzip_bomb(_BOMB_BYTES), {"content-encoding": "gzip"})
        elif fault.kind == "malformed":
            self.reply(200, b'{"jsonrpc":"2.0","id":1,"resu')
        elif fault.kind == "other_json":
            self.reply(200, b'["localnet was asked to answer something else"]')
        else:
            wait = {} if fault.retry_after_seconds is None else {"retry-after": str(fault.retry_after_seconds)}
            self.reply_json(fault.status, error, wait)

    def reset(self) -> None:
        """End the connection with a TCP reset, as a crashed proxy does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

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
