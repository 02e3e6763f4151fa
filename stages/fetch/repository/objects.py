"""A commit's tree, read object by object: each is hashed here and must be what it is named by."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from millrace.errors import Declined, DeclineReason, JobFault, MillraceError
from stages.fetch.repository.limits import GitLimits
from stages.fetch.repository.process import Git, failure, too_big

_LARGEST_COMMIT_BYTES = 1024 * 1024
_DEEPEST = 64
_LONGEST_PATH_BYTES = 1024
_OID_BYTES = 20
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_LFS_POINTER_BYTES = 1024
# What HFS+ ignores in a name, so that `.g\u200cit` is `.git` there.
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_DOT_GIT = re.compile(r"(?:\.git|git~\d+)[ .]*(?::.*)?", re.IGNORECASE)

FILE, PROGRAM, LINK, SUBMODULE, DIRECTORY = 0o100644, 0o100755, 0o120000, 0o160000, 0o040000
_OLD_FILE = 0o100664  # what Git wrote before 2005; it is read as FILE
_KINDS = {FILE: FILE, PROGRAM: PROGRAM, LINK: LINK, SUBMODULE: SUBMODULE, DIRECTORY: DIRECTORY, _OLD_FILE: FILE}


@dataclass(frozen=True)
class Entry:
    """One thing in the tree: `content` is a file's bytes or a link's target, empty for directories and submodules."""

    path: str
    kind: int
    content: bytes = b""

    @property
    def lfs_pointer(self) -> bool:
        """True if the file only names its content, which lies elsewhere."""
        return (
            self.kind in (FILE, PROGRAM)
            and len(self.content) <= _LARGEST_LFS_POINTER_BYTES
            and self.content.startswith(_LFS_POINTER)
        )


class Objects:
    """The objects of a repository, from one `git cat-file --batch`, in an `async with` block."""

    def __init__(self, git: Git, limits: GitLimits) -> None:
        self._starting = git.started("cat-file", "--batch")
        self._limits = limits

    async def __aenter__(self) -> Self:
        self._process = await self._starting.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._starting.__aexit__(kind, error, trace)

    async def tree_of(self, commit: str) -> list[Entry]:
        """Everything in the tree of `commit`, a directory before what is in it.

        Raises JobFault if an object is missing or not what its name says, Declined (too_big, not_allowed) if the
        tree is not one we keep.
        """
        found = re.match(rb"tree ([0-9a-f]{40})\n", await self._object(commit, "commit", _LARGEST_COMMIT_BYTES))
        if found is None:
            raise JobFault(f"commit {commit} is badly formed", hint="`git fsck --strict` says what is wrong")
        entries: list[Entry] = []
        left = self._limits.tree_bytes
        waiting = [("", found[1].decode(), 0)]
        while waiting:
            above, oid, depth = waiting.pop()
            if depth > _DEEPEST:
                raise too_big(f"the tree is deeper than {_DEEPEST} directories")
            tree = await self._object(oid, "tree", left)
            for kind, name, child in _parse(tree):
                path = f"{above}{name}"
                if len(path.encode()) > _LONGEST_PATH_BYTES:
                    raise too_big(f"a path of the tree is longer than {_LONGEST_PATH_BYTES} bytes")
                content = b""
                if kind == DIRECTORY:
                    waiting.append((f"{path}/", child, depth + 1))
                elif kind != SUBMODULE:
                    content = await self._object(child, "blob", left)
                left -= len(content)
                entries.append(Entry(path, kind, content))
                if len(entries) > self._limits.entries:
                    raise too_big(f"the tree has more than {self._limits.entries} entries")
        return entries

    async def _object(self, oid: str, kind: str, most_bytes: int) -> bytes:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        stdin.write(f"{oid}\n".encode())
        line = await stdout.readline()
        if not line:
            raise await self._ended()
        header = line.split()
        if len(header) != 3:
            raise JobFault(f"{kind} {oid} is missing from what the host sent", hint="the repository may be damaged")
        if header[1].decode() != kind:
            raise JobFault(f"{oid} is a {header[1].decode()} and not a {kind}", hint=f"name a {kind}")
        size = int(header[2])
        if size > most_bytes:
            raise too_big(f"the tree is larger than {self._limits.tree_bytes} bytes")
        try:
            content = (await stdout.readexactly(size + 1))[:size]
        except asyncio.IncompleteReadError:
            raise await self._ended() from None
        # SHA-1 is what Git names things by. `git index-pack` has looked for known collisions in it.
        if hashlib.sha1(b"%s %d\0" % (header[1], size) + content).hexdigest() != oid:  # noqa: S324
            raise JobFault(f"{kind} {oid} is not what its name says", hint="the repository is damaged")
        return content

    async def _ended(self) -> MillraceError:
        """Why there is nothing more to read."""
        assert self._process.stderr
        errors = await self._process.stderr.read(_LARGEST_COMMIT_BYTES)
        return failure(await self._process.wait(), errors.decode("utf-8", "replace"))


def _parse(tree: bytes) -> Iterator[tuple[int, str, str]]:
    """The mode, name and object of every entry in a tree object."""
    names: set[str] = set()
    at = 0
    while at < len(tree):
        end = tree.find(b"\0", at)
        mode, space, raw = tree[at:end].partition(b" ")
        oid = tree[end + 1 : end + 1 + _OID_BYTES]
        kind = _KINDS.get(int(mode, 8)) if re.fullmatch(rb"[0-7]{5,6}", mode) else None
        if end < 0 or not space or kind is None or len(oid) != _OID_BYTES:
            raise JobFault("a tree of the repository is badly formed", hint="`git fsck --strict` says what is wrong")
        name = _checked(raw)
        if name in names:
            raise _declined("two things in one directory have the same name")
        names.add(name)
        yield kind, name, oid.hex()
        at = end + 1 + _OID_BYTES


def _checked(raw: bytes) -> str:
    """A name that means the same to every tool that will unpack the tree; else Declined (not_allowed)."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise _declined("a name in the tree is not UTF-8") from None
    if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise _declined(f"no file may be called {name!r}")
    if _DOT_GIT.fullmatch(_IGNORED.sub("", name)):
        raise _declined(f"a file called {name!r} could pass for Git's own folder")
    return name


def _declined(message: str) -> Declined:
    return Declined(message, reason=DeclineReason.not_allowed, hint="the repository's author has to rename it")
