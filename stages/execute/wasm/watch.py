"""Watching one job: its outputs, its end, its time, and a wish to cancel, all in one selector."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stages.execute.sandbox.streams import Stream
from stages.execute.sandbox.supervisor import Ending
from stages.execute.sandbox.wasi.usage import Used, used_by
from stages.execute.wasm.interface import RuntimeFault

LATE_SECONDS = 0.25
"""How much later than the engine itself the worker ends a job: the engine can tell what it used."""

_CANCEL_POLL_SECONDS = 0.05
_DEATH_SECONDS = 5.0


@dataclass(frozen=True)
class Seen:
    """How a job ended: by itself with `exit_code` (minus a signal's number), or because it had to be ended."""

    ending: Ending
    exit_code: int | None
    report: bytes
    stdout: bytes
    stderr: bytes
    wall_seconds: float
    used: Used


class Running:
    """One job that was handed to the forker; in a `with` block, at whose end nothing of it lives any more."""

    def __init__(
        self, owner: socket.socket, pipes: list[int], limits: tuple[int, int, int], forker_words: Callable[[], str]
    ) -> None:
        """`pipes` and `limits`, in bytes, are those of standard output, standard error and the report."""
        self._owner = owner
        self._forker_words = forker_words
        self.stdout, self.stderr, self._report = (Stream(fd, limit) for fd, limit in zip(pipes, limits, strict=True))
        self._pidfd: int | None = None
        self.pid: int | None = None
        self._exit_code: int | None = None
        self._selector = selectors.DefaultSelector()
        for fd in (*pipes, owner.fileno()):
            self._selector.register(fd, selectors.EVENT_READ)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._selector.close()
        self._owner.close()  # whatever the forker has not begun yet, it will not begin
        if self._pidfd is not None:
            os.close(self._pidfd)
        for stream in (self.stdout, self.stderr, self._report):
            os.close(stream.fd)

    def watch(self, wall_seconds: float, patience_seconds: float, cancel: threading.Event | None) -> Seen:
        """Read until the job has ended, or end it.

        `wall_seconds` count from when a child took the job, for which is waited `patience_seconds`. Raises RuntimeFault
        if no child does, if the forker dies, or if the child cannot be killed.
        """
        began: float | None = None
        deadline = time.monotonic() + patience_seconds
        ending = Ending.exited
        while self._exit_code is None:
            now = time.monotonic()
            if cancel is not None and cancel.is_set():
                ending = Ending.cancelled
                break
            if now >= deadline:
                if began is None:
                    raise RuntimeFault(
                        f"no child was free within {patience_seconds:g} s", hint="run fewer jobs at once on this worker"
                    )
                ending = Ending.timeout
                break
            self._wait(deadline - now, cancel)
            if began is None and self._pidfd is not None:
                began = time.monotonic()
                deadline = began + wall_seconds + LATE_SECONDS
            if self.stdout.cut or self.stderr.cut:
                ending = Ending.output_limit
                break
        used = used_by(self.pid) if self.pid is not None and self._exit_code is None else Used()
        self._kill()
        for stream in (self.stdout, self.stderr, self._report):
            stream.drain()
        if ending is Ending.exited and (self.stdout.cut or self.stderr.cut):
            ending = Ending.output_limit
        return Seen(
            ending=ending,
            exit_code=self._exit_code,
            report=bytes(self._report.kept),
            stdout=bytes(self.stdout.kept),
            stderr=bytes(self.stderr.kept),
            wall_seconds=time.monotonic() - (began or time.monotonic()),
            used=used,
        )

    def _wait(self, seconds: float, cancel: threading.Event | None) -> None:
        patience = seconds if cancel is None else min(seconds, _CANCEL_POLL_SECONDS)
        ready = {key.fd for key, _ in self._selector.select(max(0.0, patience))}
        for stream in (self.stdout, self.stderr, self._report):
            if stream.fd in ready:
                stream.read()
                if not stream.open:
                    self._selector.unregister(stream.fd)
        if self._owner.fileno() in ready:
            self._hear()

    def _hear(self) -> None:
        """What the forker has to say: who does the job, or how it ended."""
        try:
            message, files, *_ = socket.recv_fds(self._owner, 256, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            message, files = b"", []
        if not message:
            raise RuntimeFault(f"the process that forks children ended: {self._forker_words() or 'without a word'}")
        told: dict[str, Any] = json.loads(message)
        if "pid" in told:
            (self._pidfd,) = files
            self.pid = told["pid"]
        else:
            self._exit_code = told["exit"]

    def _kill(self) -> None:
        """Make sure that the child is dead, if one has the job, and that none gets it any more."""
        if self._pidfd is None:
            with suppress(OSError, RuntimeFault):
                self._owner.shutdown(socket.SHUT_RD)
                self._hear()  # what was told before that; it does not wait any more
        if self._pidfd is None or self._exit_code is not None:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        with selectors.DefaultSelector() as dying:
            dying.register(self._pidfd, selectors.EVENT_READ)
            if not dying.select(_DEATH_SECONDS):
                raise RuntimeFault("a child could not be killed", hint="the kernel's log may tell why")
