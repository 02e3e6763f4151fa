"""Fetching a repository: exactly the commit that was asked for, and nothing that a hostile repository or host tries."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import pickle
import random
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from self_signed import self_signed

from localnet.git import (
    DIRECTORY,
    FILE,
    LINK,
    PROGRAM,
    SUBMODULE,
    Content,
    Fault,
    GitLocalnet,
    Repository,
    http_backend,
)
from millrace.errors import Declined, DeclineReason, MillraceError, Permanent, Transient
from millrace.limits import MIB
from stages.fetch.git import FetchedSource, GitLimits, GitRules, fetch_repository

pytestmark = pytest.mark.skipif(http_backend() is None, reason="git http-backend is not installed")

HERE = GitRules(hosts=("127.0.0.1",), allow_private=True)
SOURCE: dict[str, Content] = {
    "Cargo.toml": b"[package]\n",
    "src/main.rs": b"fn main() {}\n",
    "build.sh": (PROGRAM, b"#!/bin/sh\n"),
}
NOT_ALLOWED, TOO_BIG, UNSUPPORTED = DeclineReason.not_allowed, DeclineReason.too_big, DeclineReason.unsupported


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitLocalnet]:
    with GitLocalnet(tmp_path / "repositories") as host:
        yield host


@pytest.fixture
def tool(host: GitLocalnet) -> Repository:
    return host.repository("alice/tool")


@pytest.fixture(autouse=True)
def nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process and no folder outlives a fetch, however it ends."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    yield
    assert not list((tmp_path / "tmp").iterdir())
    assert not [child for child in psutil.Process().children(recursive=True) if "millrace-git-" in _cwd(child)]


def _cwd(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.Error:
        return ""


def members(source: FetchedSource) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(source.archive)) as tar:
        return {member.name: member for member in tar.getmembers()}


def content(source: FetchedSource, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(source.archive)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


async def fetch(host: GitLocalnet, repository: Repository, commit: str, **limits: float) -> FetchedSource:
    return await fetch_repository(host.url_of(repository), commit, rules=HERE, limits=GitLimits(**limits))


async def refused(host: GitLocalnet, repository: Repository, commit: str, **limits: float) -> MillraceError:
    with pytest.raises(MillraceError) as caught:
        await fetch(host, repository, commit, **limits)
    assert caught.value.hint
    return caught.value


# --- what is asked for


async def test_the_archive_holds_the_commit_and_nothing_of_when_or_where(host: GitLocalnet, tool: Repository) -> None:
    commit = tool.commit({**SOURCE, "a/b/latest": (LINK, b"../../src")})
    source = await fetch(host, tool, commit)
    assert source.commit == commit
    assert source.sha256 == hashlib.sha256(source.archive).hexdigest()
    assert (source.files, source.tree_bytes) == (4, 10 + 13 + 10 + 9)
    assert 0 < source.received_bytes < 2000
    assert source.archive_bytes == len(source.archive)
    found = members(source)
    assert list(found) == ["Cargo.toml", "a", "a/b", "a/b/latest", "build.sh", "src", "src/main.rs"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in found.values()} == {(0, 0, "", "", 0)}
    assert [oct(found[name].mode) for name in ("Cargo.toml", "build.sh", "src")] == ["0o644", "0o755", "0o755"]
    assert content(source, "src/main.rs") == b"fn main() {}\n"
    assert found["a/b/latest"].linkname == "../../src"


async def test_two_hosts_give_the_same_bytes(host: GitLocalnet, tool: Repository, tmp_path: Path) -> None:
    other = host.repository("bob/copy")
    first = await fetch(host, tool, tool.commit(SOURCE))
    second = await fetch(host, other, other.commit(SOURCE, message="another commit, the same files"))
    assert first.archive == second.archive
    assert first.commit != second.commit


@pytest.mark.parametrize("name", ["main", "v1", "v2", "feature/deep", "refs/heads/main"])
async def test_a_name_is_resolved_to_the_commit_it_has_now(host: GitLocalnet, tool: Repository, name: str) -> None:
    first = tool.commit({"f": b"1"})
    tool.tag("v1", first)
    second = tool.commit({"f": b"2"})
    tool.tag("v2", second, annotated=True)
    third = tool.commit({"f": b"3"})
    deep = tool.commit({"f": b"4"}, branch="feature/deep")
    expected = {"main": third, "v1": first, "v2": second, "feature/deep": deep, "refs/heads/main": third}
    source = await fetch(host, tool, name)
    assert (source.asked, source.commit) == (name, expected[name])


async def test_a_short_sha_finds_an_old_commit(host: GitLocalnet, tool: Repository) -> None:
    old = tool.commit(SOURCE)
    tool.commit({"other": b"2"})
    source = await fetch(host, tool, old[:8].upper())
    assert source.commit == old
    assert content(source, "src/main.rs") == b"fn main() {}\n"


async def test_a_commit_below_a_branch_is_fetched_without_its_history(host: GitLocalnet, tool: Repository) -> None:
    tool.commit({"noise": random.Random(1).randbytes(100_000)})
    old = tool.commit(SOURCE)
    tool.commit({"noise": random.Random(2).randbytes(100_000)})
    assert (await fetch(host, tool, old)).received_bytes < 2000


@pytest.mark.parametrize("commit", ["f" * 40, "f" * 8, "nowhere", "main/nowhere"])
async def test_an_unknown_commit_is_permanent(host: GitLocalnet, tool: Repository, commit: str) -> None:
    tool.commit(SOURCE)
    assert isinstance(await refused(host, tool, commit), Permanent)


@pytest.mark.parametrize("commit", ["", "--upload-pack=/bin/id", "-h", "a..b", "main:other", "+main", "a b", "m*", "é"])
async def test_a_commit_that_git_could_misread_is_never_shown_to_it(
    host: GitLocalnet, tool: Repository, commit: str
) -> None:
    tool.commit(SOURCE)
    assert isinstance(await refused(host, tool, commit), Permanent)
    assert not host.requests


async def test_a_tag_object_or_a_file_is_no_commit(host: GitLocalnet, tool: Repository) -> None:
    tag = tool.tag("v1", tool.commit(SOURCE), annotated=True)
    assert "not a commit" in (await refused(host, tool, tag)).message


async def test_the_archive_may_lie_in_a_folder(host: GitLocalnet, tool: Repository, tmp_path: Path) -> None:
    into = tmp_path / "archives"
    into.mkdir()
    commit = tool.commit(SOURCE)
    source = await fetch_repository(host.url_of(tool), commit, rules=HERE, into=into)
    assert source.archive == b""
    assert source.path == into / f"{source.sha256}.tar"
    assert source.path.read_bytes() == (await fetch(host, tool, commit)).archive
    assert list(into.iterdir()) == [source.path]
    assert pickle.loads(pickle.dumps(source)) == source


# --- where it may come from


@pytest.mark.parametrize(
    "repo",
    [
        "http://github.com/a/b",
        "https://gitlab.com/a/b",
        "https://github.com.evil.example/a/b",
        "https://api.github.com/a/b",
        "https://github.com:8443/a/b",
        "https://user:secret@github.com/a/b",
        "https://token@github.com/a/b",
        "https://github.com@evil.example/a/b",
        "https://github.com/a/../b",
        "https://github.com/a/%2e%2e/b",
        "https://github.com/a/b?x=1",
        "https://github.com/a/b#main",
        "https://github.com/a/b\n\tinsteadOf = x",
        "https://github.com/",
        "git@github.com:a/b",
        "ssh://git@github.com/a/b",
        "git://github.com/a/b",
        "file:///etc",
        "ext::sh -c id",
        "/etc",
        "--upload-pack=id",
        "",
        " https://github.com/a/b",
        "https://[::1/a/b",
        "https://github.com/" + "a" * 600,
    ],
)
async def test_an_address_off_the_list_is_declined_before_anything_is_asked(repo: str) -> None:
    async def resolve(host: str) -> list[str]:
        raise AssertionError("a name was looked up")

    with pytest.raises(Declined) as caught:
        await fetch_repository(repo, "main", resolve=resolve)
    assert caught.value.reason is NOT_ALLOWED
    assert caught.value.hint
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("ip", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "::ffff:127.0.0.1"])
async def test_a_name_that_leads_to_a_private_address_is_declined(ip: str) -> None:
    async def resolve(host: str) -> list[str]:
        return ["140.82.121.3", ip]

    with pytest.raises(Declined, match="not a public address") as caught:
        await fetch_repository("https://github.com/a/b", "main", resolve=resolve)
    assert caught.value.reason is NOT_ALLOWED


async def test_git_connects_to_the_address_that_was_checked(host: GitLocalnet, tool: Repository) -> None:
    """It must not look the name up again: the second answer may be another one."""

    async def resolve(name: str) -> list[str]:
        assert name == "source.invalid"
        return ["127.0.0.1"]

    commit = tool.commit(SOURCE)
    url = host.url_of(tool).replace("127.0.0.1", "source.invalid")
    rules = GitRules(hosts=("source.invalid",), allow_private=True)
    assert (await fetch_repository(url, commit, rules=rules, resolve=resolve)).commit == commit


async def test_a_name_without_an_address_is_transient() -> None:
    async def resolve(host: str) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(Transient, match="cannot be resolved"):
        await fetch_repository("https://github.com/a/b", "main", resolve=resolve)


async def test_nothing_of_the_worker_s_environment_reaches_git(
    host: GitLocalnet, tool: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Credentials, a configuration that redirects, and a proxy: each would show in the requests."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login worker password secret\n")
    (home / ".gitconfig").write_text(
        f'[url "http://127.0.0.1:1/"]\n\tinsteadOf = {host.url}\n[http]\n\textraHeader = "Authorization: x"\n'
    )
    for name, value in {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home), "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.proxy",
        "GIT_CONFIG_VALUE_0": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "GIT_DIR": "/nowhere",
        "GIT_ASKPASS": "/bin/echo", "GIT_TRACE": str(tmp_path / "trace"), "GIT_SSH_COMMAND": "false",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    commit = tool.commit(SOURCE)
    assert (await fetch(host, tool, commit)).commit == commit
    assert (await fetch(host, tool, "main")).commit == commit
    host.faults.add("info/refs", Fault(1, "unauthorized"))
    assert "no public repository" in (await refused(host, tool, commit)).message
    assert {credentials for _, credentials in host.requests} == {""}
    assert not (tmp_path / "trace").exists()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path / "certificate.pem", "source.invalid")


async def test_https_needs_a_certificate_that_is_believed(tmp_path: Path, certificate: Path) -> None:
    async def resolve(name: str) -> list[str]:
        return ["127.0.0.1"]

    with GitLocalnet(tmp_path / "secure", certificate=certificate) as host:
        repository = host.repository("alice/tool")
        commit = repository.commit(SOURCE)
        url = host.url_of(repository).replace("127.0.0.1", "source.invalid")
        rules = GitRules(hosts=("source.invalid",), allow_private=True)
        with pytest.raises(Transient, match="certificate"):
            await fetch_repository(url, commit, rules=rules, resolve=resolve)
        assert not host.requests
        rules = rules.model_copy(update={"ca_file": str(certificate)})
        assert (await fetch_repository(url, commit, rules=rules, resolve=resolve)).commit == commit


async def test_without_git_the_job_is_declined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def resolve(name: str) -> list[str]:
        return ["140.82.121.3"]

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Declined, match="not installed") as caught:
        await fetch_repository("https://github.com/a/b", "main", resolve=resolve)
    assert caught.value.reason is UNSUPPORTED


# --- hosts that misbehave


@pytest.mark.parametrize("method", ["info/refs", "ls-refs", "fetch"])
async def test_a_redirect_is_not_followed(host: GitLocalnet, tool: Repository, method: str) -> None:
    tool.commit(SOURCE)
    host.faults.add(method, Fault(9, "redirect"))
    error = await refused(host, tool, "main")
    assert isinstance(error, Declined)
    assert error.reason is NOT_ALLOWED
    assert not [line for line, _ in host.requests if "/redirected/" in line]


@pytest.mark.parametrize(
    "fault",
    [Fault(9, "status", status=500), Fault(9, "status", status=429), Fault(9, "reset"), Fault(9, "cut")],
    ids=["500", "429", "reset", "cut"],
)
@pytest.mark.parametrize("method", ["info/refs", "fetch"])
async def test_a_failing_host_is_transient(host: GitLocalnet, tool: Repository, method: str, fault: Fault) -> None:
    commit = tool.commit(SOURCE)
    host.faults.add(method, Fault(fault.times, fault.kind, fault.status))
    assert isinstance(await refused(host, tool, commit), Transient)
    host.faults.clear()
    assert (await fetch(host, tool, commit)).commit == commit


async def test_a_host_that_is_not_there_is_transient(host: GitLocalnet, tool: Repository) -> None:
    commit = tool.commit(SOURCE)
    url = host.url_of(tool)
    host.stop()
    with pytest.raises(Transient):
        await fetch_repository(url, commit, rules=HERE)


async def test_a_repository_that_is_not_there_is_permanent(host: GitLocalnet, tool: Repository) -> None:
    tool.commit(SOURCE)
    with pytest.raises(Permanent, match="no public repository"):
        await fetch_repository(f"{host.url}/nobody/nothing", "f" * 40, rules=HERE)


async def test_a_host_that_hangs_is_given_up(host: GitLocalnet, tool: Repository) -> None:
    commit = tool.commit(SOURCE)
    host.faults.add("fetch", Fault(9, "hang", seconds=60))
    begun = time.monotonic()
    assert isinstance(await refused(host, tool, commit, wall_seconds=1.0), Transient)
    assert time.monotonic() - begun < 10


async def test_a_cancelled_fetch_leaves_no_process(host: GitLocalnet, tool: Repository) -> None:
    """What must be gone is looked at by `nothing_stays_behind`."""
    commit = tool.commit(SOURCE)
    host.faults.add("fetch", Fault(9, "hang", seconds=60))
    fetching = asyncio.create_task(fetch(host, tool, commit))
    while not any("POST" in line for line, _ in host.requests):  # noqa: ASYNC110  it is the server's thread
        await asyncio.sleep(0.01)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching


async def test_a_pack_without_end_is_cut_at_the_limit(host: GitLocalnet, tool: Repository) -> None:
    commit = tool.commit(SOURCE)
    host.faults.add("fetch", Fault(9, "endless_pack"))
    error = await refused(host, tool, commit, received_bytes=4 * MIB)
    assert isinstance(error, Declined)
    assert error.reason is TOO_BIG
    assert "received" in error.message


async def test_an_answer_without_end_is_given_up(host: GitLocalnet, tool: Repository) -> None:
    commit = tool.commit(SOURCE)
    host.faults.add("info/refs", Fault(9, "endless"))
    await refused(host, tool, commit, wall_seconds=5.0)


# --- repositories that are too big


async def test_the_limits_are_of_what_is_unpacked_too(host: GitLocalnet, tool: Repository) -> None:
    """Zeros: 32 MiB of them are 32 KiB in the pack."""
    commit = tool.commit({"big": b"\0" * (32 * MIB)})
    error = await refused(host, tool, commit, tree_bytes=MIB)
    assert isinstance(error, Declined)
    assert error.reason is TOO_BIG
    assert (await fetch(host, tool, commit, tree_bytes=32 * MIB)).tree_bytes == 32 * MIB


async def test_more_than_the_limit_of_received_bytes_is_too_big(host: GitLocalnet, tool: Repository) -> None:
    commit = tool.commit({"noise": random.Random(3).randbytes(3 * MIB)})
    error = await refused(host, tool, commit, received_bytes=MIB)
    assert isinstance(error, Declined)
    assert error.reason is TOO_BIG


async def test_a_tree_that_holds_itself_many_times_is_too_big(host: GitLocalnet, tool: Repository) -> None:
    """A thousand million files of a few hundred bytes altogether."""
    inner = tool.tree([(FILE, b"f", tool.blob(b"x"))])
    for _ in range(9):
        inner = tool.tree([(DIRECTORY, b"d%d" % n, inner) for n in range(10)])
    error = await refused(host, tool, tool.commit_tree(inner), entries=1000)
    assert isinstance(error, Declined)
    assert error.reason is TOO_BIG


async def test_a_tree_that_is_too_deep_is_declined(host: GitLocalnet, tool: Repository) -> None:
    error = await refused(host, tool, tool.commit({"/".join("d" * 100): b"x"}))
    assert isinstance(error, Declined)
    assert error.reason is TOO_BIG


# --- repositories that try something


@pytest.mark.parametrize(
    "name",
    [
        b".git",
        b".GIT",
        b".Git",
        b"..",
        b".",
        b"a/b",
        b"../x",
        b"git~1",
        b".git\xe2\x80\x8c",
        b".git ",
        b".git::$DATA",
        b"a\\..\\b",
        b"a\nb",
        b"\x1b[2J",
        b"\xff",
    ],
)
@pytest.mark.parametrize("mode", [FILE, DIRECTORY])
async def test_evil_names_are_not_kept(host: GitLocalnet, tool: Repository, name: bytes, mode: str) -> None:
    inner = tool.tree([(FILE, b"config", tool.blob(b"[core]\n\tfsmonitor = id\n"))])
    commit = tool.commit_tree(tool.tree([(mode, name, inner if mode == DIRECTORY else tool.blob(b"x"))]))
    assert isinstance(await refused(host, tool, commit), (Permanent, Declined))


async def test_two_things_of_one_name_are_not_kept(host: GitLocalnet, tool: Repository) -> None:
    """A link and a directory: unpacked in this order, the directory's files would lie where the link leads."""
    inner = tool.tree([(FILE, b"passwd", tool.blob(b"x"))])
    commit = tool.commit_tree(tool.tree([(LINK, b"a", tool.blob(b"/etc")), (DIRECTORY, b"a", inner)]))
    assert isinstance(await refused(host, tool, commit), (Permanent, Declined))


