"""Where Prefect's server keeps its history: the configured database, else a private PostgreSQL, else SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from deployments.cluster import RUN_AS_THE_OWNER, CannotCreate, Cluster
from deployments.postgres import OLDEST_MAJOR, account, installations
from deployments.processes import Processes
from millrace.errors import Permanent
from millrace.redaction import register_secret
from millrace.settings import env_file

URL_NAMES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
INSTALL = "apt-get install -y --no-install-recommends postgresql"
"""Debian's package also starts a cluster of its own on port 5432, which Millrace does not use."""


_POOL = {"PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": "20"}
"""Connections that Prefect's server keeps. Of its default, 5, a burst of flow runs makes it open and close others, at
a tenth of a second of CPU time for each flow run."""


@dataclass(frozen=True)
class Configured:
    """The operator's own database. `url` is used as it is and never shown."""

    url: str = field(repr=False)

    @property
    def told(self) -> str:
        """In a few words, without name and password of a user."""
        url = make_url(self.url)
        port = f":{url.port}" if url.port else ""
        return f"{url.get_backend_name()} {url.host or ''}{port}/{(url.database or '').lstrip('/')}, as configured"


@dataclass(frozen=True)
class Private:
    """A PostgreSQL cluster of our own; `left` is the SQLite file with the history so far, if there is one."""

    cluster: Cluster
    left: Path | None

    @property
    def told(self) -> str:
        """In a few words."""
        version = self.cluster.installation.major
        text = f"PostgreSQL {version}, a private cluster in {self.cluster.folder}"
        if self.left:
            text += (
                f"; the history so far stays in {self.left} ({URL_NAMES[0]}=sqlite+aiosqlite:///{self.left} uses it)"
            )
        return text


@dataclass(frozen=True)
class Sqlite:
    """Prefect's default: `reason` says why nothing better is used, `remedy` what to do about it."""

    reason: str
    remedy: str

    @property
    def told(self) -> str:
        """In a few words."""
        return (
            f"SQLite, because {self.reason}: every job takes a second or more longer, and a few at once slow each other"
        )


Choice = Configured | Private | Sqlite


def choose(data_dir: Path) -> Choice:
    """What `open_database` would use for this data folder. Starts and writes nothing.

    Raises Permanent if the configured URL cannot be read, or if the cluster in the data folder needs a PostgreSQL that
    this machine lacks: another database would hide the history.
    """
    if url := _configured():
        return Configured(url)
    folder = data_dir.absolute() / "postgres"
    needed = _version_of(folder)
    found = installations()
    usable = [one for one in found if one.has_trigrams and one.major >= OLDEST_MAJOR]
    runs_as = account()
    if needed:
        matching = [one for one in usable if one.major == needed]
        if not matching or runs_as is None:
            has = ", ".join(f"PostgreSQL {one.major}" for one in usable) or "none"
            raise Permanent(
                f"the database in {folder} was made by PostgreSQL {needed}, and this machine has {has}",
                hint=f"install PostgreSQL {needed} with its extension pg_trgm, bring the cluster over with pg_upgrade, "
                "or move the folder away to begin with an empty history",
            )
        return Private(Cluster(folder, matching[0], runs_as), None)
    if not found:
        return Sqlite("PostgreSQL is not installed", f"install it with: {_sudo()}{INSTALL}")
    if not usable:
        named = f"PostgreSQL {found[0].major} in {found[0].programs}"
        fault = "lacks the extension pg_trgm" if found[0].major >= OLDEST_MAJOR else "is too old for Prefect"
        return Sqlite(f"{named} {fault}", f"install one that has it: {_sudo()}{INSTALL} postgresql-contrib")
    if runs_as is None:
        who = "PostgreSQL refuses to run as root and there is no user `postgres`"
        unnamed = f"user {os.geteuid()} has no entry in /etc/passwd, which PostgreSQL needs"
        remedy = "useradd --system postgres" if os.geteuid() == 0 else "add one, or run as another user"
        return Sqlite(unnamed if os.geteuid() else who, remedy)
    if not runs_as.is_ours and not shutil.which("setpriv"):
        remedy = "apt-get install -y --no-install-recommends util-linux"
        return Sqlite("as root PostgreSQL has to be started with setpriv, which is not here", remedy)
    history = data_dir.absolute() / "prefect" / "prefect.db"
    return Private(Cluster(folder, usable[0], runs_as), history if history.exists() else None)


@dataclass(frozen=True)
class Database:
    """The open database: what Prefect's server, and nobody else, gets in its environment, and what a person is told."""

    environment: Mapping[str, str] = field(repr=False)
    line: str


async def open_database(processes: Processes, data_dir: Path, *, durable: bool = True) -> Database:
    """Choose the database and, if it is our own PostgreSQL, create and start it as one of `processes`.

    Not `durable`: a crash of the machine may cost the whole database, as is right for the demo. Raises Permanent if
    another millrace uses this data folder's database, and what `choose` and `Cluster.start` raise.
    """
    choice = choose(data_dir)
    if isinstance(choice, Configured):
        return Database({URL_NAMES[0]: choice.url}, f"database: {choice.told}")
    processes.afterwards.enter_context(_used_by_us_alone(data_dir))
    if isinstance(choice, Private):
        try:
            if not choice.cluster.folder.exists():
                await asyncio.to_thread(choice.cluster.create)
            url = await choice.cluster.start(processes, durable=durable)
            return Database({URL_NAMES[0]: url, **_POOL}, f"database: {choice.told}")
        except CannotCreate as error:
            choice = Sqlite(f"no PostgreSQL cluster could be made ({error.message})", "mend that, and start anew")
    return Database({}, f"database: {choice.told}; {choice.remedy}")


@contextlib.contextmanager
def _used_by_us_alone(data_dir: Path) -> Iterator[None]:
    """Hold the lock on this data folder's database. Permanent if another process does."""
    with (data_dir / "database.lock").open("a+") as lock:
        try:
            # flock: the system releases it when its holder is killed.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Permanent(
                f"another millrace (process {lock.read().strip()}) uses the database in {data_dir}",
                hint="stop it, or give this one a folder of its own with MILLRACE_DATA_DIR",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _configured() -> str | None:
    """The operator's URL, from the environment or the file beside it; from here on it is masked wherever it turns up.

    Raises Permanent, without the value, if it is no URL.
    """
    values = {**dotenv_values(env_file()), **os.environ}
    name, value = next(((name, value) for name in URL_NAMES if (value := values.get(name))), (None, None))
    if not name or not value:
        return None
    register_secret(value)
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise Permanent(f"{name} is no database URL", hint="postgresql+asyncpg://user:password@host/database") from None
    for secret in (url.password, url.query.get("password")):
        if isinstance(secret, str):
            register_secret(secret)
    return value


def _version_of(folder: Path) -> int | None:
    """The major version that made the cluster in `folder`; None if there is none."""
    if not folder.exists():
        return None
    try:
        return int((folder / "PG_VERSION").read_text())
    except PermissionError:
        raise Permanent(f"the database in {folder} belongs to another user", hint=RUN_AS_THE_OWNER) from None
    except (FileNotFoundError, ValueError):
        hint = "restore it, or move it away to begin with an empty history"
        raise Permanent(f"{folder} is no PostgreSQL cluster that can be used", hint=hint) from None


def _sudo() -> str:
    return "" if os.geteuid() == 0 else "sudo "
