"""What came out of the container that fetched crates: another reader of the tar must find no more in it than we do."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping

import pytest

from stages.compile.dependencies.crates import check_crates
from stages.compile.dependencies.rules import VendorLimits
from stages.compile.toml import RepositoryFault

LIMITS = VendorLimits()
SUM = "ab" * 32
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"
LOCK = f"""
version = 4
[[package]]
name = "tiny"
version = "1.0.0"
source = "{REGISTRY}"
checksum = "{SUM}"
"""
CRATES = {
    "Cargo.lock": LOCK.encode(),
    "vendor/tiny-1.0.0/.cargo-checksum.json": json.dumps({"files": {}, "package": SUM}).encode(),
    "vendor/tiny-1.0.0/src/lib.rs": b"",
}


def tar(files: Mapping[str, bytes]) -> bytes:
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return kept.getvalue()


def test_the_crates_that_the_lock_names_pass() -> None:
    (crate,) = check_crates(tar(CRATES), None, LIMITS).crates
    assert (crate.name, crate.version, crate.checksum) == ("tiny", "1.0.0", SUM)


def test_nothing_may_come_behind_the_end() -> None:
    """Python's reader ends at the first block of zeros; one that goes on would unpack a crate nobody looked at."""
    with pytest.raises(RepositoryFault, match="behind their end"):
        check_crates(tar(CRATES) + tar({"vendor/hidden-1.0.0/src/lib.rs": b"x"}), None, LIMITS)


def test_nothing_may_come_behind_a_header_that_cannot_be_read() -> None:
    """Python's reader ends there without a word; GNU tar skips to the next header and goes on."""
    whole = tar(CRATES)
    at = whole.rindex(b"vendor/tiny-1.0.0/src/lib.rs")
    broken = b"\xff" * 512
    with pytest.raises(RepositoryFault, match="behind their end"):
        check_crates(whole[: at + 512] + broken + tar({"../hidden": b"x"}), None, LIMITS)
