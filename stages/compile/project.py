"""What kind of project a repository holds, told from its files without running any of them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from millrace.text import printable
from stages.compile.failure import CompileFailure, FailureReason
from stages.compile.target import BuildTarget
from stages.compile.toml import read_toml

_MOST_TOML_BYTES = 1 << 20
"""Of a manifest, and of a lock file, which is longer: more than a thousand dependencies."""

_LONGEST_DEPENDENCY = 200  # in a report


@dataclass(frozen=True)
class Project:
    """How a repository is built for one target.

    `selection` are Cargo's arguments for which of a package's targets are built, `dependencies` what its lock file
    names, each as "name version".
    """

    language: Literal["rust", "c"]
    selection: tuple[str, ...] = ()
    locked: bool = False
    dependencies: tuple[str, ...] = ()


def examine(archive: bytes, target: BuildTarget, vendored: bytes | None = None) -> Project:
    """The project at the root of the tar `archive`; the tar `vendored` may have the Cargo.lock that it lacks.

    Raises CompileFailure for what is no project that can be built for `target`.
    """
    names, read = _files(archive)
    if "Cargo.toml" in names:
        manifest = read_toml("Cargo.toml", read["Cargo.toml"])
        lock = read.get("Cargo.lock") or (_files(vendored)[1].get("Cargo.lock") if vendored else None)
        return Project(
            language="rust",
            selection=_selection(manifest, names, target),
            locked=lock is not None,
            dependencies=() if lock is None else _dependencies(read_toml("Cargo.lock", lock)),
        )
    if "Makefile" in names or any(_is_c(name) for name in names):
        return Project(language="c")
    raise CompileFailure(
        "there is neither a Cargo.toml nor a Makefile nor C in the repository's root",
        reason=FailureReason.no_project,
        hint="Rust and plain C are compiled; the project has to lie at the root",
    )


def _files(archive: bytes) -> tuple[frozenset[str], dict[str, bytes]]:
    """The names of all files and links, and what is in Cargo's two at the root, which must be files."""
    names, read = set(), {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            if member.isreg() or member.issym():
                names.add(member.name)
            if member.name in ("Cargo.toml", "Cargo.lock"):
                if not member.isreg():
                    raise _unreadable(member.name, "is not a file")
                if member.size > _MOST_TOML_BYTES:
                    raise _unreadable(member.name, f"has {member.size} bytes")
                file = tar.extractfile(member)
                assert file is not None
                read[member.name] = file.read()
    return frozenset(names), read


def _unreadable(name: str, why: str) -> CompileFailure:
    return CompileFailure(f"{name} {why}", reason=FailureReason.no_project)


def _selection(manifest: dict[str, Any], names: frozenset[str], target: BuildTarget) -> tuple[str, ...]:
    """A command for WASI, if there is one, and a library without it; of a mere workspace, whatever is in it."""
    if not isinstance(manifest.get("package"), dict):
        if isinstance(manifest.get("workspace"), dict):
            return ()
        raise _unreadable("Cargo.toml", "has neither a package nor a workspace")
    programs = bool(manifest.get("bin")) or any(_is_program(name) for name in names)
    about = manifest.get("lib")
    about = about if isinstance(about, dict) else {}
    kinds = about.get("crate-type", about.get("crate_type"))
    library = isinstance(kinds, list) and "cdylib" in kinds
    if library and (target is BuildTarget.bare or not programs):
        return ("--lib",)
    if programs:
        return ("--bins",)
    raise CompileFailure(
        "the package has neither a program nor a library that a module can be made of",
        reason=FailureReason.no_project,
        hint='`[lib] crate-type = ["cdylib"]` in Cargo.toml makes one of its library',
    )


def _is_program(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name == "src/main.rs" or (
        parts[:2] == ("src", "bin") and ((len(parts) == 3 and name.endswith(".rs")) or parts[3:] == ("main.rs",))
    )


def _is_c(name: str) -> bool:
    """Whether it is one of the files that are compiled where there is no Makefile."""
    return name.endswith(".c") and str(PurePosixPath(name).parent) in (".", "src")


def _dependencies(lock: dict[str, Any]) -> tuple[str, ...]:
    """Every package that the lock file got from somewhere else than the repository."""
    packages = lock.get("package")
    found = [
        printable(f"{package['name']} {package['version']}", _LONGEST_DEPENDENCY)
        for package in (packages if isinstance(packages, list) else [])
        if isinstance(package, dict) and all(isinstance(package.get(key), str) for key in ("name", "version", "source"))
    ]
    return tuple(sorted(found))
