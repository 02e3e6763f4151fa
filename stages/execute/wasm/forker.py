"""The process that children are forked from: it has imported wasmtime, and nothing else has ever happened in it.

Started by its path, in an empty environment, with two arguments: whose it is, and its settings as JSON. Of ours it
imports nothing but `guest.py`, with what that needs, and the engine of the `wasi` back end, by its path. It never sees
a module: it forks children ahead of time, each of which waits behind its filter of system calls, and hands open files
from the worker to one of them. It lives as long as anybody holds the other end of its control socket.

On the control socket, a message is one job, with seven open files: a socket to tell its owner how it goes, the task,
the module, standard input, and where standard output, standard error and the report go. What the owner is told: the
child's pid, with a pidfd of it, and how it ended. An owner that hangs up has its child killed.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import selectors
import signal
import socket
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

FILES = 7
_MOST_FAILURES = 3
"""Children that end before they are ready, one after the other: then something is wrong for good."""

_HIGHEST_DESCRIPTOR = 1 << 20


def main() -> None:
    """Serve until nobody is left."""
    task = json.loads(sys.argv[2])
    sys.path += [task["site"], task["home"]]
    tools = _load("millrace_engine", task["engine"])
    tools.prctl(tools.NO_NEW_PRIVS, 1)
    Path("/proc/self/oom_score_adj").write_text("800")
    # Children may import nothing more: they cannot open files.
    importlib.import_module("wasmtime.component")
    guest = importlib.import_module("stages.execute.wasm.guest")
    filtering = os.read(task["filter"], 1 << 16) if task["filter"] is not None else None
    gc.collect()
    gc.freeze()
    Forker(task, filtering, tools, guest).serve()


def _load(name: str, path: str) -> Any:
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Child:
    """A forked process: getting ready, waiting, or at work for `owner`."""

    def __init__(self, pid: int, user: int | None, channel: socket.socket) -> None:
        self.pid = pid
        self.user = user
        self.channel: socket.socket | None = channel
        self.pidfd = os.pidfd_open(pid)
        self.ready = False
        self.owner: socket.socket | None = None


class Forker:
    """Keeps `idle` children waiting, and at most as many in all as there are `users`."""

    def __init__(self, task: dict[str, Any], filtering: bytes | None, tools: Any, guest: Any) -> None:
        self._control = socket.socket(fileno=task["control"])
        self._users: deque[int | None] = deque(task["users"])
        self._idle: int = task["idle"]
        self._filter, self._tools, self._guest = filtering, tools, guest
        self._children: dict[int, Child] = {}
        self._queue: deque[tuple[socket.socket, list[int]]] = deque()
        self._failures = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._control, selectors.EVENT_READ, self._take_job)

    def serve(self) -> None:
        """Until the control socket has no other end any more."""
        while True:
            self._refill()
            for key, _ in self._selector.select():
                # An earlier one of these may have closed what this one is about.
                if key.fd in self._selector.get_map():
                    key.data()
            self._assign()

    def _refill(self) -> None:
        while self._users and sum(child.owner is None for child in self._children.values()) < self._idle:
            self._fork()

    def _fork(self) -> None:
        user = self._users.popleft()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                channel = theirs.fileno()
                os.closerange(3, channel)
                os.closerange(channel + 1, _HIGHEST_DESCRIPTOR)
                os.setsid()
                self._guest.serve(theirs, user, parent, self._filter, self._tools)
            except BaseException as error:  # noqa: BLE001 whatever it is, this copy of the forker must end here
                os.write(2, f"{type(error).__name__}: {error}\n".encode()[:400])
            os._exit(1)
        theirs.close()
        child = Child(pid, user, ours)
        self._children[pid] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._bury(child))
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(child))

    def _hear(self, child: Child) -> None:
        """It is ready, or it has hung up and will be buried."""
        assert child.channel is not None
        self._selector.unregister(child.channel)
        child.ready = child.channel.recv(16) == self._guest.READY
        if child.ready:
            self._failures = 0

    def _take_job(self) -> None:
        message, files, *_ = socket.recv_fds(self._control, 64, FILES)
        if not message:
            self._end()
        if len(files) != FILES:
            for fd in files:
                os.close(fd)
            return
        self._queue.append((socket.socket(fileno=files[0]), files[1:]))

    def _assign(self) -> None:
        waiting = [child for child in self._children.values() if child.ready and child.owner is None]
        while self._queue and waiting:
            owner, files = self._queue.popleft()
            if _has_hung_up(owner):
                owner.close()
            else:
                self._hand(waiting[0], owner, files)
                waiting = [child for child in waiting if child.owner is None]
            for fd in files:
                os.close(fd)

    def _hand(self, child: Child, owner: socket.socket, files: list[int]) -> None:
        assert child.channel is not None
        try:
            # First of all: an owner that hangs up without having heard of a child can be sure that there is none.
            socket.send_fds(owner, [json.dumps({"pid": child.pid}).encode()], [child.pidfd])
        except OSError:
            owner.close()
            return
        child.owner = owner
        self._selector.register(owner, selectors.EVENT_READ, lambda: self._kill(child))
        with suppress(OSError):  # it died just now: the pidfd says so next
            socket.send_fds(child.channel, [b"job"], files)
        child.channel.close()
        child.channel = None

    def _kill(self, child: Child) -> None:
        """Its owner has hung up."""
        assert child.owner is not None
        self._selector.unregister(child.owner)
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)

    def _bury(self, child: Child) -> None:
        """It has ended: tell its owner how, and give its user to another one."""
        _, status = os.waitpid(child.pid, 0)
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        for end in (child.channel, child.owner):
            if end is not None and end.fileno() in self._selector.get_map():
                self._selector.unregister(end)
        if child.channel is not None:
            child.channel.close()
        if child.owner is not None:
            with suppress(OSError):
                child.owner.send(json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode())
            child.owner.close()
        elif not child.ready:
            self._failures += 1
            if self._failures >= _MOST_FAILURES:
                self._end()
        del self._children[child.pid]
        self._users.append(child.user)

    def _end(self) -> None:
        """The children die with this process: each has asked the kernel for that."""
        os._exit(0)


def _has_hung_up(owner: socket.socket) -> bool:
    try:
        return not owner.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


if __name__ == "__main__":
    main()
