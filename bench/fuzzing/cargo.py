"""What a stranger's Cargo.toml and Cargo.lock say, what cargo fetched for them, and what its proxy is asked."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator

import h11

from bench.fuzzing.decoder import Bytes, Decoder, agree, presentable, well_said
from millrace.errors import Declined
from stages.compile.dependencies.crates import check_crates
from stages.compile.dependencies.lock import Locked, read_lock
from stages.compile.dependencies.manifests import Outline, outline
from stages.compile.dependencies.request import BadRequest, parse_request
from stages.compile.dependencies.rules import VendorLimits
from stages.compile.failure import CompileFailure
from stages.compile.project import Project, examine
from stages.compile.target import BuildTarget
from stages.compile.toml import RepositoryFault
from stages.fetch.repository.archive import write_tar
from stages.fetch.repository.objects import FILE, LINK, Entry, _checked

_LIMITS = VendorLimits(packages=5, manifests=4, files=12, lock_bytes=2_000, manifest_bytes=2_000)
_TARGETS = tuple(BuildTarget)
_BLOCK = 512
_SUM = "ab" * 32
_SOURCE = "registry+https://github.com/rust-lang/crates.io-index"


def check_project(given: bytes) -> None:
    """A byte says for which target; what follows is names and contents in turn, between zeros; `@name` is a link."""
    source = Bytes(given)
    target = _TARGETS[source.byte() % len(_TARGETS)]
    archive = _repository(source.rest())
    try:
        project = examine(archive, target)
    except CompileFailure as error:
        well_said(error)
    else:
        _check_project(project)
    try:
        shown = outline(archive, _LIMITS)
    except (RepositoryFault, Declined) as error:
        well_said(error)
        return
    _check_outline(shown)


def _repository(given: bytes) -> bytes:
    """As a tar, of the names that a fetch lets through."""
    entries: dict[str, Entry] = {}
    parts = given.split(b"\0")
    for raw, content in zip(parts[::2], parts[1::2], strict=False):
        kind = LINK if raw.startswith(b"@") else FILE
        try:
            path = "/".join(_checked(part) for part in raw.removeprefix(b"@").split(b"/"))
        except Declined:
            continue
        entries[path] = Entry(path, kind, b"Cargo.lock" if kind == LINK else content)
    return write_tar(list(entries.values()))


def _check_project(project: Project) -> None:
    agree(project.selection in ((), ("--lib",), ("--bins",)), "arguments that are a stranger's")
    for dependency in project.dependencies:
        presentable(dependency, 300)


def _check_outline(shown: Outline) -> None:
    """Nothing but manifests, the lock and empty sources; and the outline of an outline is the same one."""
    with tarfile.open(fileobj=io.BytesIO(shown.archive)) as tar:
        files = {member.name: member for member in tar}
        for name, member in files.items():
            parts = name.split("/")
            known = name in shown.manifests or name == "Cargo.lock" or (name.endswith(".rs") and member.size == 0)
            agree(member.isreg() and known, "something that cargo need not see")
            agree(not {"", "..", ".", ".cargo", ".git"} & set(parts), "a name that cargo would obey")
    agree(set(shown.manifests) <= files.keys() and len(shown.manifests) <= _LIMITS.manifests, "other manifests")
    for dependency in shown.declared:
        agree(dependency.folder is None, "a dependency of the repository's own")
        presentable(dependency.name, 100)
    agree(outline(shown.archive, _LIMITS) == shown, "another outline of the outline")
    if shown.locked is not None:
        _check_locked(shown.locked)


def check_lock(given: bytes) -> None:
    try:
        locked = read_lock(given, _LIMITS)
    except (RepositoryFault, Declined) as error:
        well_said(error)
        return
    _check_locked(locked)


def _check_locked(locked: Locked) -> None:
    agree(len(locked.crates) <= _LIMITS.packages, "more crates than the limit")
    agree(len({crate.folder for crate in locked.crates}) == len(locked.crates), "two crates in one folder")
    text = locked.content.decode()
    for crate in locked.crates:
        agree(re.fullmatch(r"\w[\w-]*-\d[\w.+-]*", crate.folder, re.ASCII) is not None, "a folder that leads elsewhere")
        agree(len(bytes.fromhex(crate.checksum)) == 32, "a checksum of another length")
        # An escape in a string would be another way to write it, which cargo never does and TOML allows.
        agree("\\" in text or (crate.checksum in text and crate.name in text), "a crate of nowhere")


def check_archive(given: bytes) -> None:
    """The tar that came out of the container, with the checksums of its headers put right: an attacker would.

    What passes has the crates that the lock names and nothing else, and can be read again for the build.
    """
    archive = _with_checksums(given)
    for expected in (None, _expected()):
        try:
            locked = check_crates(archive, expected, _LIMITS)
        except (RepositoryFault, Declined) as error:
            well_said(error)
            continue
        _check_locked(locked)
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            members = list(tar)
            agree(not archive[tar.offset :].strip(b"\0"), "something that another reader would go on to")
        agree(len(members) <= _LIMITS.files, "more files than the limit")
        folders = set()
        for member in members:
            parts = member.name.split("/")
            agree((member.isreg() or member.isdir()) and not {"", ".", ".."} & set(parts), "no plain file")
            agree(member.name == "Cargo.lock" or parts[0] == "vendor", "a file beside the crates")
            folders |= set(parts[1:2])
        agree(folders == {crate.folder for crate in locked.crates}, "other crates than the lock's")
        _check_project(examine(_rust(), BuildTarget.bare, archive))


def _with_checksums(given: bytes) -> bytes:
    """The tar, padded to whole blocks, with the right checksum in each of its headers."""
    fixed = bytearray(given + bytes(-len(given) % _BLOCK))
    at = 0
    while at < len(fixed) and any(fixed[at : at + _BLOCK]):
        fixed[at + 148 : at + 156] = b" " * 8
        fixed[at + 148 : at + 156] = b"%06o\0 " % sum(fixed[at : at + _BLOCK])
        size = fixed[at + 124 : at + 136].rstrip(b"\0 ")
        # In octal, or with the first bit set as a number in bytes.
        long = int(size, 8) if re.fullmatch(rb"[0-7]+", size) else 0
        at += _BLOCK * (1 + -(-long // _BLOCK))
    return bytes(fixed) + bytes(2 * _BLOCK)


def _expected() -> Locked:
    return read_lock(_lock(), _LIMITS)


def _rust() -> bytes:
    return write_tar([Entry("Cargo.toml", FILE, _manifest()), Entry("src/lib.rs", FILE, b"")])


def check_request(given: bytes) -> None:
    """What is passed on means the same to a server that reads HTTP by the book, and is one request without a body."""
    try:
        request = parse_request(given)
    except BadRequest as error:
        presentable(str(error))
        return
    agree(0 < request.port < 65_536 and request.host == request.host.lower(), "an odd port or host")
    agree(re.fullmatch(r"[a-z0-9.:-]+", request.host) is not None, "a host with something in it")
    if request.forwarded is None:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(request.forwarded)
    head, end = server.next_event(), server.next_event()
    if not isinstance(head, h11.Request) or not isinstance(end, h11.EndOfMessage):
        agree(False, "no request without a body")
        return
    fields = [name for name, _ in head.headers]
    agree(fields.count(b"host") == 1 and fields.count(b"connection") == 1, "two hosts")
    agree(not {b"cookie", b"authorization", b"proxy-authorization", b"te"} & set(fields), "who asks is told")
    agree(server.trailing_data == (b"", False), "a second request")
    agree(head.target.startswith(b"/") and head.method in (b"GET", b"HEAD"), "another kind of request")


def _manifest(more: str = "") -> bytes:
    return f'[package]\nname = "a"\nversion = "0.1.0"\n[lib]\ncrate-type = ["cdylib"]\n{more}'.encode()


def _lock(*, version: int = 4, more: str = "") -> bytes:
    own = '[[package]]\nname = "a"\nversion = "0.1.0"\n'
    crate = f'[[package]]\nname = "tiny"\nversion = "1.0.0"\nsource = "{_SOURCE}"\n'
    checksum = f'checksum = "{_SUM}"\n' if version > 1 else ""
    old = "" if version > 1 else f'[metadata]\n"checksum tiny 1.0.0 ({_SOURCE})" = "{_SUM}"\n'
    return f"version = {version}\n{own}{crate}{checksum}{more}{old}".encode()


def _locks() -> Iterator[bytes]:
    yield _lock()
    yield _lock(version=1)
    yield _lock(more='[[package]]\nname = "g"\nversion = "1.0.0"\nsource = "git+https://a.invalid/b#c"\n')
    yield _lock(more='[[package]]\nname = "../a"\nversion = "1.0.0"\n')
    yield b"package = " + b"[" * 900
    yield b"a." * 190 + b"b = 1\n" + b"version = " + b"1" * 4_000
    yield b'[[package]]\nname = "\\u001b[1m"\nversion = "\\u202e"\nsource = "x"'


def _projects() -> Iterator[bytes]:
    trees: tuple[dict[str, bytes], ...] = (
        {"Cargo.toml": _manifest('[dependencies]\ntiny = "1"\n'), "src/lib.rs": b"", "Cargo.lock": _lock()},
        {"Cargo.toml": _manifest("[[bin]]\n"), "src/main.rs": b"", "src/bin/b/main.rs": b"", "src/bin/c.rs": b""},
        {
            "Cargo.toml": _manifest('[dependencies]\nb = { path = "b" }\n'),
            "b/Cargo.toml": _manifest(),
            "b/src/x.rs": b"",
        },
        {
            "Cargo.toml": b'[workspace]\nmembers = ["m/*", "**/n"]\n[workspace.dependencies]\nt = "1"\n',
            "m/a/Cargo.toml": _manifest("[dependencies]\nt.workspace = true\n"),
            "m/n/Cargo.toml": _manifest('[target."cfg(unix)".dependencies]\nc = { version = "1", package = "d" }\n'),
        },
        {"Cargo.toml": _manifest('[dependencies]\ng = { git = "https://a.invalid" }\n')},
        {"Cargo.toml": _manifest('[dependencies]\np = { path = "../p" }\n'), "@Cargo.lock": b"x"},
        {"Cargo.toml": _manifest('[patch.crates-io]\np = { path = "p" }\n[replace]\n"a:1" = { path = "." }\n')},
        {"Makefile": b"all:", "src/a.c": b"int x;"},
        {
            "Cargo.toml": _manifest(),
            "Cargo.lock": b'[[package]]\nname = "\\u001b[1m"\nversion = "\\u202e"\nsource = "x"',
        },
        {"Cargo.toml": b"a = [[[[", "Cargo.lock": b"=", ".cargo/config.toml": b"x"},
    )
    for number, tree in enumerate(trees):
        yield bytes([number]) + b"\0".join(part for name, content in tree.items() for part in (name.encode(), content))


def _archives() -> Iterator[bytes]:
    checksums = json.dumps({"files": {}, "package": _SUM}).encode()
    files = {"Cargo.lock": _lock(), "vendor/tiny-1.0.0/.cargo-checksum.json": checksums}
    for extra in ({}, {"vendor/tiny-1.0.0/src/lib.rs": b""}, {"vendor/other-1.0.0/x": b"x"}, {"../x": b"x"}):
        yield _tar({**files, **extra})
    yield _tar({"Cargo.lock": b"version = 4\n", "vendor/" + "x" * 120 + "/a": b""})
    with_link = tarfile.TarInfo("vendor/tiny-1.0.0/link")
    with_link.type, with_link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    yield _tar(files)[: -2 * _BLOCK] + with_link.tobuf()
    yield _tar(files) + _tar({"vendor/hidden-1.0.0/x": b"x"})
    sparse = tarfile.TarInfo("Cargo.lock")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 12}
    yield sparse.tobuf(tarfile.PAX_FORMAT) + _tar(files)


def _tar(files: dict[str, bytes]) -> bytes:
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = kept.getvalue().rstrip(b"\0")
    # Without the padding to twenty blocks.
    return content + bytes(-len(content) % _BLOCK) + bytes(2 * _BLOCK)


def _requests() -> Iterator[bytes]:
    yield b"CONNECT index.crates.io:443 HTTP/1.1\r\nHost: index.crates.io:443\r\nUser-Agent: cargo\r\n\r\n"
    yield b"CONNECT [::1]:443 HTTP/1.0\r\n\r\n"
    yield b"GET http://a.invalid:8080/x?y=1 HTTP/1.1\r\nHost: b\r\nAccept: */*\r\nCookie: c\r\n\r\n"
    yield b"HEAD http://a.invalid/ HTTP/1.1\r\nhost: a\r\nConnection: close, x\r\nx:\t y \r\n\r\n"
    yield b"GET http://a.invalid/ HTTP/1.1\r\nContent-Length: 1\r\n\r\n"


DECODERS = (
    Decoder("cargo project", check_project, _projects, 2_048),
    Decoder("cargo lock", check_lock, _locks, 4_500),
    Decoder("vendored crates", check_archive, _archives, 8_192),
    Decoder("proxy request", check_request, _requests),
)
