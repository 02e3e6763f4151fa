"""A private PostgreSQL as `millrace up` has it: real programs, really killed, as root and as an ordinary user."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.database import INSTALL, Private, choose

NOBODY = 65_534

UP = """
# Everything is imported before the user changes: an ordinary one may not be able to read our packages.
import asyncio, concurrent.futures.thread, json, os, sys
from pathlib import Path
import sqlalchemy.dialects.postgresql.asyncpg, asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from deployments.database import URL_NAMES, open_database
from deployments.processes import Processes
from millrace.errors import MillraceError

folder, uid = Path(sys.argv[1]), int(sys.argv[2])
if uid != os.geteuid():
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)

async def up():
    with Processes(folder / "logs") as processes:
        opened = await open_database(processes, folder)
        told = {"line": opened.line}
        if url := opened.environment.get(URL_NAMES[0]):
            engine = create_async_engine(url)
            async with engine.begin() as connection:
                ask = connection.exec_driver_sql
                await ask("create table if not exists start (number int)")
                await ask("insert into start values (1)")
                told["starts"] = (await ask("select count(*) from start")).scalar()
                for name in ("listen_addresses", "fsync", "server_encoding"):
                    told[name] = (await ask(f"show {name}")).scalar()
                told["superuser"] = (await ask("select usesuper from pg_user where usename = current_user")).scalar()
                told["trigrams"] = (await ask("select similarity('mill', 'millrace') > 0.3")).scalar()
            await engine.dispose()
            told["socket"] = engine.url.query["host"]
            told["postgres"] = processes.process("postgres").pid
        print(json.dumps(told), flush=True)
        sys.stdin.read()

try:
    asyncio.run(up())
except MillraceError as error:
    print(json.dumps({"error": error.message, "hint": error.hint}))
