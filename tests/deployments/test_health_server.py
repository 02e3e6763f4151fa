"""`/health` and `/metrics` from a real process, asked by friends and by others."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from deployments.health import Examiner, Snapshot
from deployments.health_server import Reporter, listen
from deployments.stack import free_port
from millrace.errors import Permanent
from millrace.settings import HealthSettings, Settings
from stages.progress import Progress

SECRET = "jwt-of-the-operator-0123456789"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)

    def said_to(self, request: bytes, seconds: float = 8) -> bytes:
        """What comes back for these bytes until the server hangs up, or so long."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            answer = b""
            try:
                connection.sendall(request)
                while piece := connection.recv(65_536):
                    answer += piece
            except (TimeoutError, ConnectionError):
                pass
            return answer


@contextmanager
def serving(folder: Path, *more: str) -> Iterator[Server]:
    port = free_port()
    environment = {
        **os.environ,
        "MILLRACE_DATA_DIR": str(folder),
        "MILLRACE_HEALTH__PORT": str(port),
        "PINATA_JWT": SECRET,
        "SOLANA_RPC_URL": f"http://127.0.0.1:1/{SECRET}",
    }
    command = [sys.executable, "-m", "deployments", "health", "--serve", *more]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        server = Server(process, port, folder)
        try:
            _wait_until(lambda: process.poll() is not None or _answers(port))
            assert process.poll() is None
            yield server
        finally:
            process.kill()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("health")
    Progress(folder).looked("cloudmesh", now=time.time(), head=5, pending=0, given_up=0)
    with serving(folder) as made:
        yield made


def test_it_listens_on_loopback_and_nowhere_else(server: Server) -> None:
    """Prefect's own health server is on all interfaces unless told otherwise."""
    listening = [
        connection.laddr
        for connection in psutil.Process(server.process.pid).net_connections("all")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", server.port)]
    for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
        if not str(address).startswith("127."):
            with socket.socket() as probe:
                assert probe.connect_ex((str(address), server.port)) != 0


def test_health_and_metrics_say_the_same(server: Server) -> None:
    answer = server.get("/health")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["worker: none of the pool cpu lives"]
    assert answer.json()["networks"]["cloudmesh"]["head"] == 5
    page = server.get("/metrics")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=")
    assert "millrace_healthy 0.0" in page.text
    assert 'millrace_head_height{network="cloudmesh"} 5.0' in page.text


def test_no_secret_of_the_settings_is_told(server: Server) -> None:
    for path in ("/health", "/metrics"):
        answer = server.get(path)
        assert SECRET not in answer.text + str(answer.headers)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/../../etc/passwd", 404),
        ("/health/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/health%00", 404),
        ("/docs", 404),
        ("/" + "a" * 8_000, 404),
    ],
)
def test_there_is_nothing_else(server: Server, path: str, status: int) -> None:
    assert server.get(path).status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_nothing_can_be_changed(server: Server, method: str) -> None:
    answer = httpx.request(method, f"http://127.0.0.1:{server.port}/health", content=b"x" * 1_000)
    assert answer.status_code == 405


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"".join([b"GET /health HTTP/1.1\r\nHost: x\r\n", *[b"X%d: y\r\n" % n for n in range(20_000)], b"\r\n"]),
        b"GET " + b"/" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100_000,
        b"GET /health\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    ],
    ids=["huge header", "many headers", "long path", "tls", "zeros", "http 0.9", "negative length", "huge chunk"],
)
def test_what_is_no_decent_request_is_refused_and_harms_nobody(server: Server, request_bytes: bytes) -> None:
    answer = server.said_to(request_bytes, seconds=3)
    assert not answer.startswith(b"HTTP/1.1 200")
    assert psutil.Process(server.process.pid).memory_info().rss < 512 << 20
    assert server.get("/health").status_code == 503


def test_many_that_say_nothing_do_not_keep_it_from_answering_once_they_are_gone(server: Server) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    for connection in idle:
        connection.close()
    assert server.get("/health").json()["reasons"]


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """A worker that was killed left its health server behind, which said for ever that it was well."""
    with serving(tmp_path, "--until-stdin-ends") as server:
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(10) == 0


def test_beside_a_worker_it_outlives_an_exec_and_ends_with_a_kill(tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, "MILLRACE_DATA_DIR": str(tmp_path), "MILLRACE_HEALTH__PORT": str(port)}
    becomes = "import time; time.sleep(60)"  # as `millrace worker` becomes Prefect's worker
    script = f"""
import os, sys
from deployments.stack import serve_beside
serve_beside("gpu")
os.execv(sys.executable, [sys.executable, "-c", {becomes!r}])
"""
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as worker:
        try:
            _wait_until(lambda: _answers(port))
            answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=10)
            assert answer.json()["reasons"] == ["worker: none of the pool gpu lives"]
            assert psutil.Process(worker.pid).cmdline()[-1] == becomes
        finally:
            worker.kill()
    _wait_until(lambda: not _answers(port))


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_port_that_is_taken_is_said_in_words() -> None:
    with listen(HealthSettings(port=0)) as first:
        first.listen()
        with pytest.raises(Permanent, match="MILLRACE_HEALTH__PORT") as refused:
            listen(HealthSettings(port=first.getsockname()[1]))
    assert "in use" in str(refused.value)


class Hanging(Examiner):
    """A data folder on a disk that does not answer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Settings(data_dir=folder), ())
        self.go_on = threading.Event()
        self.looks = 0

    def look(self, now: float) -> Snapshot:
        self.looks += 1
        self.go_on.wait(20)
        return super().look(now)


async def test_a_folder_that_hangs_is_told_and_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.health_server._PATIENCE_SECONDS", 0.2)
    examiner = Hanging(tmp_path)
    transport = httpx.ASGITransport(Reporter(examiner).application())
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
        try:
            answers = await asyncio.gather(*[http.get("/health") for _ in range(5)], http.get("/metrics"))
        finally:
            examiner.go_on.set()
        assert {answer.status_code for answer in answers} == {503}
        assert "takes too long" in answers[0].text
        assert examiner.looks == 1
        await asyncio.sleep(0.2)
        assert (await http.get("/health")).json()["status"] == "ok"


async def test_a_crowd_is_served_from_one_look(tmp_path: Path) -> None:
    examiner = Hanging(tmp_path)
    examiner.go_on.set()
    transport = httpx.ASGITransport(Reporter(examiner).application())
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
        answers = await asyncio.gather(*[http.get("/health") for _ in range(50)])
    assert {answer.status_code for answer in answers} == {200}
    assert examiner.looks == 1


def test_the_command_tells_it_too_and_its_exit_code_says_whether_it_is_well(tmp_path: Path) -> None:
    environment = {**os.environ, "MILLRACE_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "deployments", "health"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 1
    assert json.loads(told.stdout)["reasons"] == ["worker: none of the pool cpu lives"]