@pytest.mark.parametrize(
    "links",
    [
        {"out": b"/etc/passwd"},
        {"out": b"../x"},
        {"src/out": b"../../x"},
        {"src/out": b"./.././../x"},
        {"a/b/c": b"../..", "out": b"a/b/c/../../x"},
        {"a/b/c": b"../..", "z": b"a/b/c/.."},
        {"out": b"nothing/../../x"},
        {"one": b"two", "two": b"one"},
        {"self": b"self"},
        {"odd": b"a\nb"},
        {"odd": b"\xff"},
        {"empty": b""},
    ],
)
async def test_links_that_lead_out_are_declined(host: GitLocalnet, tool: Repository, links: dict[str, bytes]) -> None:
    commit = tool.commit({**SOURCE, **{path: (LINK, target) for path, target in links.items()}})
    assert isinstance(await refused(host, tool, commit), (Permanent, Declined))


async def test_links_that_stay_inside_are_kept(host: GitLocalnet, tool: Repository) -> None:
    links = {"one": b"src/../Cargo.toml", "src/up": b"..", "two": b"src/up/one", "gone": b"src/not-there"}
    source = await fetch(host, tool, tool.commit({**SOURCE, **{p: (LINK, t) for p, t in links.items()}}))
    found = members(source)
    assert {path: found[path].linkname.encode() for path in links} == links


