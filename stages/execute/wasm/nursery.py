"""The worker's side of the forker: starting it, handing it jobs, and ending it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import weakref
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.execute.sandbox.owner import new_name
from stages.execute.sandbox.sealed import sealed_file
from stages.execute.sandbox.slots import Slots
from stages.execute.sandbox.wasi import engine
from stages.execute.sandbox.wasi.compiled import script_command
from stages.execute.wasm import forker, guest
from stages.execute.wasm.interface import RuntimeFault
from stages.execute.wasm.watch import Running

_END_SECONDS = 5.0


@dataclass(frozen=True)
class Pool:
    """How many children there may be at once, and how many of them wait for a job ahead of time."""

    children: int = field(default_factory=lambda: max(4, 2 * (os.cpu_count() or 1)))
    idle: int = 2


class Nursery:
    """Children that are forked ahead of time; each does one job.

    The forker starts with the first job, or with `warm_up`. A process that is forked after that shares it. `slots` is
    None where we may not become another user, `seccomp_program` where there is no libseccomp to make a filter.
    """

    def __init__(self, pool: Pool, slots: Slots | None, seccomp_program: bytes | None) -> None:
        self._pool, self._slots, self._filter = pool, slots, seccomp_program
        self._forker: _Forker | None = None
        self._closed = False
        self._lock = threading.Lock()
        _every_nursery.add(self)

    def warm_up(self) -> None:
        """Start the forker, if it does not live. Raises RuntimeFault if it cannot be started."""
        with self._lock:
            if self._closed:
                raise RuntimeFault("the WASM runtime has been closed", hint="the worker is shutting down")
            if self._forker is None:
                self._forker = _Forker(self._pool, self._slots, self._filter)

    def run(self, task: dict[str, Any], module: int, stdin: bytes, *, stdout_bytes: int, stderr_bytes: int) -> Running:
        """Hand a job to the next child that is ready. `module` is an open file, which stays open.

        Raises RuntimeFault if there is no forker to be had.
        """
        for attempt in (1, 2):
            self.warm_up()
            current = self._forker
            try:
                if current is not None:
                    return current.hand(task, module, stdin, stdout_bytes, stderr_bytes)
            except (BrokenPipeError, ConnectionResetError) as error:
                said = current.last_words() if current is not None else ""
                self._forget(current)
                if attempt == 2:
                    raise RuntimeFault(f"the process that forks children ended: {said or error}") from error
            except OSError as error:
                raise RuntimeFault(f"no child could be started: {error}") from error
        raise RuntimeFault("the WASM runtime has been closed")

    @property
    def forker_pid(self) -> int | None:
        """The forker's process, None if there is none (yet)."""
        return self._forker.process.pid if self._forker is not None else None

    def close(self) -> None:
        """End the forker and every child."""
        with self._lock:
            self._closed = True
        self._forget(self._forker)

    def _forget(self, ended: _Forker | None) -> None:
        with self._lock:
            if ended is None or self._forker is not ended:
                return
            self._forker = None
        ended.end()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # whoever held it does not live here


_every_nursery: weakref.WeakSet[Nursery] = weakref.WeakSet()


def _renew_locks() -> None:
    for nursery in list(_every_nursery):
        nursery._after_fork()


os.register_at_fork(after_in_child=_renew_locks)


class _Forker:
    """One forker, from its start to its end."""

    def __init__(self, pool: Pool, slots: Slots | None, seccomp_program: bytes | None) -> None:
        self._owner = os.getpid()
        self._words = os.memfd_create("stderr", os.MFD_CLOEXEC)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as handed:
            handed.callback(theirs.close)
            users: list[int | None] = [None] * pool.children
            inherited = [theirs.fileno()]
            try:
                if slots is not None:
                    for place in range(pool.children):
                        # Held by the forker's copy of the descriptor for as long as it lives.
                        users[place], held = slots.take()
                        handed.callback(os.close, held)
                        inherited.append(held)
                filtering = None
                if seccomp_program is not None:
                    filtering = sealed_file("filter", seccomp_program)
                    handed.callback(os.close, filtering)
                    inherited.append(filtering)
                task: dict[str, object] = {
                    "control": theirs.fileno(),
                    "filter": filtering,
                    "users": users,
                    "idle": min(pool.idle, pool.children),
                    "engine": engine.__file__,
                    "home": str(Path(guest.__file__).parents[3]),
                }
                self.process = subprocess.Popen(
                    script_command(forker.__file__, new_name(), task),
                    env={},
                    cwd="/",
                    umask=0o077,
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._words,
                    pass_fds=inherited,
                )
            except OSError as error:
                self._control.close()
                os.close(self._words)
                raise RuntimeFault(f"the process that forks children did not start: {error}") from error
        self._finalizer = weakref.finalize(self, _end, self._owner, self._control, self._words, self.process)

    def hand(self, task: dict[str, Any], module: int, stdin: bytes, stdout_bytes: int, stderr_bytes: int) -> Running:
        """Send the job's files; whoever gets them is told by the forker later, on a socket of its own."""
        with ExitStack() as theirs, ExitStack() as ours:
            owner, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.callback(owner.close)
            theirs.callback(told.close)
            files = [told.fileno()]
            for name, content in (("task", json.dumps(task).encode()), ("stdin", stdin)):
                files.append(sealed_file(name, content))
                theirs.callback(os.close, files[-1])
            files.insert(2, module)
            pipes = []
            for _ in range(3):
                reading, writing = os.pipe()
                ours.callback(os.close, reading)
                theirs.callback(os.close, writing)
                pipes.append(reading)
                files.append(writing)
            socket.send_fds(self._control, [b"job"], files)
            limits = (stdout_bytes, stderr_bytes, guest.MOST_REPORT_BYTES)
            running = Running(owner, pipes, limits, self.last_words)
            ours.pop_all()
            return running

    def last_words(self) -> str:
        """What the forker said on standard error."""
        words = os.pread(self._words, 4_096, max(0, os.fstat(self._words).st_size - 4_096))
        return " ".join(words.decode(errors="replace").split())[-300:]

    def end(self) -> None:
        """Let go of it; it ends when nobody holds on to it."""
        self._finalizer()


def _end(owner: int, control: socket.socket, words: int, process: subprocess.Popen[bytes]) -> None:
    control.close()
    os.close(words)
    if os.getpid() != owner:
        process.returncode = 0  # another process's child: not ours to wait for
        return
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.1)
    if process.returncode is None:
        # Somebody forked from us still holds the other end; we shall not wait for that.
        process.kill()
        process.wait(_END_SECONDS)
