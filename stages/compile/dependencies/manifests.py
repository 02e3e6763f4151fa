"""The part of a repository that cargo needs to see to know what it depends on, and nothing that it would run or obey.

That is each Cargo.toml that the one at the root leads to, Cargo.lock, and the names of the source files beside them,
which cargo looks for to tell a package's targets; the files themselves are empty.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from typing import Any

from millrace.errors import Declined, DeclineReason
from millrace.text import printable
from stages.compile.dependencies.declared import Declared, declared_in, members_of
from stages.compile.dependencies.lock import LOCK, Locked, read_lock
from stages.compile.dependencies.rules import VendorLimits
from stages.compile.toml import RepositoryFault, read_toml

MANIFEST = "Cargo.toml"

_LONGEST_PATH = 512
# What cargo writes or would obey, and what is somebody else's code: no package of the repository's own lies there.
_LEFT_OUT = frozenset({".cargo", ".git", "target"})


@dataclass(frozen=True)
class Outline:
    """What is shown to cargo. `declared` are the dependencies on what is not in the repository, by any of its packages;
    `locked` what its Cargo.lock says, None if it has none.
    """

    archive: bytes = field(repr=False)
    manifests: tuple[str, ...]
    declared: tuple[Declared, ...]
    locked: Locked | None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to fetch."""
        return not self.locked.crates if self.locked is not None else not self.declared


def outline(archive: bytes, limits: VendorLimits) -> Outline:
    """The outline of the repository in this tar, an empty one if it has no Cargo.toml.

    Raises RepositoryFault if a Cargo.toml or Cargo.lock is none; Declined (unsupported, not_allowed), with its name,
    for a dependency that is neither a crate of crates.io's nor in the repository; Declined (too_big) beyond `limits`.
    """
    files = _Files(archive, limits)
    read: dict[str, dict[str, Any]] = {}
    declared: list[Declared] = []
    waiting = [""] if "" in files.folders else []
    size = 0
    while waiting:
        folder = waiting.pop()
        if folder in read:
            continue
        if len(read) >= limits.manifests:
            raise _too_big(f"the repository has more than {limits.manifests} packages")
        content = files.manifest(folder)
        size += len(content)
        if size > limits.manifests_bytes:
            raise _too_big(f"what the packages say of themselves is longer than {limits.manifests_bytes} bytes")
        document = read[folder] = read_toml(_in(folder, MANIFEST), content)
        for dependency in declared_in(document, folder):
            if dependency.folder is None:
                declared.append(dependency)
            elif dependency.folder in files.folders:
                waiting.append(dependency.folder)
            else:
                where = printable(dependency.folder, 100)
                raise RepositoryFault(f"the dependency {dependency.name} is in {where}, where no {MANIFEST} is")
        if not folder:
            waiting += members_of(document, files.folders, limits.manifests)
    lock = files.lock() if read else None
    return Outline(
        archive=_packed(files, sorted(read), lock),
        manifests=tuple(_in(folder, MANIFEST) for folder in sorted(read)),
        declared=tuple(dict.fromkeys(declared)),
        locked=None if lock is None else read_lock(lock, limits),
    )


class _Files:
    """The files of the repository that matter, by path. A link is none."""

    def __init__(self, archive: bytes, limits: VendorLimits) -> None:
        self._tar = tarfile.open(fileobj=io.BytesIO(archive))  # noqa: SIM115 of bytes that stay
        self._limits = limits
        self._members = {member.name: member for member in self._tar if member.isreg() and _plain(member.name)}
        self.sources = [name for name in self._members if name.endswith(".rs")]
        ends = f"/{MANIFEST}"
        self.folders = {name.removesuffix(ends) for name in self._members if name.endswith(ends)}
        if MANIFEST in self._members:
            self.folders.add("")

    def manifest(self, folder: str) -> bytes:
        """The Cargo.toml in that folder, one of `folders`."""
        return self._content(_in(folder, MANIFEST), self._limits.manifest_bytes)

    def lock(self) -> bytes | None:
        """Cargo.lock at the root, None if there is none."""
        return self._content(LOCK, self._limits.lock_bytes) if LOCK in self._members else None

    def _content(self, name: str, most_bytes: int) -> bytes:
        member = self._members[name]
        if member.size > most_bytes:
            raise _too_big(f"{name} is larger than {most_bytes} bytes")
        file = self._tar.extractfile(member)
        assert file is not None  # it is regular
        return file.read()


def _plain(name: str) -> bool:
    """Whether the path is one inside, without anything that cargo would obey on its way."""
    parts = name.split("/")
    return (
        len(name) <= _LONGEST_PATH
        and name.isprintable()
        and not any(part in ("", ".", "..") or part in _LEFT_OUT for part in parts)
    )


def _packed(files: _Files, folders: list[str], lock: bytes | None) -> bytes:
    contents = dict.fromkeys(files.sources, b"")
    contents |= {_in(folder, MANIFEST): files.manifest(folder) for folder in folders}
    contents |= {} if lock is None else {LOCK: lock}
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for name, content in sorted(contents.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return kept.getvalue()


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _too_big(what: str) -> Declined:
    return Declined(what, reason=DeclineReason.too_big, hint="the limits are settings; see VendorLimits")
