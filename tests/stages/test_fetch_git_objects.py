"""What is checked after Git's own checks, as if Git had let everything pass."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localnet.git import DIRECTORY, FILE, LINK, Repository, http_backend
from millrace.errors import Declined, DeclineReason, JobFault, MillraceError, Transient
from stages.fetch.repository import objects
from stages.fetch.repository.archive import check_links, write_tar
from stages.fetch.repository.limits import GitLimits, GitRules
from stages.fetch.repository.objects import Entry, Objects
from stages.fetch.repository.process import Git, failure

pytestmark = pytest.mark.skipif(http_backend() is None, reason="Git is not installed")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


async def read(repository: Repository, commit: str, folder: Path, **limits: int) -> list[Entry]:
    """The tree of a commit in a repository whose objects nobody has checked."""
    bounds = GitLimits(**limits)
    git = Git(folder / "git", "https://source.invalid/a", "source.invalid:443:127.0.0.1", GitRules(), bounds)
    (git.folder / "objects" / "info").mkdir()
    (git.folder / "objects" / "info" / "alternates").write_text(f"{repository.folder / 'objects'}\n")
    async with Objects(git, bounds) as found:
        return await found.tree_of(commit)


async def test_a_tree_is_read_whole(repository: Repository, tmp_path: Path) -> None:
    found = await read(repository, repository.commit({"a/b": b"1", "c": b"2", "d": (LINK, b"c")}), tmp_path)
    assert {(e.path, e.kind, e.content) for e in found} == {
        ("a", objects.DIRECTORY, b""), ("a/b", objects.FILE, b"1"), ("c", objects.FILE, b"2"), ("d", objects.LINK, b"c")
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [b"", b".", b"..", b"a/b", b"../a", b"/a", b".git", b".GiT", b"GIT~1", b".git ", b".git.", b".git. .", b".git:x",
     ".g\u200cit".encode(), "\ufeff.git".encode(), b"a\\b", b"a\nb", b"a\x7f", b"\xff\xfe", "\u202egnp.exe".encode()],
)  # fmt: skip
@pytest.mark.parametrize("mode", [FILE, DIRECTORY, LINK])
async def test_names_that_mean_something_else_elsewhere(
    repository: Repository, tmp_path: Path, name: bytes, mode: str
) -> None:
    child = repository.tree([]) if mode == DIRECTORY else repository.blob(b"x")
    with pytest.raises(Declined) as caught:
        await read(repository, repository.commit_tree(repository.tree([(mode, name, child)])), tmp_path)
    assert caught.value.reason is DeclineReason.not_allowed


async def test_harmless_names_are_kept(repository: Repository, tmp_path: Path) -> None:
    names = {".gitignore", ".github", "..a", "a b", "git", "x.git", "ü", ".gitattributes", "-rf", "git~a"}
    assert {e.path for e in await read(repository, repository.commit(dict.fromkeys(names, b"x")), tmp_path)} == names


async def test_a_name_may_be_used_once(repository: Repository, tmp_path: Path) -> None:
    tree = repository.tree([(LINK, b"a", repository.blob(b"/etc")), (DIRECTORY, b"a", repository.tree([]))])
    with pytest.raises(Declined, match="same name"):
        await read(repository, repository.commit_tree(tree), tmp_path)


@pytest.mark.parametrize("mode", ["060644", "10644", "777", "-1", "120777x", ""])
async def test_modes_that_git_does_not_have(repository: Repository, tmp_path: Path, mode: str) -> None:
    tree = repository.tree([(mode, b"a", repository.blob(b"x"))])
    with pytest.raises(JobFault, match="badly formed"):
        await read(repository, repository.commit_tree(tree), tmp_path)


@pytest.mark.parametrize("tree", [b"100644 a", b"100644 a\0" + b"x" * 19, b"a\0" + b"x" * 20, b"\0" * 21, b" \0"])
async def test_half_a_tree(repository: Repository, tmp_path: Path, tree: bytes) -> None:
    with pytest.raises(MillraceError):
        await read(repository, repository.commit_tree(repository.write("tree", tree)), tmp_path)


async def test_a_file_where_a_tree_should_be(repository: Repository, tmp_path: Path) -> None:
    tree = repository.tree([(DIRECTORY, b"a", repository.blob(b"x"))])
    with pytest.raises(JobFault, match="is a blob and not a tree"):
        await read(repository, repository.commit_tree(tree), tmp_path)


async def test_a_missing_object(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(JobFault, match="missing"):
        await read(repository, repository.commit_tree("1" * 40), tmp_path)


async def test_an_object_that_is_not_what_it_is_called(repository: Repository, tmp_path: Path) -> None:
    name = hashlib.sha1(b"blob 4\0good").hexdigest()
    repository.write("blob", b"evil", name=name)
    with pytest.raises(MillraceError):
        await read(repository, repository.commit_tree(repository.tree([(FILE, b"f", name)])), tmp_path)


async def test_a_git_that_dies_is_no_defect_of_ours(repository: Repository, tmp_path: Path) -> None:
    """Killed for memory, say, in the middle of a file."""
    commit = repository.commit({"f": b"\0" * (48 << 20)})
    bounds = GitLimits()
    git = Git(tmp_path / "git", "https://source.invalid/a", "source.invalid:443:127.0.0.1", GitRules(), bounds)
    (git.folder / "objects" / "info").mkdir()
    (git.folder / "objects" / "info" / "alternates").write_text(f"{repository.folder / 'objects'}\n")
    async with Objects(git, bounds) as found:
        reading = asyncio.create_task(found.tree_of(commit))
        await asyncio.sleep(0.05)
        found._process.kill()
        (outcome,) = await asyncio.gather(reading, return_exceptions=True)
        assert isinstance(outcome, MillraceError | list)  # a list if reading was faster
        with pytest.raises(MillraceError):
            await found.tree_of(commit)


# --- links

NAMES = st.sampled_from(["..", ".", "a", "b", "c", "l0", "l1", "l2", "gone"])
PLACES = st.sampled_from(["", "a/", "a/b/", "c/"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(links=st.lists(st.tuples(PLACES, st.lists(NAMES, min_size=1, max_size=6)), min_size=1, max_size=3))
def test_what_passes_does_not_lead_out_on_a_real_file_system(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, list[str]]]
) -> None:
    entries = [Entry(path, objects.DIRECTORY) for path in ("a", "a/b", "c")]
    entries += [Entry(f"{place}l{n}", objects.LINK, "/".join(to).encode()) for n, (place, to) in enumerate(links)]
    try:
        check_links(entries)
    except Declined:
        return
    root = tmp_path_factory.mktemp("tree").resolve()
    with tarfile.open(fileobj=io.BytesIO(write_tar(entries))) as tar:
        for member in tar:  # in the archive's own order, as any tool would
            path = root / member.name
            path.mkdir() if member.isdir() else path.symlink_to(member.linkname)
    for entry in entries:
        assert (root / entry.path).resolve().is_relative_to(root)


def test_the_order_of_the_entries_does_not_matter() -> None:
    entries = [Entry("a", objects.DIRECTORY), Entry("a/x", objects.FILE, b"1"), Entry("a-b", objects.PROGRAM, b"2"),
               Entry("ü" * 120, objects.FILE, b"3")]  # fmt: skip
    assert write_tar(entries) == write_tar(entries[::-1])
    with tarfile.open(fileobj=io.BytesIO(write_tar(entries))) as tar:
        assert tar.getnames() == ["a", "a/x", "a-b", "ü" * 120]


# --- what failures mean


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ("remote: returned error: 302\nfatal: unable to access 'the address': Could not connect", Transient),
        ("remote: not our ref\nfatal: early EOF", Transient),
        ("fatal: remote error: upload-pack: not our ref " + "f" * 40, JobFault),
        ("fatal: unable to access 'the address': The requested URL returned error: 302", Declined),
        ("fatal: unable to access 'the address': The requested URL returned error: 503", Transient),
        ("fatal: unable to access 'the address': The requested URL returned error: 403", JobFault),
        ("fatal: could not read Username for 'the address': terminal prompts disabled", JobFault),
        ("error: object " + "a" * 40 + ": hasDotgit: contains '.git'\nfatal: fsck error in packed object", JobFault),
        ("fatal: Out of memory, malloc failed (tried to allocate 1 bytes)", Declined),
        ("fatal: write error: File too large", Declined),
        ("", Transient),
    ],
)
def test_failures_are_told_apart_and_what_the_host_shows_is_no_part_of_it(errors: str, kind: type) -> None:
    error = failure(128, errors)
    assert type(error) is kind
    assert error.hint
