"""Crates made in code: the archive that a registry serves, and the line that its index has for it.

Source: https://doc.rust-lang.org/cargo/reference/registry-index.html
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_GZIP_WINDOW_BITS = 31
_MANIFEST = """\
[package]
name = "{name}"
version = "{version}"
edition = "2021"
description = "Made by localnet"
license = "Apache-2.0"
"""


@dataclass(frozen=True)
class Crate:
    """One version of a crate.

    `files` are its sources by path, a Cargo.toml being made unless one is among them; `dependencies` are crates by
    name, with the versions wanted; `checksum`, if set, is what the index says instead of the truth; `prefix` is the
    folder in the archive, if another one than it must be.
    """

    name: str
    version: str = "1.0.0"
    files: Mapping[str, bytes] = field(default_factory=lambda: {"src/lib.rs": b""})
    dependencies: Mapping[str, str] = field(default_factory=dict)
    proc_macro: bool = False
    yanked: bool = False
    checksum: str = ""
    prefix: str = ""

    def manifest(self) -> str:
        """The Cargo.toml made for it."""
        text = _MANIFEST.format(name=self.name, version=self.version)
        text += "[lib]\nproc-macro = true\n" if self.proc_macro else ""
        wanted = "".join(f'{name} = "{version}"\n' for name, version in self.dependencies.items())
        return text + (f"[dependencies]\n{wanted}" if wanted else "")

    def archive(self) -> bytes:
        """The `.crate`: the same bytes every time."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path, content in sorted({"Cargo.toml": self.manifest().encode(), **self.files}.items()):
                member = tarfile.TarInfo(f"{self.prefix or f'{self.name}-{self.version}'}/{path}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
        gzip = zlib.compressobj(wbits=_GZIP_WINDOW_BITS)
        return gzip.compress(packed.getvalue()) + gzip.flush()

    def sha256(self) -> str:
        """What the index says of the archive."""
        return self.checksum or hashlib.sha256(self.archive()).hexdigest()

    def index_line(self) -> str:
        """Its line of the index."""
        return json.dumps(
            {
                "name": self.name,
                "vers": self.version,
                "deps": [_wanted(name, version) for name, version in self.dependencies.items()],
                "cksum": self.sha256(),
                "features": {},
                "yanked": self.yanked,
                "links": None,
            },
            separators=(",", ":"),
        )


def index_path(name: str) -> str:
    """Where in an index the file of a crate is."""
    name = name.lower()
    if len(name) <= 2:
        return f"{len(name)}/{name}"
    return f"3/{name[0]}/{name}" if len(name) == 3 else f"{name[:2]}/{name[2:4]}/{name}"


def index_file(crates: Sequence[Crate]) -> bytes:
    """The file that the index has for all versions of one crate."""
    return "".join(f"{crate.index_line()}\n" for crate in crates).encode()


def _wanted(name: str, version: str) -> dict[str, object]:
    return {
        "name": name,
        "req": f"^{version}",
        "features": [],
        "optional": False,
        "default_features": True,
        "target": None,
        "kind": "normal",
    }
