"""Child processes that surely end: each in its own session, stopped in reverse order, their children with them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from millrace.errors import Transient
from millrace.text import printable_lines

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class _Child:
    name: str
    popen: subprocess.Popen[bytes]
    stop_signal: signal.Signals


class Processes:
    """The children of this process. Leaving the block ends them all, also what they left behind."""

    def __init__(self, log_folder: Path) -> None:
        self.afterwards = contextlib.ExitStack()
        """What is to be undone once the children have ended."""
        self._log_folder = log_folder
        self._children: list[_Child] = []
        self._not_ours: set[psutil.Process] = set()
        self._dead: set[int] = set()

    def __enter__(self) -> Self:
        self._log_folder.mkdir(parents=True, exist_ok=True)
        if sys.platform == "linux":
            # A grandchild whose parent dies comes to us instead of init, so that it can be found and ended.
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._not_ours = set(psutil.Process().children(recursive=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave half of them running.
        with _deaf_to_interrupts(), self.afterwards:
            for child in reversed(self._children):
                self.stop(child.name)
            self._end_orphans()

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        cwd: str | None = None,
        pass_fds: Sequence[int] = (),
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> subprocess.Popen[bytes]:
        """Start `command`, its output in `<log folder>/<name>.log`, deaf to this terminal's Ctrl-C.

        It inherits the descriptors `pass_fds` and is asked to end with `stop_signal`.
        """
        with (self._log_folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=cwd,
                pass_fds=pass_fds,
            )
        self._children.append(_Child(name, child, stop_signal))
        return child

    def check(self) -> None:
        """Raise Transient naming the first child that has ended by itself, with the end of its log."""
        self._bury_adopted()
        for child in self._children:
            if child.popen.poll() is not None:
                raise Transient(
                    f"{child.name} ended with code {child.popen.returncode}:\n{self.log_tail(child.name)}",
                    hint=f"the whole log is {self._log_folder / child.name}.log",
                )

    def _bury_adopted(self) -> None:
        """Collect dead processes that became ours when their parents died; nobody else does, as long as we live.

        Only what was dead at the last look as well: somebody else in this program may be waiting for a child of his.
        """
        ours = {child.popen.pid for child in self._children}
        dead = {p.pid for p in psutil.Process().children() if p.pid not in ours and not _is_alive(p)}
        for pid in dead & self._dead:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._dead = dead

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The last lines of a child's output."""
        path = self._log_folder / f"{name}.log"
        last = path.read_text(errors="replace").split("\n")[-lines:] if path.exists() else []
        return printable_lines("\n".join(last).rstrip("\n"))

    def process(self, name: str) -> psutil.Process:
        """The running child of that name. KeyError if there is none."""
        return psutil.Process({child.name: child.popen.pid for child in self._children}[name])

    def ask_to_end(self, name: str) -> None:
        """Ask the child to end, and do not wait for it."""
        for child in self._children:
            if child.name == name and child.popen.poll() is None:
                child.popen.send_signal(child.stop_signal)

    def has_ended(self, name: str) -> bool:
        """Whether the child has ended, or there is none of that name."""
        self._bury_adopted()
        return all(child.popen.poll() is not None for child in self._children if child.name == name)

    def stop(self, name: str, patience_seconds: float = 10.0) -> None:
        """Ask the child and everything below it to end; after `patience_seconds`, end it."""
        for child in self._children:
            if child.name == name and child.popen.poll() is None:
                family = _family(child.popen.pid)
                child.popen.send_signal(child.stop_signal)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.popen.wait(patience_seconds)
                _end([*family, *_family(child.popen.pid)])
                child.popen.wait()
        self._children = [child for child in self._children if child.name != name]

    def _end_orphans(self) -> None:
        """End what our children left behind: as their subreaper, we are its parent now."""
        deadline = time.monotonic() + 5
        while (left := self._orphans()) and time.monotonic() < deadline:
            _end(left)

    def _orphans(self) -> list[psutil.Process]:
        return [
            process
            for process in psutil.Process().children(recursive=True)
            if process not in self._not_ours and _is_alive(process)
        ]


async def wait_until(ready: Callable[[], bool], what: str, seconds: float, processes: Processes) -> None:
    """Wait until `ready()`; Transient if it takes longer than `seconds` or if a child process ends."""
    deadline = time.monotonic() + seconds
    while not ready():
        processes.check()
        if time.monotonic() > deadline:
            raise Transient(f"{what} did not come up within {seconds:.0f} s", hint="look at its log")
        await asyncio.sleep(0.1)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end(family: Sequence[psutil.Process]) -> None:
    for process in family:
        # psutil compares the start time, so a pid that was given to another process meanwhile is left alone.
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=5)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
