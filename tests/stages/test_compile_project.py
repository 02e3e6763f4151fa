"""What is told of a repository before anything of it runs, and of a log after: no engine is needed for either."""

from __future__ import annotations

import io
import tarfile
import unicodedata

import pytest
from compile_world import LIBRARY, manifest, source
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import Declined, DeclineReason
from stages.compile.container import Ended, Ending
from stages.compile.docker import CompileFailure, FailureReason, plain_log
from stages.compile.failure import failure
from stages.compile.limits import BuildLimits
from stages.compile.links import without_links
from stages.compile.project import examine
from stages.compile.target import BuildTarget, build_target

BARE, WASI, COMPONENT = BuildTarget.bare, BuildTarget.wasi_p1, BuildTarget.wasi_p2
MAIN = {"src/main.rs": ""}
LOCK = """
version = 4
[[package]]
name = "tool"
version = "0.1.0"
[[package]]
name = "serde"
version = "1.0.200"
source = "registry+https://github.com/rust-lang/crates.io-index"
[[package]]
name = "itoa"
version = "1.0.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
"""


def archive(files: dict[str, str]) -> bytes:
    return source(files).archive


def test_targets_go_by_rust_s_names_of_today_and_of_yesterday() -> None:
    assert build_target("wasm32-wasi") is build_target("wasm32-wasip1") is WASI
    assert (build_target("wasm32-unknown-unknown"), build_target("wasm32-wasip2")) == (BARE, COMPONENT)


@pytest.mark.parametrize(
    "name", ["", "x86_64-unknown-linux-gnu", "wasm32-wasip3", "wasm32-wasi ", "--help", "../x", "\x1b[31m"]
)
def test_other_targets_are_declined_by_name(name: str) -> None:
    with pytest.raises(Declined, match="the target") as caught:
        build_target(name)
    assert caught.value.reason is DeclineReason.unsupported
    assert "wasm32-wasip1" in caught.value.hint
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "target", "selection"),
    [
        ({"Cargo.toml": manifest(), **MAIN}, WASI, ("--bins",)),
        ({"Cargo.toml": manifest(), **MAIN}, BARE, ("--bins",)),
        ({"Cargo.toml": manifest(), "src/bin/a.rs": ""}, WASI, ("--bins",)),
        ({"Cargo.toml": manifest(), "src/bin/a/main.rs": ""}, WASI, ("--bins",)),
        ({"Cargo.toml": manifest('[[bin]]\nname = "a"\npath = "a.rs"\n')}, WASI, ("--bins",)),
        ({"Cargo.toml": LIBRARY, "src/lib.rs": ""}, BARE, ("--lib",)),
        ({"Cargo.toml": LIBRARY, "src/lib.rs": ""}, WASI, ("--lib",)),
        ({"Cargo.toml": LIBRARY, "src/lib.rs": "", **MAIN}, BARE, ("--lib",)),
        ({"Cargo.toml": LIBRARY, "src/lib.rs": "", **MAIN}, COMPONENT, ("--bins",)),
        ({"Cargo.toml": LIBRARY.replace("crate-type", "crate_type"), "src/lib.rs": ""}, BARE, ("--lib",)),
        ({"Cargo.toml": '[workspace]\nmembers = ["a"]\n'}, BARE, ()),
    ],
)
def test_a_library_is_built_for_the_bare_target_and_a_program_for_wasi(
    files: dict[str, str], target: BuildTarget, selection: tuple[str, ...]
) -> None:
    project = examine(archive(files), target)
    assert (project.language, project.selection, project.locked) == ("rust", selection, False)


def test_dependencies_are_fit_to_be_shown() -> None:
    """They go into a report as they are, and a lock file may call them anything."""
    lock = '[[package]]\nname = "\\u001b[1m\\u202e"\nversion = "v"\nsource = "x"\n'
    long = f'[[package]]\nname = "{"n" * 9_000}"\nversion = "v"\nsource = "x"\n'
    found = examine(archive({"Cargo.toml": manifest(), **MAIN, "Cargo.lock": lock + long}), WASI).dependencies
    assert found[0] == "\\x1b[1m\\u202e v"
    assert len(found[1]) < 300


def test_dependencies_are_those_of_the_lock_file_that_come_from_elsewhere() -> None:
    files = {"Cargo.toml": manifest(), **MAIN}
    locked = examine(archive({**files, "Cargo.lock": LOCK}), WASI)
    assert (locked.locked, locked.dependencies) == (True, ("itoa 1.0.0", "serde 1.0.200"))
    assert examine(archive(files), WASI, archive({"Cargo.lock": LOCK})).dependencies == locked.dependencies
    own = examine(archive({**files, "Cargo.lock": "version = 4"}), WASI, archive({"Cargo.lock": LOCK}))
    assert own.dependencies == (), "its own lock file counts"


@pytest.mark.parametrize("files", [{"Makefile": ""}, {"a.c": ""}, {"src/a.c": ""}])
def test_c_is_what_has_a_makefile_or_c_files_where_they_are_looked_for(files: dict[str, str]) -> None:
    assert examine(archive(files), WASI).language == "c"


