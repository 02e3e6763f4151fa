"""The process in front of a stand-in: killed, it is a node that was killed, and its chain survives."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from deployments.stack import free_port
from localnet.computechain import ComputeChainLocalnet


@contextmanager
def front(port: int, to: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "localnet.front", "--port", str(port), "--to", str(to)]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def height(port: int) -> int:
    """The chain's, once somebody answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return int(httpx.get(f"http://127.0.0.1:{port}/status", timeout=10).json()["height"])
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_killed_node_refuses_and_comes_back_with_its_chain() -> None:
    port = free_port()
    with ComputeChainLocalnet(block_seconds=1000) as net:
        behind = int(net.url.rpartition(":")[2])
        with front(port, behind) as process:
            assert height(port) == 0
            process.kill()
            process.wait()
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{port}/status")
        net.chain.make_block(3)
        with front(port, behind):
            assert height(port) == 3
