"""The streams of one container, over one connection to the daemon that carries both outputs and the input."""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any

from docker import APIClient

from stages.execute.sandbox.streams import Kept
from stages.execute.sandbox.supervisor import Ending

_CHUNK_BYTES = 65_536
_CANCEL_POLL_SECONDS = 0.05
_HEADER = struct.Struct(">BxxxI")
"""Which stream a frame belongs to, and how long it is (Docker Engine API, "Attach to a container")."""


class Frames:
    """Takes the daemon's frames apart, in whatever pieces they come."""

    def __init__(self, outputs: dict[int, Kept]) -> None:
        """`outputs` are where each stream goes; frames of other streams are thrown away."""
        self._outputs = outputs
        self._header = b""
        self._output: Kept | None = None
        self._missing = 0

    def feed(self, chunk: bytes) -> None:
        """Hand on the next bytes of the connection."""
        rest = memoryview(chunk)
        while rest:
            if not self._missing:
                wanted = _HEADER.size - len(self._header)
                self._header += rest[:wanted]
                rest = rest[wanted:]
                if len(self._header) < _HEADER.size:
                    return
                stream, self._missing = _HEADER.unpack(self._header)
                self._output, self._header = self._outputs.get(stream), b""
            if self._output is not None:
                self._output.take(rest[: self._missing])
            taken = min(len(rest), self._missing)
            self._missing -= taken
            rest = rest[taken:]


class Attached:
    """A container's streams, from before its start on; its `with` block lets go of them.

    A stream that nobody reads blocks the daemon, and with it every later request about the container. Letting go is
    enough: the daemon then throws away what the job writes.
    """

    def __init__(self, api: APIClient, container: str, stdin: bytes, stdout: Kept, stderr: Kept) -> None:
        """Attach to the container, which must not have started. DockerException or OSError."""
        self.stdout, self.stderr = stdout, stderr
        self._frames = Frames({1: self.stdout, 2: self.stderr})
        self._to_write = memoryview(stdin)
        wanted = {"stream": 1, "stdout": 1, "stderr": 1, "stdin": 1}
        self._theirs: Any = api.attach_socket(container, wanted)
        # A descriptor of our own: the SDK gives a file object of its HTTP library.
        self._socket = socket.socket(fileno=os.dup(self._theirs.fileno()))
        self._socket.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Hang up. May be called again."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._selector.close()
        self._socket.close()
        # Closing the SDK's object itself would leave the connection of the answer that it came in open.
        self._theirs._response.close()

    def watch(self, deadline: float, cancel: threading.Event | None) -> Ending:
        """Read until the container has closed its streams, which only its end does, or until it has to be stopped.

        `deadline` is on the monotonic clock.
        """
        while True:
            now = time.monotonic()
            if now >= deadline:
                return Ending.timeout
            if cancel is not None and cancel.is_set():
                return Ending.cancelled
            patience = deadline - now if cancel is None else min(deadline - now, _CANCEL_POLL_SECONDS)
            for _, events in self._selector.select(patience):
                if events & selectors.EVENT_WRITE:
                    self._write()
                if events & selectors.EVENT_READ and not self._read():
                    return Ending.exited
            if self.stdout.cut or self.stderr.cut:
                return Ending.output_limit

    def _read(self) -> bool:
        """Take what is there; False at the end of the streams."""
        try:
            chunk = self._socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return True
        self._frames.feed(chunk)
        return bool(chunk)

    def _write(self) -> None:
        """Send what the daemon takes; at the end of it, say so. A job that does not read its input is no fault."""
        try:
            sent = self._socket.send(self._to_write[:_CHUNK_BYTES])
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._to_write)
        self._to_write = self._to_write[sent:]
        if not self._to_write:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            self._selector.modify(self._socket, selectors.EVENT_READ)
