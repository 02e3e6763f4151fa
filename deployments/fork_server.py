"""Processes forked from one that has imported everything already: multiprocessing's fork server, asynchronously."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from multiprocessing import util

import anyio
import psutil

from deployments.warm_start import PRELOADED, FlowRunStart, ensure_preloaded, start_flow_run
from millrace.errors import Permanent

_FORK_SERVER = multiprocessing.get_context("forkserver")

_SERVER_IS_GONE = 255
"""Exit code that multiprocessing gives a process whose fork server ended before it."""


_LONGEST_ADDRESS_BYTES = 107
"""Of a Unix socket: what is longer cannot be listened at (unix(7))."""

_LISTENER = "/pymp-12345678/listener-12345678"
"""What multiprocessing puts behind a folder for temporary files to listen at."""


def ensure_room_for_address() -> str:
    """Let multiprocessing listen where a socket's address fits; returns the folder.

    That is the folder for temporary files, or /tmp where the way to it is too long: a folder there for us alone.
    """
    chosen = tempfile.gettempdir()
    if len(os.fsencode(f"{chosen}{_LISTENER}")) > _LONGEST_ADDRESS_BYTES:
        tempfile.tempdir = "/tmp"  # noqa: S108  (multiprocessing makes a private folder in it, and keeps to that)
    try:
        return str(util.get_temp_dir())
    finally:
        tempfile.tempdir = chosen


async def start_fork_server(more: Sequence[str] = ()) -> None:
    """Start the fork server; returns when it has imported everything. Permanent if it could not.

    `more` are modules to import besides, at last.
    """
    ensure_room_for_address()
    _FORK_SERVER.set_forkserver_preload([*PRELOADED, *more])
    first = _FORK_SERVER.Process(target=ensure_preloaded)
    cannot = Permanent("flow runs cannot be started warm: see the error above", hint="is Millrace installed whole?")
    try:
        first.start()
    except (EOFError, OSError):
        # The fork server ended while it imported: what it said is in the log.
        raise cannot from None
    await anyio.wait_readable(first.sentinel)
    first.join()
    if first.exitcode:
        raise cannot


class FlowRunProcess:
    """The process of one flow run, started by making this."""

    def __init__(self, start: FlowRunStart) -> None:
        self._process = _FORK_SERVER.Process(target=start_flow_run, args=(start,))
        self._process.start()
        self.has_ended = asyncio.Event()
        """Set once `ended` has seen its end."""
        # With its start time, so that a pid which somebody else got meanwhile is not taken for it.
        self._seen = psutil.Process(self._process.pid) if psutil.pid_exists(self._process.pid or 0) else None

    @property
    def pid(self) -> int:
        """The process's id on this machine."""
        return self._process.pid or 0

    @property
    def identifier(self) -> str:
        """`<host name>:<pid>`, as Prefect's workers name processes."""
        return f"{socket.gethostname()}:{self.pid}"

    async def ended(self) -> int:
        """Wait for its end; its exit code, or minus the number of the signal that ended it. To be called once."""
        await anyio.wait_readable(self._process.sentinel)
        self._process.join()
        self.has_ended.set()
        code = self._process.exitcode
        if code == _SERVER_IS_GONE and self._seen is not None and self._seen.is_running():
            # Nobody watches over it any more, and its flow run is about to be reported as crashed.
            self._seen.kill()
            return -signal.SIGKILL
        return _SERVER_IS_GONE if code is None else code

    def terminate(self) -> None:
        """Ask it to end, by SIGTERM; nothing happens if it has ended."""
        self._process.terminate()

    async def end(self, grace_seconds: float) -> None:
        """Ask it to end, and end it when it has not after `grace_seconds`, and then what it had started.

        `ended` must be waiting meanwhile.
        """
        started = self._seen.children(recursive=True) if self._seen is not None and self._seen.is_running() else []
        self.terminate()
        with anyio.move_on_after(grace_seconds):
            await self.has_ended.wait()
        if not self.has_ended.is_set():
            self._process.kill()
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
