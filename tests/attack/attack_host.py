"""What is set up on the host for a case to be tempted by: each yields what the program must know about it."""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attack_case import Reached

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


@contextmanager
def service() -> Iterator[Mapping[str, object]]:
    """A service that listens on the host's loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {"port": server.getsockname()[1]}


@contextmanager
def abstract_socket() -> Iterator[Mapping[str, object]]:
    """A Unix socket without a file: only a network namespace keeps it away."""
    name = f"\0millrace-attack-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        yield {"abstract": name}


@contextmanager
def secret_in_the_environment() -> Iterator[Mapping[str, object]]:
    """A variable in the worker's own environment, as a wallet's passphrase would be."""
    name = "MILLRACE_ATTACK_SECRET"
    os.environ[name] = "correct-horse"
    try:
        yield {"secret_name": name, "secret": "correct-horse"}
    finally:
        del os.environ[name]


@contextmanager
def worker() -> Iterator[Mapping[str, object]]:
    """The worker's pid and its namespaces."""
    yield {"pid": os.getpid(), "namespaces": {name: _namespace(name) for name in NAMESPACES}}


@contextmanager
def file_in_tmp() -> Iterator[Mapping[str, object]]:
    """A file in the host's /tmp."""
    with tempfile.NamedTemporaryFile(dir="/tmp", prefix="millrace-attack-") as file:
        yield {"file": file.name}


@contextmanager
def pickle_that_leaves_a_mark() -> Iterator[Mapping[str, object]]:
    """A pickle that makes a folder on whatever machine loads it. Raises Reached if it has been made."""
    with tempfile.TemporaryDirectory(prefix="millrace-attack-") as folder:
        mark = Path(folder, "unpickled")
        yield {"pickle": pickle.dumps(_MakeFolder(str(mark)))}
        if mark.exists():
            raise Reached("the worker has unpickled what a job wrote")


class _MakeFolder:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def _namespace(name: str) -> str:
    try:
        return str(Path(f"/proc/self/ns/{name}").readlink())
    except OSError:
        return "unknown"
