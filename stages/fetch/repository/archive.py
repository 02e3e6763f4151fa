"""A tree as one tar, the same bytes wherever and whenever it is made, with nothing in it that leads out of it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence

from millrace.errors import Declined, DeclineReason
from stages.fetch.repository.objects import DIRECTORY, FILE, LINK, PROGRAM, SUBMODULE, Entry

_MOST_HOPS = 40  # as in Linux
_LONGEST_TARGET_BYTES = 1024


def write_tar(entries: Sequence[Entry]) -> bytes:
    """The entries as a tar: sorted, times and owners zero, modes 0755 and 0644; `check_links` comes first."""
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        # By parts, so that a directory stands before what is in it.
        for entry in sorted(entries, key=lambda entry: entry.path.encode().split(b"/")):
            member = tarfile.TarInfo(entry.path)
            member.mode = 0o644 if entry.kind == FILE else 0o755
            if entry.kind in (FILE, PROGRAM):
                member.size = len(entry.content)
            elif entry.kind == LINK:
                member.type, member.linkname = tarfile.SYMTYPE, entry.content.decode()
            else:
                member.type = tarfile.DIRTYPE
            tar.addfile(member, io.BytesIO(entry.content) if member.isreg() else None)
    return kept.getvalue()


def check_links(entries: Sequence[Entry]) -> None:
    """Raise Declined (not_allowed) if a symbolic link leads out of the tree, also by way of other links.

    A link to nothing is all right as long as nothing on its way leaves the tree.
    """
    links = {entry.path: _target(entry) for entry in entries if entry.kind == LINK}
    directories = {entry.path for entry in entries if entry.kind in (DIRECTORY, SUBMODULE)}
    for path in links:
        _follow(path, links, directories)


def _target(link: Entry) -> str:
    try:
        target = link.content.decode()
    except UnicodeDecodeError:
        raise _declined(link.path, "to a name that is not UTF-8") from None
    if not target or not target.isprintable() or len(link.content) > _LONGEST_TARGET_BYTES:
        raise _declined(link.path, "to something that is no path")
    if target.startswith("/"):
        raise _declined(link.path, "to an absolute path")
    return target


def _follow(path: str, links: dict[str, str], directories: set[str]) -> None:
    """Walk `path` as a kernel would: `..` is of where a link led to, not of where it stands."""
    here: list[str] = []
    todo = path.split("/")[::-1]
    hops = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not here:
                raise _declined(path, "out of the repository")
            if "/".join(here) not in directories:
                # A kernel would stop here; whatever a build puts in this place later, it would not.
                raise _declined(path, "through something that is not a directory")
            here.pop()
            continue
        here.append(part)
        target = links.get("/".join(here))
        if target is not None:
            hops += 1
            if hops > _MOST_HOPS:
                raise _declined(path, "in a circle")
            here.pop()
            todo.extend(target.split("/")[::-1])


def _declined(path: str, where: str) -> Declined:
    return Declined(
        f"the link {path} leads {where}",
        reason=DeclineReason.not_allowed,
        hint="a repository may only hold links to what is in it",
    )