"""


@pytest.fixture(autouse=True, scope="module")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> None:
    choice = choose(tmp_path_factory.mktemp("choice"))
    if not isinstance(choice, Private):
        pytest.skip(f"needs a PostgreSQL that can be used here: {INSTALL} (now: {choice.told})")


@dataclass
class Operator:
    """Somebody with a data folder, who starts and ends a database on it."""

    uid: int
    folder: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def cluster(self) -> Path:
        return self.folder / "postgres"

    def start(self) -> dict[str, Any]:
        """What the started one tells."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder
        while path.parts[-1] and path.stat().st_uid != self.uid and path.parent != Path("/tmp"):
            os.chown(path, self.uid, self.uid)
            path = path.parent
        up = subprocess.Popen(
            [sys.executable, "-c", UP, str(self.folder), str(self.uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.running.append(up)
        assert up.stdout is not None
        told: dict[str, Any] = json.loads(up.stdout.readline())
        return told

    def stop(self) -> None:
        while self.running:
            with self.running.pop() as up:
                assert up.stdin is not None
                up.stdin.close()
                up.wait(60)

    def servers(self) -> list[psutil.Process]:
        """Every process of a PostgreSQL on this folder."""
        return [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(self.cluster)]


@pytest.fixture(params=["as we are", "as an ordinary user"])
def operator(request: pytest.FixtureRequest) -> Iterator[Operator]:
    uid = os.geteuid()
    if request.param == "as an ordinary user":
        if uid != 0:
            pytest.skip("we are an ordinary user: the other half of these tests says the same; as root both run")
        uid = NOBODY
    folder = Path(tempfile.mkdtemp(prefix="operator-", dir="/tmp"))
    os.chown(folder, uid, uid if uid else 0)
    made = Operator(uid, folder / "data")
    yield made
    made.stop()
    for process in made.servers():
        process.kill()
    shutil.rmtree(folder)


def test_it_keeps_what_was_written_and_leaves_no_process_and_no_socket(operator: Operator) -> None:
    first = operator.start()
    assert "PostgreSQL" in first["line"]
    assert (first["starts"], first["trigrams"], first["server_encoding"]) == (1, True, "UTF8")
    assert (first["listen_addresses"], first["fsync"], first["superuser"]) == ("", "on", False)
    assert Path(first["socket"]).stat().st_mode & 0o777 == 0o700
    assert operator.cluster.stat().st_mode & 0o777 == 0o700
    assert {process.uids().effective for process in operator.servers()}.isdisjoint({0})
    operator.stop()
    assert operator.servers() == []
    assert not Path(first["socket"]).exists()
    assert operator.start()["starts"] == 2
    operator.stop()


def test_nothing_of_our_environment_reaches_it(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINATA_JWT", "a-token")
    # With what an operator has set for other databases, neither side found the other.
    for name, value in (("PGPORT", "6543"), ("PGSSLMODE", "verify-full"), ("PGTARGETSESSIONATTRS", "standby")):
        monkeypatch.setenv(name, value)
    told = operator.start()
    assert told["starts"] == 1
    assert "PINATA_JWT" not in psutil.Process(told["postgres"]).environ()


@pytest.mark.parametrize("pid_reused", [False, True])
def test_after_everything_was_killed_it_recovers(operator: Operator, pid_reused: bool) -> None:
    """PostgreSQL refuses to start while the process that its stale pid file names is alive: a number is soon reused."""
    told = operator.start()
    victims = [psutil.Process(operator.running[0].pid), *operator.servers()]
    for process in victims:
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL ends a process now and then by itself
            process.kill()
    operator.running.pop().communicate()
    psutil.wait_procs(victims, timeout=20)
    pid_file = operator.cluster / "postmaster.pid"
    assert pid_file.exists()
    with subprocess.Popen(["sleep", "120"], user=operator.cluster.stat().st_uid) as innocent:
        if pid_reused:
            pid_file.write_text(pid_file.read_text().replace(str(told["postgres"]), str(innocent.pid), 1))
        try:
            again = operator.start()
            operator.stop()
            assert innocent.poll() is None
        finally:
            innocent.kill()
    assert again["starts"] == 2
    assert not Path(told["socket"]).exists()
    assert not Path(again["socket"]).exists()


def test_it_ends_when_only_the_process_around_it_is_killed(operator: Operator) -> None:
    operator.start()
    operator.running[0].send_signal(signal.SIGKILL)
    operator.running.pop().communicate()
    assert operator.start()["starts"] == 2
    operator.stop()
    deadline = time.monotonic() + 10
    while operator.servers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert operator.servers() == []


def test_a_second_one_on_the_same_folder_is_refused_and_the_first_goes_on(operator: Operator) -> None:
    operator.start()
    refused = operator.start()
    assert f"another millrace (process {operator.running[0].pid})" in refused["error"]
    assert len([process for process in operator.servers() if process.ppid() == operator.running[0].pid]) == 1


def test_a_data_folder_with_a_long_name_is_served(operator: Operator) -> None:
    """A socket's path may have 107 bytes."""
    operator.folder = operator.folder / ("long" * 20) / ("longer" * 15)
    told = operator.start()
    assert told["starts"] == 1
    assert len(told["socket"]) < 80
    operator.stop()
    assert not Path(told["socket"]).exists()


def test_a_damaged_cluster_is_an_error_that_says_what_to_do_and_is_left_alone(operator: Operator) -> None:
    operator.start()
    operator.stop()
    (operator.cluster / "global" / "pg_control").unlink()
    told = operator.start()
    assert "does not start" in told["error"]
    assert "pg_control" in told["error"]
    assert str(operator.cluster) in told["hint"]
    assert (operator.cluster / "PG_VERSION").exists()
    assert operator.servers() == []


def test_a_cluster_of_another_user_is_refused(operator: Operator) -> None:
    operator.start()
    operator.stop()
    if os.geteuid() != 0:
        pytest.skip("needs root, to give the cluster to somebody else")
    os.chown(operator.cluster, 1, 1)
    told = operator.start()
    assert "belongs to " in told["error"]
    assert "run millrace as the user" in told["hint"]
