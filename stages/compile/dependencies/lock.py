"""What a Cargo.lock says: every crate that a repository depends on, and the SHA-256 that each must have.

Source: https://doc.rust-lang.org/cargo/guide/cargo-toml-vs-cargo-lock.html; formats 1 to 4 as cargo 1.85 reads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from millrace.errors import Declined, DeclineReason
from millrace.text import printable
from stages.compile.dependencies.declared import CRATES_IO
from stages.compile.dependencies.rules import VendorLimits
from stages.compile.toml import RepositoryFault, read_toml, table

LOCK = "Cargo.lock"

_SOURCES = (f"registry+{CRATES_IO}", "sparse+https://index.crates.io/")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", re.ASCII)
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,99}", re.ASCII)
_CHECKSUM = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Crate:
    """A crate of crates.io's; `checksum` is the SHA-256 of its archive, in hex."""

    name: str
    version: str
    checksum: str

    @property
    def folder(self) -> str:
        """What cargo calls its folder when told to put versions into the names."""
        return f"{self.name}-{self.version}"


@dataclass(frozen=True)
class Locked:
    """A lock: its bytes, and the crates that have to be fetched, in order."""

    content: bytes
    crates: tuple[Crate, ...]


def read_lock(content: bytes, limits: VendorLimits) -> Locked:
    """The lock with these bytes.

    Raises RepositoryFault if it is none, Declined (not_allowed) with its name for a crate from anywhere else than
    crates.io, Declined (too_big) for more crates than `limits` say.
    """
    document = read_toml(LOCK, content)
    packages = document.get("package", [])
    if not isinstance(packages, list):
        raise RepositoryFault(f"{LOCK} lists no packages")
    old = table(document, "metadata")
    crates = {crate for package in packages if (crate := _crate(package, old)) is not None}
    if len(crates) > limits.packages:
        raise Declined(
            f"the repository depends on more than {limits.packages} crates",
            reason=DeclineReason.too_big,
            hint="the limits are settings; see VendorLimits",
        )
    if len({crate.folder for crate in crates}) < len(crates):
        raise RepositoryFault(f"{LOCK} names a crate twice")
    return Locked(content, tuple(sorted(crates, key=lambda crate: (crate.name, crate.version))))


def _crate(package: Any, old: dict[str, Any]) -> Crate | None:
    """The crate that an entry stands for, None for a package of the repository's own."""
    name, version, source, checksum = (table(package).get(key) for key in ("name", "version", "source", "checksum"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RepositoryFault(f"{LOCK} lists a package without a proper name: {printable(str(name), 100)}")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise RepositoryFault(f"{LOCK} has no proper version for {name}")
    if source is None:
        return None
    if source not in _SOURCES:
        raise Declined(
            f"the dependency {name} {version} comes from {printable(str(source), 200)}",
            reason=DeclineReason.not_allowed,
            hint="only crates of crates.io are fetched",
        )
    checksum = checksum or old.get(f"checksum {name} {version} ({source})")
    if not isinstance(checksum, str) or not _CHECKSUM.fullmatch(checksum):
        raise RepositoryFault(f"{LOCK} has no SHA-256 for {name} {version}", hint="`cargo update` writes it anew")
    return Crate(name, version, checksum)
