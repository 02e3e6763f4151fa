"""The folder of fetched commits: shared, bounded, and swept of what killed fetches leave."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from localnet.git import GitLocalnet, http_backend
from millrace.settings import CompileSettings, Settings
from stages.fetch.sources import Sources, fetch_commit

pytestmark = pytest.mark.skipif(http_backend() is None, reason="needs git with its HTTP backend; apt-get install git")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitLocalnet]:
    with GitLocalnet(tmp_path / "git") as running:
        yield running


def settings() -> Settings:
    return Settings(compile=CompileSettings(hosts=("127.0.0.1",), allow_private_hosts=True))


async def test_the_same_commit_is_one_archive(host: GitLocalnet, tmp_path: Path) -> None:
    repository = host.repository("a/b")
    commit = repository.commit({"x": b"1"})
    sources = Sources(tmp_path / "sources")
    fetched = [
        await fetch_commit(host.url_of(repository), wanted, sources=sources, settings=settings())
        for wanted in (commit, "main")
    ]
    assert fetched[0].sha256 == fetched[1].sha256
    assert sources.has(fetched[0].sha256)
    assert [path.name for path in (tmp_path / "sources").iterdir()] == [f"{fetched[0].sha256}.tar"]


async def test_the_oldest_archives_make_room_and_what_a_killed_fetch_left_goes(
    host: GitLocalnet, tmp_path: Path
) -> None:
    repository = host.repository("a/b")
    folder = tmp_path / "sources"
    sources = Sources(folder, kept_bytes=70_000)
    shas = []
    for number in range(4):
        commit = repository.commit({"x": bytes([number]) * 20_000})
        fetched = await fetch_commit(host.url_of(repository), commit, sources=sources, settings=settings())
        shas.append(fetched.sha256)
        os.utime(sources.path_of(fetched.sha256), (number + 1, number + 1))
    abandoned, fresh = folder / "millrace-git-dead", folder / "millrace-git-alive"
    for each in (abandoned, fresh):
        each.mkdir()
    (folder / ".millrace-git-half").write_bytes(b"half")
    for each in (abandoned, folder / ".millrace-git-half"):
        os.utime(each, (time.time() - 7_200,) * 2)
    commit = repository.commit({"x": b"last"})
    last = await fetch_commit(host.url_of(repository), commit, sources=sources, settings=settings())
    assert [sources.has(sha) for sha in shas] == [False, False, True, True]
    assert sources.has(last.sha256)
    assert fresh.exists()
    assert not abandoned.exists()
    assert not (folder / ".millrace-git-half").exists()
