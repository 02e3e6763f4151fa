"""Which database Prefect's server gets, without starting one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from deployments import database, postgres
from deployments.cluster import Cluster
from deployments.database import URL_NAMES, Configured, Private, Sqlite, choose, open_database
from deployments.postgres import Account, Installation
from deployments.processes import Processes
from millrace.errors import Permanent
from millrace.redaction import redact

URL = "postgresql+asyncpg://millrace:c0rrect-horse@db.example:5433/prefect"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in URL_NAMES:
        monkeypatch.delenv(name, raising=False)


def pretend(folder: Path, major: int, *, trigrams: bool = True) -> Installation:
    """Programs that say they are PostgreSQL `major`, as far as choosing goes."""
    programs = folder / str(major) / "bin"
    programs.mkdir(parents=True)
    for name, says in {"postgres": f"postgres (PostgreSQL) {major}.3", "initdb": "", "pg_config": ""}.items():
        (programs / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (programs / name).chmod(0o755)
    if trigrams:
        extensions = programs.parent / "share" / "extension"
        extensions.mkdir(parents=True)
        (extensions / "pg_trgm.control").touch()
    return Installation(programs, major)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where PostgreSQL is looked for: <this>/<major>/bin, none yet."""
    place = tmp_path / "programs"
    monkeypatch.setattr(postgres, "_USUAL_PLACES", (f"{place}/*/bin",))
    monkeypatch.setenv("PATH", "/nowhere")
    # These programs are never started, so that anybody may be their account.
    monkeypatch.setattr(database, "account", lambda: Account("somebody", os.geteuid(), os.getegid()))
    return place


@pytest.mark.parametrize("name", URL_NAMES)
async def test_a_configured_url_is_used_untouched_and_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, URL)
    with Processes(tmp_path / "logs") as processes:
        opened = await open_database(processes, tmp_path)
    assert opened.environment == {URL_NAMES[0]: URL}
    assert "db.example:5433/prefect" in opened.line
    assert "c0rrect-horse" not in f"{opened} {choose(tmp_path)}"
    assert "c0rrect-horse" not in redact(f"a log line of Prefect's with {URL} or only c0rrect-horse")


async def test_a_configured_url_may_stand_in_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{URL_NAMES[0]}={URL}\n")
    assert choose(tmp_path) == Configured(URL)


def test_a_configured_url_that_is_none_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_NAMES[0], "c0rrect-horse at db.example")
    with pytest.raises(Permanent, match=URL_NAMES[0]) as refused:
        choose(tmp_path)
    assert "c0rrect-horse" not in str(refused.value)


def test_the_newest_usable_postgresql_is_chosen(tmp_path: Path, installed: Path) -> None:
    pretend(installed, 15)
    newest = pretend(installed, 17)
    pretend(installed, 18, trigrams=False)
    choice = choose(tmp_path / "data")
    assert isinstance(choice, Private)
    assert choice.cluster.installation == newest
    assert choice.cluster.folder == tmp_path / "data" / "postgres"


@pytest.mark.parametrize(
    ("majors", "trigrams", "because"),
    [([], True, "not installed"), ([16], False, "16 in .* lacks the extension pg_trgm"), ([13], True, "13 .*too old")],
)
async def test_without_a_usable_postgresql_it_is_sqlite_with_what_it_costs_and_what_to_do(
    tmp_path: Path, installed: Path, majors: list[int], trigrams: bool, because: str
) -> None:
    for major in majors:
        pretend(installed, major, trigrams=trigrams)
    with Processes(tmp_path / "logs") as processes:
        opened = await open_database(processes, tmp_path)
    assert opened.environment == {}
    assert re.search(because, opened.line)
    assert "longer" in opened.line
    assert "apt-get install -y --no-install-recommends postgresql" in opened.line


def test_an_account_that_postgresql_cannot_use_means_sqlite(
    tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(installed, 15)
    monkeypatch.setattr(database, "account", lambda: None)
    choice = choose(tmp_path)
    assert isinstance(choice, Sqlite)
    assert choice.remedy


def test_the_history_that_sqlite_has_is_named_when_postgresql_takes_over(tmp_path: Path, installed: Path) -> None:
    pretend(installed, 15)
    history = tmp_path / "prefect" / "prefect.db"
    history.parent.mkdir()
    history.touch()
    assert f"sqlite+aiosqlite:///{history}" in choose(tmp_path).told


def cluster_of(version: str, folder: Path) -> Path:
    folder.mkdir()
    (folder / "PG_VERSION").write_text(version)
    return folder


def test_a_cluster_is_run_by_the_version_that_made_it(tmp_path: Path, installed: Path) -> None:
    older = pretend(installed, 15)
    pretend(installed, 17)
    cluster = cluster_of("15\n", tmp_path / "postgres")
    assert choose(tmp_path) == Private(Cluster(cluster, older, database.account()), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("majors", [[], [17]])
def test_a_cluster_of_a_version_that_is_gone_is_an_error_and_stays_as_it_is(
    tmp_path: Path, installed: Path, majors: list[int]
) -> None:
    for major in majors:
        pretend(installed, major)
    cluster = cluster_of("15\n", tmp_path / "postgres")
    with pytest.raises(Permanent, match="made by PostgreSQL 15") as refused:
        choose(tmp_path)
    assert "install PostgreSQL 15" in refused.value.hint
    assert [path.name for path in cluster.iterdir()] == ["PG_VERSION"]


def test_a_folder_that_is_no_cluster_is_an_error_and_stays_as_it_is(tmp_path: Path, installed: Path) -> None:
    pretend(installed, 15)
    (tmp_path / "postgres").mkdir()
    with pytest.raises(Permanent, match="no PostgreSQL cluster"):
        choose(tmp_path)
    assert (tmp_path / "postgres").exists()


async def test_a_cluster_that_cannot_be_made_means_sqlite_with_the_reason(tmp_path: Path, installed: Path) -> None:
    programs = pretend(installed, 15).programs
    (programs / "initdb").write_text("#!/bin/sh\necho 'initdb: error: no space left' >&2\nexit 1\n")
    with Processes(tmp_path / "logs") as processes:
        opened = await open_database(processes, tmp_path)
    assert opened.environment == {}
    assert "no space left" in opened.line
    assert not (tmp_path / "postgres").exists()
    assert not (tmp_path / "postgres.new").exists()


async def test_two_on_one_data_folder_are_one_too_many(tmp_path: Path, installed: Path) -> None:
    with Processes(tmp_path / "logs") as one, Processes(tmp_path / "logs") as other:
        await open_database(one, tmp_path)
        with pytest.raises(Permanent, match=f"another millrace .process {os.getpid()}."):
            await open_database(other, tmp_path)
    with Processes(tmp_path / "logs") as later:
        await open_database(later, tmp_path)
