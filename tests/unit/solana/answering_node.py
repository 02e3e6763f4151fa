"""A node that says whatever a test wants: what the local chain, which keeps to the protocol, would never say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[bytes, Mapping[str, str]]]
"""From a JSON-RPC request to the body of the answer and its headers."""


def response(request: dict[str, Any], member: Mapping[str, Any]) -> bytes:
    """A well-formed answer to `request` with that `result` or `error`."""
    return json.dumps({"jsonrpc": "2.0", "id": request["id"], **member}).encode()


@contextmanager
def listening(answer: Answer) -> Iterator[str]:
    """The URL of a node that answers so."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_POST(self) -> None:
            body, headers = answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def dead_url() -> str:
    """The URL of a node that nobody listens at any more."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return f"http://127.0.0.1:{server.server_port}"
