"""The records of uploads: kept as long as somebody may ask, and no longer."""

from __future__ import annotations

import os
from pathlib import Path

from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.uploads import KEPT_SECONDS, Upload, UploadRecords, UploadState

NOW = 1_700_000_000.0


def noted(records: UploadRecords, content: bytes, age_seconds: float, service: str = "pinata") -> Path:
    """The file of a record that was written so long ago."""
    cid = CID.of(content, RAW)
    records.note(Upload.of(cid, content, service), UploadState.pinned, "7")
    path = records._path(cid, service)
    os.utime(path, (NOW - age_seconds, NOW - age_seconds))
    return path


def test_old_records_go_when_another_is_written_beside_them(tmp_path: Path) -> None:
    """One file a result and service stayed for ever."""
    records = UploadRecords(tmp_path, clock=lambda: NOW)
    old = noted(records, b"old", KEPT_SECONDS + 1)
    young = noted(records, b"young", KEPT_SECONDS - 3600)
    beside = old.parent / "beside.pinata.json"
    young.rename(beside)
    left = old.parent / ".writing-x"
    left.touch()
    os.utime(left, (0.0, 0.0))
    noted(records, b"old", 0.0, "daemon")
    assert sorted(path.name for path in old.parent.iterdir()) == sorted(
        [beside.name, old.name.replace("pinata", "daemon")]
    )


def test_a_record_is_found_until_it_is_old(tmp_path: Path) -> None:
    records = UploadRecords(tmp_path, clock=lambda: NOW)
    noted(records, b"content", KEPT_SECONDS - 3600)
    noted(records, b"content", 0.0, "daemon")
    found = records.find(CID.of(b"content", RAW), "pinata")
    assert found is not None
    assert (found.state, found.requestid) == (UploadState.pinned, "7")