async def test_filters_and_attributes_do_nothing(host: GitLocalnet, tool: Repository) -> None:
    """Also what would only change bytes: the archive holds what was committed."""
    attributes = b"* filter=evil text eol=crlf ident\n*.rs export-ignore export-subst working-tree-encoding=UTF-16\n"
    files = {".gitattributes": attributes, "src/main.rs": b"// $Id$ $Format:%H$\n"}
    source = await fetch(host, tool, tool.commit(files))
    assert content(source, "src/main.rs") == files["src/main.rs"]


async def test_submodules_are_never_fetched(host: GitLocalnet, tool: Repository) -> None:
    inner = host.repository("mallory/inner")
    modules = f'[submodule "vendor"]\n\tpath = vendor\n\turl = {host.url_of(inner)}\n'.encode()
    files = {**SOURCE, ".gitmodules": modules, "vendor": (SUBMODULE, inner.commit(SOURCE).encode())}
    commit = tool.commit(files)
    error = await refused(host, tool, commit)
    assert isinstance(error, Declined)
    assert error.reason is UNSUPPORTED
    rules = HERE.model_copy(update={"allow_incomplete": True})
    source = await fetch_repository(host.url_of(tool), commit, rules=rules)
    assert source.left_out == ("vendor",)
    assert members(source)["vendor"].isdir()
    assert not [line for line, _ in host.requests if "mallory" in line]


