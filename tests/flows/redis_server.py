"""A Redis server of a test's own, on a socket in its folder."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from stages.locks.server import connect

PROGRAM = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed")

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of one that keeps what it acknowledges."""


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server that remembers nothing on disk: its URL and its process."""
    assert PROGRAM is not None
    socket = folder / "redis.sock"
    arguments = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with (folder / "redis.log").open("ab") as log:
        server = subprocess.Popen([PROGRAM, *arguments, *options], stdout=log, stderr=log)
    try:
        until_it_answers(f"unix://{socket}", server)
        yield f"unix://{socket}", server
    finally:
        server.kill()
        server.wait()


def until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    client = connect(url)
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
        except redis.AuthenticationError:
            break
        except redis.RedisError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            break
    client.close()
