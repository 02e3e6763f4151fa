"""What is read of a Cargo.toml and a Cargo.lock: a stranger wrote both."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import Declined, DeclineReason, MillraceError
from stages.compile.container import Ended, Ending
from stages.compile.dependencies.failures import judge
from stages.compile.dependencies.lock import read_lock
from stages.compile.dependencies.manifests import Outline, outline
from stages.compile.dependencies.rules import VendorLimits
from stages.compile.docker import FailureReason
from stages.compile.toml import RepositoryFault

NOT_ALLOWED, TOO_BIG, UNSUPPORTED = DeclineReason.not_allowed, DeclineReason.too_big, DeclineReason.unsupported
LIMITS = VendorLimits()
PACKAGE = b'[package]\nname = "a"\nversion = "0.1.0"\n'
SUM = "ab" * 32
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return kept.getvalue()


def of(files: Mapping[str, bytes], limits: VendorLimits = LIMITS) -> Outline:
    return outline(tar(files), limits)


def contents(shown: Outline) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(shown.archive)) as archive:
        assert all(member.isreg() for member in archive)
        return {m.name: f.read() for m in archive if (f := archive.extractfile(m)) is not None}


def test_cargo_is_shown_manifests_the_lock_and_empty_sources_only() -> None:
    manifest = PACKAGE + b'[dependencies]\nb = { path = "b" }\nserde = "1"\n'
    files = {
        "Cargo.toml": manifest,
        "Cargo.lock": b"version = 3\n",
        "src/main.rs": b"fn main() {}",
        "build.rs": b"fn main() {}",
        "b/Cargo.toml": PACKAGE,
        "b/src/lib.rs": b"pub fn b() {}",
        "other/Cargo.toml": b"not read",
        ".cargo/config.toml": b"[build]",
        "b/.cargo/config": b"[build]",
        ".cargo/trick.rs": b"",
        "rust-toolchain.toml": b"[toolchain]",
        "README.md": b"text",
    }
    shown = outline(tar(files, {"c/Cargo.toml": "../Cargo.toml", "src/link.rs": "main.rs"}), LIMITS)
    assert contents(shown) == {
        "Cargo.toml": manifest,
        "Cargo.lock": b"version = 3\n",
        "b/Cargo.toml": PACKAGE,
        "src/main.rs": b"",
        "build.rs": b"",
        "b/src/lib.rs": b"",
    }
    assert [dependency.name for dependency in shown.declared] == ["serde"]
    assert shown.empty  # by its lock


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ('["crates/*"]', {"crates/a", "crates/b"}),
        ('["crates/[a]", "./crates/deep/c/"]', {"crates/a", "crates/deep/c"}),
        ('["**"]', {"crates/a", "crates/b", "crates/deep/c", "d"}),
        ('["**/deep/**/**", "**/d/**"]', {"crates/deep/c", "d"}),
        ('["crates/**/c", "?"]', {"crates/deep/c", "d"}),
        ('["../elsewhere", "nothing/*", 7]', set()),
        ('"crates/a"', set()),
    ],
)
def test_the_members_of_a_workspace(members: str, found: set[str]) -> None:
    files = {f"{folder}/Cargo.toml": PACKAGE for folder in ("crates/a", "crates/b", "crates/deep/c", "d")}
    shown = of({"Cargo.toml": f"[workspace]\nmembers = {members}\n".encode(), **files})
    assert {name.removesuffix("/Cargo.toml") for name in shown.manifests} - {"Cargo.toml"} == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[dependencies]\nevil = { git = "https://github.com/e/evil" }', NOT_ALLOWED),
        ('[dependencies.evil]\nversion = "1"\ngit = "ext::sh -c id"', NOT_ALLOWED),
        ('[dev-dependencies]\nevil = { version = "1", registry = "own" }', NOT_ALLOWED),
        ('[build-dependencies]\nevil = { version = "1", registry-index = "https://e" }', NOT_ALLOWED),
        ("[target.'cfg(unix)'.dependencies]\nevil = { git = 'https://e' }", NOT_ALLOWED),
        ('[target.x.dev_dependencies]\nx = { package = "evil", git = "https://e" }', NOT_ALLOWED),
        ('[workspace.dependencies]\nevil = { git = "https://e" }', NOT_ALLOWED),
        ('[patch.crates-io]\nevil = { git = "https://e" }', NOT_ALLOWED),
        ('[patch."https://evil"]\nx = { path = "x" }', NOT_ALLOWED),
        ('[replace]\n"evil:1.0.0" = { git = "https://e" }', NOT_ALLOWED),
        ('[dependencies]\nevil = { path = "../evil" }', UNSUPPORTED),
        ('[dependencies]\nevil = { path = "/etc" }', UNSUPPORTED),
        ('[dependencies]\nevil = { path = "src/../../x/../.." }', UNSUPPORTED),
    ],
)
def test_a_dependency_from_elsewhere_is_declined_by_name(text: str, reason: DeclineReason) -> None:
    with pytest.raises(Declined, match="evil") as declined:
        of({"Cargo.toml": PACKAGE + text.encode()})
    assert declined.value.reason is reason


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"a = " + b"[" * 10_000,
        b"a" + b".a" * 50_000 + b" = 1",
        b"a = " + b"1" * 10_000,
        b"\xff\xfe",
        b"a = 1\na = 2",
        b"a = 2000-99-99",
        b'a = "\\ud800"',
        b"\0",
    ],
)
def test_what_is_no_toml_is_the_repositorys_fault(content: bytes) -> None:
    for files in ({"Cargo.toml": content}, {"Cargo.toml": PACKAGE, "Cargo.lock": content}):
        with pytest.raises(RepositoryFault) as failed:
            of(files)
        assert failed.value.reason is FailureReason.no_project


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({"Cargo.toml": PACKAGE + b"#" * 2000}, {"manifest_bytes": 1000}),
        ({"Cargo.toml": PACKAGE, "Cargo.lock": b"#" * 2000}, {"lock_bytes": 1000}),
        (
            {"Cargo.toml": b'[workspace]\nmembers = ["*"]\n'} | {f"{n}/Cargo.toml": PACKAGE for n in "abcd"},
            {"manifests": 3},
        ),
        ({"Cargo.toml": b'[workspace]\nmembers = ["a", "b", "c", "d"]\n'}, {"manifests": 3}),
    ],
)
def test_more_than_the_limits_is_declined(files: dict[str, bytes], limits: dict[str, int]) -> None:
    with pytest.raises(Declined) as declined:
        of(files, LIMITS.model_copy(update=limits))
    assert declined.value.reason is TOO_BIG


def test_a_path_to_nothing_is_the_repositorys_fault() -> None:
    with pytest.raises(RepositoryFault, match="gone"):
        of({"Cargo.toml": PACKAGE + b'[dependencies]\ngone = { path = "gone" }\n'})


def test_packages_that_depend_on_each_other_end() -> None:
    shown = of(
        {
            "Cargo.toml": PACKAGE + b'[dependencies]\nb = { path = "b" }\n',
            "b/Cargo.toml": PACKAGE + b'[dev-dependencies]\na = { path = ".." }\nb = { path = "../b" }\n',
        }
    )
    assert shown.manifests == ("Cargo.toml", "b/Cargo.toml")
    assert shown.empty


def lock(*entries: str) -> bytes:
    return "".join(f"[[package]]\n{entry}\n" for entry in entries).encode()


def test_locks_old_and_new_say_the_same() -> None:
    entry = f'name = "serde"\nversion = "1.0.1"\nsource = "{REGISTRY}"\n'
    own = 'name = "guest"\nversion = "0.1.0"\n'
    new = read_lock(b"version = 4\n" + lock(own, f'{entry}checksum = "{SUM}"'), LIMITS)
    old = read_lock(lock(own, entry) + f'[metadata]\n"checksum serde 1.0.1 ({REGISTRY})" = "{SUM}"\n'.encode(), LIMITS)
    assert new.crates == old.crates
    assert [(crate.folder, crate.checksum) for crate in new.crates] == [("serde-1.0.1", SUM)]


@pytest.mark.parametrize(
    "entry",
    [
        f'name = "../evil"\nversion = "1.0.0"\nsource = "{REGISTRY}"\nchecksum = "{SUM}"',
        f'name = "evil"\nversion = "1.0.0/.."\nsource = "{REGISTRY}"\nchecksum = "{SUM}"',
        f'name = "evil"\nversion = "1.0.0"\nsource = "{REGISTRY}"',
        f'name = "evil"\nversion = "1.0.0"\nsource = "{REGISTRY}"\nchecksum = "{SUM[:-1]}"',
        f'name = "evil"\nsource = "{REGISTRY}"\nchecksum = "{SUM}"',
        'version = "1.0.0"',
        "name = 7\nversion = 7",
    ],
)
def test_a_lock_with_something_odd_in_it_is_none(entry: str) -> None:
    with pytest.raises(RepositoryFault):
        read_lock(lock(entry), LIMITS)
    with pytest.raises(RepositoryFault):
        read_lock(b"package = 7\n", LIMITS)


@pytest.mark.parametrize("source", ["git+https://github.com/e/evil#abc", "registry+https://evil", "sparse+https://e/"])
def test_a_lock_that_leads_elsewhere_is_declined_by_name(source: str) -> None:
    with pytest.raises(Declined, match=r"evil 1\.0\.0") as declined:
        read_lock(lock(f'name = "evil"\nversion = "1.0.0"\nsource = "{source}"\nchecksum = "{SUM}"'), LIMITS)
    assert declined.value.reason is NOT_ALLOWED


def test_patterns_that_match_in_many_ways_are_matched_in_no_time() -> None:
    """Each pattern took time for each folder, and for each way to match it: the worst of them hours in all."""
    deep = ["/".join(["a"] * depth) for depth in range(1, 250)]
    pattern = "/".join(["**", "a"] * 90)
    files = {"Cargo.toml": f'[workspace]\nmembers = ["{pattern}/b"]'.encode()}
    files |= {f"{folder}/c/Cargo.toml": PACKAGE for folder in deep}
    began = time.process_time()
    assert of(files | {f"{deep[89]}/b/Cargo.toml": PACKAGE}).manifests == ("Cargo.toml", f"{deep[89]}/b/Cargo.toml")
    assert time.process_time() - began < 1.5
    with pytest.raises(Declined, match="more than 200 members") as declined:
        of(files | {"Cargo.toml": f'[workspace]\nmembers = ["{pattern}/b", "{pattern}/c"]'.encode()})
    assert declined.value.reason is TOO_BIG


@pytest.mark.parametrize("line", ["a.{}b{} = 1", "[[x.{}b]]\nb{} = 1", "b{1} = [{{ a.{0}b = 1 }}]"])
def test_long_keys_beneath_long_headers_do_not_keep_the_worker_busy(line: str) -> None:
    """A file of them took six seconds, and there may be two hundred files."""
    header = "[" + "h." * 60 + "h]\n"
    text = header + "".join(line.format("a." * 60, count) + "\n" for count in range(1_000))
    began = time.process_time()
    with pytest.raises(RepositoryFault, match="more than 32 dots"):
        of({"Cargo.toml": text.encode()})
    assert time.process_time() - began < 0.5


def test_dots_within_strings_are_no_parts_of_keys() -> None:
    named = ", ".join(f"\"src/{n}.rs\", '.{n}'" for n in range(40))
    assert of({"Cargo.toml": PACKAGE + f"include = [{named}]\n".encode()}).empty
    unended = 'a = "' + '\\"' * 100_000 + "." * 150
    began = time.process_time()
    with pytest.raises(RepositoryFault, match="no TOML"):
        of({"Cargo.toml": unended.encode()})
    assert time.process_time() - began < 1.0


def test_manifests_that_are_too_long_together_are_declined() -> None:
    files = {f"{n}/Cargo.toml": PACKAGE + b"#" * 400 for n in range(10)}
    files["Cargo.toml"] = b'[workspace]\nmembers = ["*"]'
    assert len(of(files, VendorLimits(manifests_bytes=5_000)).manifests) == 11
    with pytest.raises(Declined, match="longer than 4000 bytes") as declined:
        of(files, VendorLimits(manifests_bytes=4_000))
    assert declined.value.reason is TOO_BIG


_KEYS = st.sampled_from(
    [
        "package",
        "workspace",
        "members",
        "dependencies",
        "target",
        "patch",
        "replace",
        "git",
        "path",
        "version",
        "crates-io",
    ]
)
_VALUES = st.recursive(
    st.sampled_from(["1", "..", "../..", "/", "b", "*", "**/*", "", "\0", "[", "crates-io"])
    | st.booleans()
    | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(inner)}' for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool | int):
        return str(value).lower()
    return '"' + str(value).replace("\0", "\\u0000") + '"'


@given(st.dictionaries(_KEYS, _VALUES, max_size=6), st.binary(max_size=50))
def test_whatever_a_manifest_holds_the_answer_is_an_outline_or_a_reason(
    document: dict[str, object], junk: bytes
) -> None:
    text = "".join(f'"{key}" = {_toml(value)}\n' for key, value in document.items()).encode()
    for content in (text, junk, text + junk):
        try:
            shown = of({"Cargo.toml": content, "b/Cargo.toml": content, "b/src/lib.rs": b"x"})
        except (RepositoryFault, Declined):
            continue
        assert set(contents(shown)) <= {"Cargo.toml", "b/Cargo.toml", "b/src/lib.rs"}


def ended(ending: Ending, log: str = "", *, code: int | None = 101, too_long: str = "") -> Ended:
    return Ended(ending, code, b"", log.encode(), too_long, 1.0, None, None)


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        (
            "error: failed to sync\n\nCaused by:\n  no matching package named `x` found\nlocation searched: i",
            "RepositoryFault",
        ),
        ("error: the lock file /tmp/work/Cargo.lock needs to be updated but --locked was passed", "RepositoryFault"),
        ("warning: spurious network error (2 tries remaining): [28] Timeout was reached", "Transient"),
        ("Caused by:\n  failed to get successful HTTP response from `http://x` (127.0.0.1), got 503", "Transient"),
        ("Caused by:\n  failed to write\n\nCaused by:\n  No space left on device (os error 28)", "Declined"),
        ("", "RepositoryFault"),
    ],
)
def test_what_cargo_said_decides_whether_it_is_tried_again(log: str, kind: str) -> None:
    with pytest.raises(MillraceError) as failed:
        judge(ended(Ending.exit, log), [], LIMITS)
    assert type(failed.value).__name__ == kind
    with pytest.raises(MillraceError, match="no matching package named `x`"):
        judge(ended(Ending.exit, "error: a\n\nCaused by:\n  no matching package named `x` found\nb"), [], LIMITS)


def test_a_stranger_cannot_move_the_cursor_of_whoever_reads_why() -> None:
    with pytest.raises(RepositoryFault) as failed:
        judge(ended(Ending.exit, "error: \x1b[2J\u202ename"), [], LIMITS)
    assert "\x1b" not in str(failed.value) + failed.value.log
    assert "\u202e" not in str(failed.value) + failed.value.log
