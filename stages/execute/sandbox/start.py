"""Starting a box: what it is handed, and who closes which end of it when."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from millrace.limits import Limits
from stages.execute.sandbox.cgroup import Group
from stages.execute.sandbox.sealed import sealed_file
from stages.execute.sandbox.supervisor import Supervisor


class Start:
    """One start of a box, in a `with` block: at its end the box has what it was handed, and we have closed our copies.

    If nobody watches the box by then, it is killed. A box dies with the *thread* that starts it, as the kernel reads
    "parent death": so it must be started by the thread that waits for it, and never by one of a pool that hands it on.
    """

    def __init__(self) -> None:
        self._theirs, self._ours = ExitStack(), ExitStack()
        self._inherited: list[int] = []
        self._report, self.report = os.pipe()
        """`report` is the end that the box reports on."""
        self._ours.callback(os.close, self._report)
        self._keep_for_the_box(self.report)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._theirs.close()
        finally:
            self._ours.close()

    def hand(self, name: str, content: bytes) -> int:
        """The number under which the box has a file with `content` that lies nowhere and that nobody can change."""
        fd = sealed_file(name, content)
        self._keep_for_the_box(fd)
        return fd

    def lend(self, fd: int) -> None:
        """Let the box have an open file that stays open on our side."""
        self._inherited.append(fd)

    def connect(self) -> tuple[int, socket.socket]:
        """The number under which the box has one end of a stream, and our end."""
        ours, theirs = socket.socketpair()
        self._theirs.callback(ours.close)
        self._keep_for_the_box(theirs.detach())
        return self._inherited[-1], ours

    def process(
        self, command: Sequence[str], environment: Mapping[str, str], stdin: bytes | None
    ) -> subprocess.Popen[bytes]:
        """Start `command`, with an empty standard input if `stdin` is None. OSError if it cannot be."""
        source = subprocess.DEVNULL
        if stdin is not None:
            source = sealed_file("stdin", stdin)
            self._theirs.callback(os.close, source)
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd="/",
            umask=0o077,
            start_new_session=True,
            bufsize=0,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=self._inherited,
        )
        self._ours.callback(_abandon, self._process)
        return self._process

    def watch(self, group: Group | None, limits: Limits, deadline: float, cancel: threading.Event | None) -> Supervisor:
        """Whoever watches the process from now on; `deadline` is on the monotonic clock."""
        supervisor = Supervisor(self._process, self._report, group, limits, deadline, cancel)
        self._ours.pop_all()
        return supervisor

    def _keep_for_the_box(self, fd: int) -> None:
        self._theirs.callback(os.close, fd)
        self._inherited.append(fd)


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """End a box that nobody began to watch."""
    process.kill()
    with suppress(OSError):
        process.communicate()
