"""A repository's address, and its objects as a host sends them, which may be anything with the right hash."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httpx

from bench.fuzzing.decoder import Bytes, Decoder, agree, event_loop, well_said
from millrace.errors import Declined, JobFault, Transient
from stages.compile.links import without_links
from stages.fetch.repository.address import parse_address
from stages.fetch.repository.archive import check_links, write_tar
from stages.fetch.repository.limits import GitLimits, GitRules
from stages.fetch.repository.objects import DIRECTORY, FILE, LINK, PROGRAM, SUBMODULE, Entry, Objects
from stages.fetch.repository.process import Git

_RULES = (
    GitRules(),
    GitRules(hosts=("github.com", "127.0.0.1", "localhost", "::1"), allow_private=True),
    GitRules(hosts=()),
)
_LIMITS = GitLimits(entries=100, tree_bytes=4_096)
_MODES = (b"100644", b"100755", b"120000", b"160000", b"40000", b"100664", b"040000", b"0", b"100600")


def check_address(given: bytes) -> None:
    """A byte says which rules; what is taken means the same to whoever reads it next, and leads nowhere else."""
    source = Bytes(given)
    rules = _RULES[source.byte() % len(_RULES)]
    text = source.rest().decode("utf-8", "surrogateescape")
    try:
        address = parse_address(text, rules)
    except Declined as error:
        well_said(error)
        return
    agree(parse_address(address.url, rules) == address, "another address when read again")
    parts = urlsplit(address.url)
    agree(address.host in rules.hosts and parts.hostname == address.host, "a host that is not allowed")
    agree(_host_to_another_reader(text) in (address.host, None), "another host to another reader")
    agree(parts.scheme == "https" or rules.allow_private, "a protocol that is not allowed")
    agree(address.port == 443 or rules.allow_private, "a port that is not allowed")
    agree(address.url.isascii() and address.url.isprintable() and " " not in address.url, "an address with spaces")
    agree(not {"", ".", ".."} & set(address.path.split("/")[1:]) and not parts.query, "a path that leads elsewhere")
    agree("@" not in address.url and not address.url.startswith("-"), "an address that is an option or holds a name")


def _host_to_another_reader(url: str) -> str | None:
    """None if that one does not take it for a URL."""
    try:
        return httpx.URL(url).host
    except httpx.InvalidURL:
        return None


class _Host:
    """A repository whose objects nobody has checked, in place of `git cat-file --batch`."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, bytes]] = {}

    def add(self, kind: bytes, content: bytes, oid: str = "") -> str:
        """Its name, unless it is given another one."""
        named = hashlib.sha1(b"%s %d\0" % (kind, len(content)) + content).hexdigest()  # noqa: S324 - Git's names
        self.objects[oid or named] = (kind, content)
        return oid or named

    @asynccontextmanager
    async def started(self, *_: str) -> AsyncIterator[_Host]:
        self.stdin, self.stdout, self.stderr = self, asyncio.StreamReader(), asyncio.StreamReader()
        self.stderr.feed_eof()
        yield self

    def write(self, line: bytes) -> None:
        """What is asked for, and the answer."""
        oid = line.decode().strip()
        if oid not in self.objects:
            self.stdout.feed_data(f"{oid} missing\n".encode())
            return
        kind, content = self.objects[oid]
        self.stdout.feed_data(b"%s %s %d\n%s\n" % (oid.encode(), kind, len(content), content))

    async def wait(self) -> int:
        return 0


def check_tree(given: bytes) -> None:
    """Objects one after the other, each of a kind and a length; the last is the root, and trees name earlier ones.

    What is kept is what the objects say, within the limits, and once unpacked leads nowhere out of its folder.
    """
    host = _Host()
    commit = _built(host, Bytes(given))
    try:
        entries = event_loop().run_until_complete(_read(host, commit))
    except (JobFault, Declined, Transient) as error:
        well_said(error)
        return
    _check_entries(entries, host)
    try:
        check_links(entries)
    except Declined as error:
        well_said(error)
        return
    _check_archive(entries)
    _check_links_on_disk(entries)


def _built(host: _Host, source: Bytes) -> str:
    oids: list[str] = []
    while source.left and len(oids) < 30:
        kind = source.byte() % 5
        content = source.take(source.byte())
        if kind == 1:
            content = b"".join(_entries(content, oids))
        # Of the kinds, 2 is a tree with whatever in it, 3 something under another's name, 4 of no kind of ours.
        name = b"tree" if kind in (1, 2) else b"tag" if kind == 4 else b"blob"
        oids.append(host.add(name, content, "ab" * 20 if kind == 3 else ""))
    root = oids[-1] if oids else host.add(b"tree", b"")
    return host.add(b"commit", f"tree {root}\nauthor a\n\nwhatever".encode())


