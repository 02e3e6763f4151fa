"""The stand-in for a Git host, as plain Git sees it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from localnet.git import LINK, PROGRAM, Fault, GitLocalnet, http_backend

pytestmark = pytest.mark.skipif(http_backend() is None, reason="git http-backend is not installed")

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitLocalnet]:
    with GitLocalnet(tmp_path / "repositories") as host:
        yield host


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


def test_plain_git_clones_what_was_committed(host: GitLocalnet, tmp_path: Path) -> None:
    repository = host.repository("alice/tool")
    repository.commit({"README": b"first\n"})
    commit = repository.commit(
        {"README": b"second\n", "src/deep/main.rs": b"fn main() {}\n", "run": (PROGRAM, b"#!/bin/sh\n"),
         "link": (LINK, b"src/deep")}
    )  # fmt: skip
    repository.tag("v1", commit, annotated=True)
    clone = tmp_path / "clone"
    assert git("clone", host.url_of(repository), str(clone)).returncode == 0
    assert (clone / "link" / "main.rs").read_bytes() == b"fn main() {}\n"
    assert (clone / "run").stat().st_mode & 0o111
    assert git("-C", str(clone), "rev-parse", "v1^{commit}").stdout.strip() == commit
    assert git("-C", str(clone), "rev-list", "--count", "HEAD").stdout.strip() == "2"
    assert git("-C", str(clone), "fsck", "--strict").returncode == 0
    assert "POST /alice/tool/git-upload-pack" in [line for line, _ in host.requests]


def test_the_same_files_give_the_same_commit(tmp_path: Path) -> None:
    with GitLocalnet(tmp_path / "one") as one, GitLocalnet(tmp_path / "two") as two:
        assert one.repository("a").commit({"f": b"x"}) == two.repository("b").commit({"f": b"x"})


def test_a_repository_that_is_not_there_is_a_404(host: GitLocalnet) -> None:
    (host.folder).mkdir(exist_ok=True)
    assert "not found" in git("ls-remote", f"{host.url}/nobody/nothing").stderr


@pytest.mark.parametrize(
    ("method", "fault", "said"),
    [
        ("info/refs", Fault(1, "status", status=500), "error: 500"),
        ("ls-refs", Fault(1, "status", status=429), "error: 429"),
        ("info/refs", Fault(1, "unauthorized"), "could not read Username"),
        ("fetch", Fault(1, "cut"), "fatal"),
        ("fetch", Fault(9, "reset"), "fatal"),
    ],
)
def test_faults_meet_plain_git_and_end(host: GitLocalnet, tmp_path: Path, method: str, fault: Fault, said: str) -> None:
    repository = host.repository("alice/tool")
    repository.commit({"README": b"first\n" * 100})
    host.faults.add(method, fault)
    failed = git("clone", host.url_of(repository), str(tmp_path / "clone"))
    assert failed.returncode
    assert said in failed.stderr
    host.faults.clear()
    assert git("clone", host.url_of(repository), str(tmp_path / "again")).returncode == 0


def test_a_redirect_leads_where_it_was_told_to(host: GitLocalnet) -> None:
    repository = host.repository("alice/tool")
    repository.commit({"README": b"first\n"})
    host.faults.add("info/refs", Fault(1, "redirect"))
    git("ls-remote", host.url_of(repository))
    assert host.requests[-1][0].startswith("GET /redirected/alice/tool/info/refs")


def test_an_unknown_fault_is_refused(host: GitLocalnet) -> None:
    with pytest.raises(ValueError, match="no fault is called"):
        host.faults.add("fetch", Fault(1, "gzip_bomb"))
