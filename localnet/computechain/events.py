"""Server-sent events: to whoever listens now; nothing is kept for later."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

KEEP_ALIVE = b": ping\n\n"
_END = b""


class EventHub:
    """The streams that are open.

    Arguments: `keep_alive_seconds` of silence bring a comment line. `silent` loses all events, as the real
    stream does on a bad day.
    """

    def __init__(self, keep_alive_seconds: float) -> None:
        self.keep_alive_seconds = keep_alive_seconds
        self.silent = False
        self._lock = threading.Lock()
        self._listeners: set[SimpleQueue[bytes]] = set()
        self._closed = False

    def confirmed(self, tx_hash: str, block_height: int) -> None:
        """Say that a transaction is in a block."""
        self._say({"type": "tx_confirmed", "tx_hash": tx_hash, "block_height": block_height})

    def failed(self, tx_hash: str, error: str) -> None:
        """Say that a transaction was given up."""
        self._say({"type": "tx_failed", "tx_hash": tx_hash, "error": error})

    @contextmanager
    def listen(self) -> Iterator[Iterator[bytes]]:
        """A stream's bytes from now on, until the node restarts or closes."""
        queue: SimpleQueue[bytes] = SimpleQueue()
        with self._lock:
            self._listeners.add(queue)
            if self._closed:
                queue.put(_END)
        try:
            yield self._bytes_of(queue)
        finally:
            with self._lock:
                self._listeners.discard(queue)

    def disconnect(self) -> None:
        """End every open stream."""
        self._put(_END)

    def close(self) -> None:
        """End every open stream, and those that begin later as well."""
        with self._lock:
            self._closed = True
        self.disconnect()

    def _bytes_of(self, queue: SimpleQueue[bytes]) -> Iterator[bytes]:
        while True:
            try:
                piece = queue.get(timeout=self.keep_alive_seconds)
            except Empty:
                piece = KEEP_ALIVE
            if piece == _END:
                return
            yield piece

    def _say(self, event: dict[str, str | int]) -> None:
        if not self.silent:
            self._put(f"data: {json.dumps(event)}\n\n".encode())

    def _put(self, piece: bytes) -> None:
        with self._lock:
            for queue in self._listeners:
                queue.put(piece)