def _entries(content: bytes, oids: Sequence[str]) -> Iterator[bytes]:
    """Of lines with a mode's number, an object's and the name."""
    for line in content.split(b"\n"):
        if len(line) >= 2:
            oid = oids[line[1] % len(oids)] if oids else "00" * 20
            yield b"%s %s\0%s" % (_MODES[line[0] % len(_MODES)], line[2:], bytes.fromhex(oid))


async def _read(host: _Host, commit: str) -> list[Entry]:
    async with Objects(cast(Git, host), _LIMITS) as objects:
        return await objects.tree_of(commit)


def _check_entries(entries: Sequence[Entry], host: _Host) -> None:
    agree(len(entries) <= _LIMITS.entries, "more entries than the limit")
    agree(sum(len(entry.content) for entry in entries) <= _LIMITS.tree_bytes, "more bytes than the limit")
    agree(len({entry.path for entry in entries}) == len(entries), "two entries of one name")
    blobs = {content for kind, content in host.objects.values() if kind == b"blob"}
    for entry in entries:
        agree(entry.kind in (FILE, PROGRAM, LINK, SUBMODULE, DIRECTORY), "an entry of no kind")
        agree(entry.kind in (SUBMODULE, DIRECTORY) or entry.content in blobs, "content of nowhere")
        parts = entry.path.lower().split("/")
        agree(not {"", ".", "..", ".git"} & set(parts) and "\\" not in entry.path, "a name that leads elsewhere")
        agree(entry.path.isprintable(), "a name that is not safe to print")


def _check_archive(entries: Sequence[Entry]) -> None:
    archive = write_tar(entries)
    agree(archive == write_tar(entries[::-1]), "another archive of the same tree")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {member.name: _content(tar, member) for member in tar}
    agree(found == {entry.path: entry.content for entry in entries}, "another tree in the archive")
    rest, links = without_links(archive)
    words = links.split(b"\0")[:-1]
    told = {name.decode(): target for target, name in zip(words[::2], words[1::2], strict=True)}
    agree(told == {entry.path: entry.content for entry in entries if entry.kind == LINK}, "other links")
    with tarfile.open(fileobj=io.BytesIO(rest)) as tar:
        agree({*tar.getnames(), *told} == found.keys(), "another tree without its links")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.issym():
        return member.linkname.encode()
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _check_links_on_disk(entries: Sequence[Entry]) -> None:
    """Made for real, and followed by the system's own rules."""
    links = [entry for entry in entries if entry.kind == LINK]
    if not links:
        return
    folder = Path(tempfile.mkdtemp(prefix="millrace-fuzz-tree-"))
    root = folder / "a" / "b"
    try:
        root.mkdir(parents=True)
        for entry in sorted(entries, key=lambda entry: entry.path.count("/")):
            if entry.kind in (DIRECTORY, SUBMODULE):
                (root / entry.path).mkdir()
        for link in links:
            (root / link.path).symlink_to(link.content.decode())
        for link in links:
            led = Path(os.path.realpath(root / link.path))
            agree(led.is_relative_to(root.resolve()), "a link that leads out of the tree")
    finally:
        shutil.rmtree(folder)


def _record(kind: int, content: bytes) -> bytes:
    return bytes([kind, len(content)]) + content


def _trees() -> Iterator[bytes]:
    files = (
        _record(0, b"fn main() {}") + _record(0, b"../c") + _record(0, b"version https://git-lfs.github.com/spec/v1")
    )
    yield files + _record(1, b"\0\0main.rs\n\1\2program") + _record(1, b"\4\3src\n\2\1link\n\0\2c\n\3\0sub")
    yield files + _record(1, b"\0\0main.rs\n\2\1up") + _record(1, b"\4\3src\n\0\2c\n\6\3again\n\5\0old")
    yield files + _record(1, b"\0\0.git\n\0\0a/b\n\0\0..") + _record(2, b"100644 a\0" + bytes(20))
    yield _record(0, b"b/../x") + _record(0, b"a") + _record(1, b"") + _record(1, b"\2\0a\n\2\1b\n\4\2d")
    yield _record(0, b"x") + _record(3, b"y") + _record(1, b"\0\0x\n\0\1y")
    yield _record(4, b"object")
    yield _record(1, b"") + b"".join(_record(1, bytes([4, at, 97, 10, 4, at, 98])) for at in range(12))


def _addresses() -> Iterator[bytes]:
    yield b"\0https://github.com/owner/name.git"
    yield b"\0https://GitHub.com:443/owner/name/"
    yield b"\1http://127.0.0.1:8080/a/b"
    yield b"\1http://[::1]:8080/a"
    yield b"\0https://user:password@github.com/a/b"
    yield b"\0https://github.com/a/../b?c#d"
    yield b"\0ssh://github.com/a"
    yield b"\2https://github.com/a/b"
    yield b"\0https://github.com\\@evil.invalid/a"
    yield b"\0 https://github.com/a"


DECODERS = (
    Decoder("repository address", check_address, _addresses, 560),
    Decoder("repository tree", check_tree, _trees, 1_024),
)
