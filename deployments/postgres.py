"""PostgreSQL's programs on this machine, and the account that may run them."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

OLDEST_MAJOR = 14
"""The oldest PostgreSQL that Prefect 3 supports."""

_USUAL_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
_ACCOUNT_FOR_ROOT = "postgres"


@dataclass(frozen=True)
class Installation:
    """The folder of one PostgreSQL's programs."""

    programs: Path
    major: int

    @property
    def has_trigrams(self) -> bool:
        """Whether the extension pg_trgm, without which Prefect's server does not start, is there."""
        return any((folder / "extension" / "pg_trgm.control").exists() for folder in self._share_folders())

    def _share_folders(self) -> list[Path]:
        told = _output(self.programs / "pg_config", "--sharedir")
        near = [self.programs.parent / "share", self.programs.parent / "share" / "postgresql"]
        return [*([Path(told)] if told else []), *near]


@dataclass(frozen=True)
class Account:
    """Whom PostgreSQL runs as."""

    name: str
    uid: int
    gid: int

    @property
    def is_ours(self) -> bool:
        """Whether this process runs as the same user."""
        return self.uid == os.geteuid()


def installations(search_path: str | None = None) -> list[Installation]:
    """Every PostgreSQL server on the PATH and where Debian and Red Hat put them, the newest first."""
    found = shutil.which("postgres", path=search_path)
    folders = [Path(found).resolve().parent] if found else []
    for pattern in _USUAL_PLACES:
        folders += [folder.resolve() for folder in Path("/").glob(pattern.lstrip("/"))]
    majors = {folder: _major(folder) for folder in folders if (folder / "initdb").exists()}
    return sorted((Installation(f, m) for f, m in majors.items() if m), key=lambda one: one.major, reverse=True)


def account() -> Account | None:
    """Ourselves or, as root, which PostgreSQL refuses to run as, the user `postgres`; None if there is no such user.

    None, too, if the password file does not know us: PostgreSQL asks it who connects.

    Not `nobody`, which other services share: whoever can write Prefect's database can have the worker run code.
    """
    try:
        entry = pwd.getpwuid(os.geteuid())
        if entry.pw_uid == 0:
            entry = pwd.getpwnam(_ACCOUNT_FOR_ROOT)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def our_name() -> str:
    """The name under which the system knows this process's user, whatever USER and LOGNAME say."""
    return pwd.getpwuid(os.geteuid()).pw_name


def run_as(account: Account) -> list[str]:
    """What goes before a command, so that it runs as `account` and gets SIGINT when its parent dies."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    identity = ["--reuid", str(account.uid), "--regid", str(account.gid), "--init-groups"]
    return [setpriv, *([] if account.is_ours else identity), "--no-new-privs", "--pdeathsig", "INT", "--"]


def _major(programs: Path) -> int:
    """The major version of the server in this folder; 0 if it does not tell."""
    match = re.search(r"\(PostgreSQL\) (\d+)", _output(programs / "postgres", "--version"))
    return int(match[1]) if match else 0


def _output(program: Path, *arguments: str) -> str:
    try:
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