@pytest.mark.parametrize("url", [b"ext::sh -c id", b"file:///etc", b"--upload-pack=id", b"https://u:p@host/x"])
async def test_what_gitmodules_says_is_text_to_us(host: GitLocalnet, tool: Repository, url: bytes) -> None:
    """Git refuses what could be an option of its own; the rest is kept as the file it is, and asked by nobody."""
    modules = b'[submodule "v"]\n\tpath = v\n\turl = ' + url + b"\n"
    commit = tool.commit({**SOURCE, ".gitmodules": modules})
    if url.startswith(b"--"):
        assert "badly formed" in (await refused(host, tool, commit)).message
    else:
        assert content(await fetch(host, tool, commit), ".gitmodules") == modules


async def test_lfs_files_are_declined_or_left_as_pointers(host: GitLocalnet, tool: Repository) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"
    commit = tool.commit({**SOURCE, "model.bin": pointer})
    error = await refused(host, tool, commit)
    assert isinstance(error, Declined)
    assert error.reason is UNSUPPORTED
    rules = HERE.model_copy(update={"allow_incomplete": True})
    source = await fetch_repository(host.url_of(tool), commit, rules=rules)
    assert source.left_out == ("model.bin",)
    assert content(source, "model.bin") == pointer


async def test_an_object_under_another_s_name_is_not_kept(host: GitLocalnet, tool: Repository) -> None:
    promised = hashlib.sha1(b"blob 4\0good").hexdigest()
    tool.write("blob", b"evil", name=promised)
    commit = tool.commit_tree(tool.tree([(FILE, b"f", promised)]))
    assert isinstance(await refused(host, tool, commit), MillraceError)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts files in /proc")  # noqa: PTH110
async def test_fetches_leave_no_file_open(host: GitLocalnet, tool: Repository) -> None:
    commit = tool.commit(SOURCE)
    await fetch(host, tool, commit)
    before = psutil.Process().num_fds()
    for _ in range(3):
        await fetch(host, tool, commit)
        await refused(host, tool, "f" * 40)
    await asyncio.sleep(0.1)
    assert psutil.Process().num_fds() <= before + 1  # a connection that the server is about to close
