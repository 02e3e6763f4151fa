"""Watching one run: its two outputs, its end, its time, and a wish to cancel, all in one selector."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from millrace.limits import Limits
from stages.execute.sandbox.cgroup import Group
from stages.execute.sandbox.streams import REPORT_BYTES, Stream, report_entry

GRACE_SECONDS = 0.2
"""How long output may still come after the program's end: a process it left behind can hold the pipe for ever."""

_CANCEL_POLL_SECONDS = 0.05
_DEATH_SECONDS = 5.0


class Ending(StrEnum):
    """Why the watching stopped."""

    exited = "exited"
    timeout = "timeout"
    output_limit = "output_limit"
    cancelled = "cancelled"


class Supervisor:
    """Watches one started box until it ends or has to be ended; its `with` block closes all that it was given."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        report_fd: int,
        group: Group | None,
        limits: Limits,
        deadline: float,
        cancel: threading.Event | None,
    ) -> None:
        """`report_fd` is our end of the pipe bubblewrap reports on; `deadline` is on the monotonic clock."""
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdout = Stream(process.stdout.fileno(), limits.output_bytes)
        self.stderr = Stream(process.stderr.fileno(), limits.output_bytes)
        self._report = Stream(report_fd, REPORT_BYTES)
        self._process = process
        self._group = group
        self._deadline = deadline
        self._cancel = cancel
        self._first_process: int | None = None  # pidfd of the box's process 1, with which all others die
        self._pidfd = os.pidfd_open(process.pid)
        self._selector = selectors.DefaultSelector()
        for fd in (self.stdout.fd, self.stderr.fd, report_fd, self._pidfd):
            self._selector.register(fd, selectors.EVENT_READ)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            self.end()
        self._selector.close()
        os.close(self._pidfd)
        os.close(self._report.fd)
        if self._first_process is not None:
            os.close(self._first_process)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        """The number of the process that was started."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The program's exit code as bubblewrap reported it; None if the program never ran or never ended."""
        return self.reported("exit-code")

    def reported(self, name: str) -> int | None:
        """The number that was reported as `name`; None if it was not, or not yet."""
        return report_entry(self._report, name)

    def watch(self) -> Ending:
        """Read until the program has ended and its output with it, or until it has to be stopped."""
        exited_at: float | None = None
        while True:
            now = time.monotonic()
            if exited_at is None and now >= self._deadline:
                return Ending.timeout
            if self._cancel is not None and self._cancel.is_set():
                return Ending.cancelled
            if exited_at is not None and (now >= exited_at + GRACE_SECONDS or not self._output_open):
                return Ending.exited
            until = self._deadline if exited_at is None else exited_at + GRACE_SECONDS
            ready = self._wait(until - now)
            if self._pidfd in ready:
                self._selector.unregister(self._pidfd)
                exited_at = time.monotonic()
            if self.stdout.cut or self.stderr.cut:
                return Ending.output_limit

    def end(self) -> bool:
        """Kill whatever is left of the run, wait until it is dead, and take its last output.

        False if something could not be killed within seconds, which only a fault of the kernel or of a device explains.
        """
        self._find_first_process()
        if self._first_process is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first_process, signal.SIGKILL)
        self._process.kill()
        dead = self._group.kill() if self._group is not None else True
        try:
            self._process.wait(timeout=_DEATH_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        dead = dead and (self._first_process is None or _ends(self._first_process))
        for stream in (self.stdout, self.stderr, self._report):
            stream.drain()
        return dead

    @property
    def _output_open(self) -> bool:
        return self.stdout.open or self.stderr.open

    def _wait(self, seconds: float) -> set[int]:
        """Read what has come; returns what was ready."""
        patience = seconds if self._cancel is None else min(seconds, _CANCEL_POLL_SECONDS)
        ready = {key.fd for key, _ in self._selector.select(max(0.0, patience))}
        for stream in (self.stdout, self.stderr, self._report):
            if stream.fd in ready:
                stream.read()
                if not stream.open:
                    self._selector.unregister(stream.fd)
        if self._report.fd in ready:
            self._find_first_process()
        return ready

    def _find_first_process(self) -> None:
        """Hold on to the box's process 1, unless it is gone already and its pid may be somebody else's."""
        pid = report_entry(self._report, "child-pid")
        if self._first_process is not None or pid is None:
            return
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            if _parent(pid) == self._process.pid:
                self._first_process = pidfd
            else:
                os.close(pidfd)


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _ends(pidfd: int) -> bool:
    """Wait until the process is dead; it dies only after every process of its namespace."""
    with selectors.DefaultSelector() as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        return bool(selector.select(_DEATH_SECONDS))
