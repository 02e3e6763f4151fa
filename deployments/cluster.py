"""A private PostgreSQL cluster: nobody but this user can reach it, and it ends with the processes around it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import URL

from deployments.postgres import Account, Installation, our_name, run_as
from deployments.processes import Processes, wait_until
from millrace.errors import Permanent, Transient

RUN_AS_THE_OWNER = "run millrace as the user who ran it first, or with a data folder of its own"

_DATABASE = "prefect"
_SUPERUSER = "cluster_owner"
"""Nobody can log in as it: over the socket, peer authentication wants an account of that name."""
_PORT = "5432"
_SOCKET = f".s.PGSQL.{_PORT}"
_LONGEST_SOCKET_PATH_BYTES = 107
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "cluster_name": "millrace",
    "max_connections": "50",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    # One server, no replicas.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # Prefect's queries are short: to compile or to split them costs more than it saves.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "log_checkpoints": "off",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_STOPPING_SECONDS = 10.0
_START_SECONDS = 60.0


class CannotCreate(Permanent):
    """No cluster could be made on this machine."""


@dataclass(frozen=True)
class Cluster:
    """The cluster in `folder`, run by the programs of `installation` as `account`."""

    folder: Path
    installation: Installation
    account: Account

    def create(self) -> None:
        """Make the cluster and Prefect's database in it, completely or not at all.

        Raises CannotCreate with PostgreSQL's own words.
        """
        new = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        try:
            if not self.account.is_ours:
                os.chown(new, self.account.uid, self.account.gid)
            self._fill(new)
            new.rename(self.folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _fill(self, new: Path) -> None:
        identity = [f"--username={_SUPERUSER}", "--auth-local=peer", "--auth-host=reject"]
        self._run(new, "initdb", [*identity, "--encoding=UTF8", "--locale=C.UTF-8"])
        role = f'"{our_name().replace(chr(34), 2 * chr(34))}"'
        alone = ["--single", "-c", "exit_on_error=on"]
        owned = f"CREATE ROLE {role} LOGIN;\nCREATE DATABASE {_DATABASE} OWNER {role};\n"
        self._run(new, "postgres", alone, database="postgres", statements=owned)
        self._run(new, "postgres", alone, database=_DATABASE, statements="CREATE EXTENSION pg_trgm;\n")

    def _run(
        self, folder: Path, program: str, options: Sequence[str], *, database: str = "", statements: str = ""
    ) -> None:
        with self._handed_over(folder) as (path, descriptors):
            ended = subprocess.run(
                [
                    *run_as(self.account),
                    str(self.installation.programs / program),
                    *options,
                    "-D",
                    path,
                    *([database] if database else []),
                ],
                env=_environment(),
                cwd="/",
                pass_fds=descriptors,
                input=statements,
                capture_output=True,
                text=True,
            )
        if ended.returncode:
            told = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
            raise CannotCreate(f"{program} failed: {told[-1] if told else f'exit code {ended.returncode}'}")

    async def start(self, processes: Processes, *, durable: bool) -> str:
        """Start the server as one of `processes` and return the URL of Prefect's database once it answers.

        Not `durable`: faster, for a database that nobody needs once this machine has crashed. Raises Permanent if the
        server does not start.
        """
        self._ensure_ours()
        await self._wait_for_a_killed_server()
        socket_folder = self._socket_folder()
        processes.afterwards.callback(shutil.rmtree, socket_folder, ignore_errors=True)
        settings = {**_SETTINGS, **({} if durable else _NOT_DURABLE), "port": _PORT}
        settings["unix_socket_directories"] = str(socket_folder)
        with self._handed_over(self.folder) as (path, descriptors):
            server = processes.start(
                "postgres",
                [
                    *run_as(self.account),
                    str(self.installation.programs / "postgres"),
                    "-D",
                    path,
                    *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
                ],
                _environment(),
                cwd="/",
                pass_fds=descriptors,
                # SIGTERM would wait until the last client has gone.
                stop_signal=signal.SIGINT,
            )
        try:
            await wait_until(lambda: self._is_ready(server.pid), "PostgreSQL", _START_SECONDS, processes)
        except Transient as error:
            hint = (
                f"restore {self.folder}, or move it away to begin with an empty history; no chain or receipt needs it"
            )
            raise Permanent(f"Prefect's database does not start: {error.message}", hint=hint) from error
        # Everything that a variable of the operator's (PGPORT, PGSSLMODE, …) would decide otherwise.
        address = {"host": str(socket_folder), "port": _PORT, "ssl": "disable", "target_session_attrs": "any"}
        url = URL.create("postgresql+asyncpg", username=our_name(), database=_DATABASE, query=address)
        return url.render_as_string(hide_password=False)

    def _ensure_ours(self) -> None:
        owner = self.folder.stat().st_uid
        if owner != self.account.uid:
            raise Permanent(
                f"the database in {self.folder} belongs to user {owner}, not to {self.account.name}",
                hint=RUN_AS_THE_OWNER,
            )

    async def _wait_for_a_killed_server(self) -> None:
        """A server whose parent was killed is still ending; its pid file may name a process that has its number now."""
        deadline = time.monotonic() + _STOPPING_SECONDS
        while holders := _working_in(self.folder):
            if time.monotonic() > deadline:
                raise Transient(
                    f"process {holders[0].pid} still serves the database in {self.folder}",
                    hint=f"kill -INT {holders[0].pid}",
                )
            await asyncio.sleep(0.2)
        # Nobody serves it, and we hold the lock: the file is stale, whoever has that pid.
        (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def _socket_folder(self) -> Path:
        """A new folder for the socket, which its server alone (and root) can enter, with a path short enough."""
        folder = self.folder.with_name(f"{self.folder.name}.socket")
        shutil.rmtree(folder, ignore_errors=True)
        if self.account.is_ours and len(os.fsencode(folder / _SOCKET)) <= _LONGEST_SOCKET_PATH_BYTES:
            folder.mkdir(mode=0o700)
            return folder
        # Not XDG_RUNTIME_DIR: it goes when the user logs out. Not TMPDIR: it can be long, or closed to the server.
        prefix = f"millrace-{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]}-"
        for old in Path("/tmp").glob(f"{prefix}*"):  # noqa: S108
            if old.lstat().st_uid in {self.account.uid, os.geteuid()}:
                shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
        os.chown(folder, self.account.uid, self.account.gid)
        return folder

    @contextlib.contextmanager
    def _handed_over(self, folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
        """A path to `folder` for the server, and the descriptors it needs for it.

        The server's account often may not enter the folders above ours (/root, the demo's): it gets the folder itself.
        """
        if self.account.is_ours:
            yield str(folder), ()
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            yield f"/proc/self/fd/{descriptor}", (descriptor,)
        finally:
            os.close(descriptor)

    def _is_ready(self, pid: int) -> bool:
        """What pg_ctl looks at: the eighth line of the pid file."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(pid) and len(lines) > 7 and lines[7].strip() == "ready"


def _working_in(folder: Path) -> list[psutil.Process]:
    """The processes whose working directory is `folder`: every process of a PostgreSQL server stays in its cluster."""
    place = str(folder.resolve())
    return [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == place]


def _environment() -> dict[str, str]:
    """All that PostgreSQL gets of ours: no settings, no tokens."""
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
