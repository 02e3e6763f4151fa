"""What a Cargo.toml says that it depends on.

Source: https://doc.rust-lang.org/cargo/reference/specifying-dependencies.html, reference/workspaces.html,
reference/overriding-dependencies.html
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from millrace.errors import Declined, DeclineReason
from millrace.text import printable
from stages.compile.toml import table

CRATES_IO = "https://github.com/rust-lang/crates.io-index"
"""The name that crates.io has in manifests and locks; nothing is fetched from there any more."""

_KINDS = ("dependencies", "dev-dependencies", "dev_dependencies", "build-dependencies", "build_dependencies")
_OTHERS = {"git": "a Git repository", "registry": "another registry", "registry-index": "another registry"}
_PATCHED = ("crates-io", CRATES_IO)
_LONGEST_NAME = 64
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class Declared:
    """A dependency, by the name of its crate; `folder` is where it lies in the repository, None for a registry's."""

    name: str
    folder: str | None = None


def declared_in(document: dict[str, Any], folder: str) -> Iterator[Declared]:
    """The dependencies that the Cargo.toml of `folder` names, of every kind, for every platform, and of its workspace.

    Raises Declined for one that is elsewhere: unsupported for a path out of the repository, not_allowed for Git and
    for registries that are not crates.io.
    """
    for dependencies in _tables(document):
        for key, wanted in dependencies.items():
            if isinstance(wanted, dict) and wanted.get("workspace") is not True:
                yield _declared(key, wanted, folder)
            elif isinstance(wanted, str):
                yield Declared(_shown(key))
    for origin, patches in table(document, "patch").items():
        if origin not in _PATCHED:
            raise _not_allowed(f"what replaces crates of {_shown(origin)}", "another registry")
        for key, wanted in table(patches).items():
            yield _declared(key, table(wanted), folder)
    for key, wanted in table(document, "replace").items():
        yield _declared(key, table(wanted), folder)


def members_of(document: dict[str, Any], folders: Collection[str], most: int) -> list[str]:
    """Those of `folders`, which have a Cargo.toml, that the one at the root makes members of its workspace.

    Raises Declined (too_big) if it has more than `most` of them, or patterns for them of more than `most` names in all.
    """
    members = table(document, "workspace").get("members")
    members = members if isinstance(members, list) else []
    wanted = {posixpath.normpath(member) for member in members if isinstance(member, str)}
    patterns = [tuple(member.split("/")) for member in wanted if _GLOB & set(member)]
    if len(wanted) > most or sum(map(len, patterns)) > most:
        raise Declined(
            f"the workspace has more than {most} members", reason=DeclineReason.too_big, hint="use `*` in `members`"
        )
    found = {folder for pattern in patterns for folder in _matching(pattern, folders)}
    return sorted(found | {member for member in wanted if member in folders})


def _matching(pattern: tuple[str, ...], folders: Collection[str]) -> Iterator[str]:
    """Those of `folders` that are as cargo's patterns say: `*` stays within a name, `**` is any number of names.

    Each folder, and each above one, is compared once: a stranger chose both how many there are and how deep they lie.
    """
    reached = {"": _passed(pattern, {0})}
    for folder in folders:
        at = 0
        while at < len(folder):
            above, end = folder[: max(at - 1, 0)], folder.find("/", at)
            end = len(folder) if end < 0 else end
            if folder[:end] not in reached:
                reached[folder[:end]] = _after(pattern, reached[above], folder[at:end])
            at = end + 1
        if folder and len(pattern) in reached[folder]:
            yield folder


def _after(pattern: tuple[str, ...], reached: frozenset[int], name: str) -> frozenset[int]:
    """Where in the pattern one is after this name."""
    stays = {at for at in reached if at < len(pattern) and pattern[at] == "**"}
    goes_on = {at + 1 for at in reached - stays if at < len(pattern) and fnmatchcase(name, pattern[at])}
    return _passed(pattern, stays | goes_on)


def _passed(pattern: tuple[str, ...], reached: set[int]) -> frozenset[int]:
    """The same, and behind each `**`, which may stand for no name at all."""
    for at in sorted(reached):
        while at < len(pattern) and pattern[at] == "**":
            at += 1
            reached.add(at)
    return frozenset(reached)


def _tables(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for kind in _KINDS:
        yield table(document, kind)
    for target in table(document, "target").values():
        for kind in _KINDS:
            yield table(target, kind)
    yield table(document, "workspace", "dependencies")


def _declared(key: str, wanted: dict[str, Any], folder: str) -> Declared:
    name = _shown(package) if isinstance(package := wanted.get("package"), str) else _shown(key)
    for word, what in _OTHERS.items():
        if word in wanted and not (word == "registry" and wanted[word] == "crates-io"):
            raise _not_allowed(f"the dependency {name}", what)
    if isinstance(path := wanted.get("path"), str):
        inside = posixpath.normpath(posixpath.join("/", folder, path)).lstrip("/")
        # `normpath` stops at the root, where a real path would go on above the repository.
        if path.startswith("/") or posixpath.normpath(posixpath.join(folder, path)).startswith(".."):
            raise Declined(
                f"the dependency {name} lies outside of the repository",
                reason=DeclineReason.unsupported,
                hint="only the repository itself is fetched: publish it, or put it inside",
            )
        return Declared(name, inside)
    return Declared(name)


def _shown(name: str) -> str:
    return printable(name, _LONGEST_NAME)


def _not_allowed(what: str, where: str) -> Declined:
    return Declined(
        f"{what} comes from {where}", reason=DeclineReason.not_allowed, hint="only crates of crates.io are fetched"
    )