@pytest.mark.parametrize(
    "files", [{}, {"README.md": ""}, {"deep/in/a.c": ""}, {"tool/Cargo.toml": manifest()}, {"Cargo.lock": LOCK}]
)
def test_what_is_neither_rust_nor_c_is_no_project(files: dict[str, str]) -> None:
    with pytest.raises(CompileFailure, match="neither a Cargo") as caught:
        examine(archive(files), WASI)
    assert caught.value.reason is FailureReason.no_project


@pytest.mark.parametrize(
    "text",
    [
        "[package",
        "package = 1",
        "a = " + "[" * 200_000,
        "x" * (2 << 20),
        '[package]\nname = "\ud800"'.encode("utf-8", "surrogatepass").decode("latin-1") + "\xff",
    ],
    ids=["cut", "no table", "deep", "long", "bytes"],
)
def test_a_manifest_that_cannot_be_read_is_the_repository_s_fault(text: str) -> None:
    with pytest.raises(CompileFailure) as caught:
        examine(archive({"Cargo.toml": text, **MAIN}), WASI)
    assert caught.value.reason is FailureReason.no_project
    assert len(str(caught.value)) < 1000


def test_a_manifest_that_is_a_link_is_not_followed() -> None:
    """What it leads to is not known before it is unpacked."""
    linked = source({"rust/Cargo.toml": manifest()}, links={"Cargo.toml": "rust/Cargo.toml"}).archive
    with pytest.raises(CompileFailure, match="is not a file"):
        examine(linked, WASI)


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=150)


@given(st.dictionaries(NAMES, st.one_of(st.binary(max_size=50), NAMES), max_size=6))
def test_links_are_told_apart_and_everything_else_stays(things: dict[str, bytes | str]) -> None:
    files = {name: thing for name, thing in things.items() if isinstance(thing, bytes)}
    links = {name: thing for name, thing in things.items() if isinstance(thing, str)}
    rest, told = without_links(source(files, links=links).archive)
    assert rest == source(files).archive
    parts = told.decode().split("\0")[:-1]
    assert dict(zip(parts[1::2], parts[::2], strict=True)) == links


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_manifest_and_no_lock_file_raises_anything_else(toml: bytes, lock: bytes) -> None:
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as tar:
        for name, content in (("Cargo.toml", toml), ("Cargo.lock", lock), ("src/main.rs", b"")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    try:
        examine(kept.getvalue(), WASI)
    except CompileFailure as error:
        assert error.reason is FailureReason.no_project  # noqa: PT017


@given(st.binary(max_size=500))
def test_a_log_is_always_safe_to_print(log: bytes) -> None:
    kinds = {unicodedata.category(character) for character in plain_log(log) if character != "\n"}
    assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def test_colours_go_and_what_hides_becomes_visible() -> None:
    log = b"\x1b[1;31merror\x1b[0m: \x1b]0;title\x07a\r\n\tb\x1b]never ended \xe2\x80\xae\xff\r"
    assert plain_log(log) == "error: a\n    b\\x1b]never ended \\u202e\N{REPLACEMENT CHARACTER}\\x0d"


def ended(ending: Ending = Ending.exit, code: int | None = 71, too_long: str = "") -> Ended:
    return Ended(ending, code, b"", b"", too_long, 1.5, None, None)


@pytest.mark.parametrize(
    ("how", "log", "reason", "says"),
    [
        (ended(), "error: bad\n", FailureReason.compile_error, "error: bad"),
        (ended(), "x.c:1: error: worse", FailureReason.compile_error, "error: worse"),
        (ended(), "", FailureReason.compile_error, "exit code 71"),
        (ended(), "os error 28: No space left on device", FailureReason.disk_full, "no room"),
        (ended(code=70), "tar: No space left on device", FailureReason.disk_full, "no room"),
        (ended(code=70), "millrace: not unpacked", FailureReason.no_project, "not unpacked"),
        (ended(code=72), "No space left on device", FailureReason.no_artifact, "no module came"),
        (ended(code=73), "millrace: more than one: a b", FailureReason.several_artifacts, "a b"),
        (ended(code=75), "", FailureReason.artifact_too_large, "8388608"),
        (ended(), "error: no matching package named `x`", FailureReason.missing_dependency, "`x`"),
        (ended(Ending.killed, 137), "", FailureReason.killed, "signal 9"),
        (ended(Ending.timeout, None), "No space left on device", FailureReason.timeout, "300 s"),
        (ended(Ending.oom, None), "", FailureReason.out_of_memory, "2147483648"),
        (ended(Ending.output_limit, None, "log"), "", FailureReason.log_too_long, "1048576"),
        (ended(Ending.output_limit, None, "artifact"), "", FailureReason.artifact_too_large, "8388608"),
    ],
)
def test_every_end_of_a_container_has_a_reason(how: Ended, log: str, reason: FailureReason, says: str) -> None:
    error = failure(how, log, BuildLimits())
    assert error.reason is reason
    assert says in error.message
    assert (error.log, error.seconds) == (log, 1.5)
