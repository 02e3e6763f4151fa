"""What came out of the container that fetched crates, looked through before anything is made of it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from typing import Any

from millrace.errors import Declined, DeclineReason
from millrace.text import printable
from stages.compile.dependencies.lock import LOCK, Locked, read_lock
from stages.compile.dependencies.rules import VendorLimits
from stages.compile.toml import RepositoryFault

FOLDER = "vendor"
"""Where the crates are in the archive, each in a folder of its own, beside the lock."""

_CHECKSUMS = ".cargo-checksum.json"
_LARGEST_CHECKSUMS_BYTES = 8 * 1024 * 1024
_LONGEST_NAME = 100  # as messages show it


def check_crates(archive: bytes, expected: Locked | None, limits: VendorLimits) -> Locked:
    """The lock that the archive was made by: every crate in it is there, with the checksum it names, and nothing else.

    `expected` is the repository's own lock, if it has one. Raises RepositoryFault if something is not so, or an entry
    is anything but a file or a folder in its place; Declined (too_big) for more entries than `limits` say.
    """
    lock, found = _read(archive, limits)
    if expected is not None and lock != expected.content:
        raise RepositoryFault(f"{LOCK} does not fit Cargo.toml", hint="`cargo update` writes it anew: commit that")
    locked = expected or read_lock(lock, limits)
    wanted = {crate.folder: crate.checksum for crate in locked.crates}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise RepositoryFault(
                f"the crate {printable(name, _LONGEST_NAME)} is not what {LOCK} says",
                hint="another crate, or another checksum: is the lock as cargo wrote it?",
            )
    return locked


def _read(archive: bytes, limits: VendorLimits) -> tuple[bytes, Mapping[str, str]]:
    """The lock, and the checksum that each crate's folder claims to come from."""
    lock = b""
    found: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for count, member in enumerate(tar):
                if count >= limits.files:
                    raise _too_big(f"the crates have more than {limits.files} files")
                parts = _place(member)
                if parts == [LOCK] and member.isreg():
                    lock = _content(tar, member, limits.lock_bytes)
                elif parts[0] != FOLDER:
                    raise _odd(member)
                elif len(parts) > 1:
                    found.setdefault(parts[1], "")
                    if parts[2:] == [_CHECKSUMS] and member.isreg():
                        found[parts[1]] = _claimed(_content(tar, member, _LARGEST_CHECKSUMS_BYTES))
            # Python ends at a header that it cannot read, or at a block of zeros; other readers look further.
            if archive[tar.offset :].strip(b"\0"):
                raise RepositoryFault("the crates came out with something behind their end")
    except (tarfile.TarError, ValueError, RecursionError, OverflowError) as error:
        raise RepositoryFault(f"the crates came out badly formed: {printable(str(error), 200)}") from None
    return lock, found


def _place(member: tarfile.TarInfo) -> list[str]:
    """The parts of the entry's name."""
    parts = member.name.split("/")
    plain = (member.isreg() and not member.issparse()) or member.isdir()
    if not plain or "\0" in member.name or any(part in ("", ".", "..") for part in parts):
        raise _odd(member)
    return parts


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, most_bytes: int) -> bytes:
    if member.size > most_bytes:
        raise _too_big(f"{printable(member.name, _LONGEST_NAME)} is larger than {most_bytes} bytes")
    file = tar.extractfile(member)
    assert file is not None  # it is regular
    return file.read()


def _claimed(content: bytes) -> str:
    told: Any = json.loads(content)
    package = told.get("package") if isinstance(told, dict) else None
    return package if isinstance(package, str) else ""


def _odd(member: tarfile.TarInfo) -> RepositoryFault:
    return RepositoryFault(
        f"a crate holds {printable(member.name, _LONGEST_NAME)}, which is no plain file in its place"
    )


def _too_big(what: str) -> Declined:
    return Declined(what, reason=DeclineReason.too_big, hint="the limits are settings; see VendorLimits")
