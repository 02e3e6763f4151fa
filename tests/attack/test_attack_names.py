"""Names from strangers that would like to be paths: none becomes one, nor a key, nor an argument, as it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.markdown import receipt_key
from flows.stage import result_key
from millrace.errors import Permanent
from millrace.network import SignedSubmission
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from protocols.ipfs.store import ContentStore
from stages.submit.outbox import Outbox

HOSTILE = [
    "../../etc/cron.d/job",
    "/etc/passwd",
    "a/../../../b",
    "nul\0byte",
    "new\nline",
    "-rf",
    ".",
    "..",
    "\x1b[2J\u202e",
    "%2e%2e%2f",
    "C:\\job",
    "x" * 5_000,
]


def written(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_of_jobs_stay_inside_the_folder_of_records(name: str, tmp_path: Path) -> None:
    key = f"cloudmesh/chain/{name}"
    data = tmp_path / "deep" / "data"
    receipts, outbox = ReceiptLog(data / "receipts"), Outbox(data / "outbox")
    submission = SignedSubmission(
        job_key=key,
        network="cloudmesh",
        transaction_id="t",
        payload="AQID",
        expires_at=1,
        sender="s",
        result_cid="c",
        price=1,
    )
    outbox.record(submission)
    assert outbox.latest(key) == submission
    outbox.settle(key)
    assert outbox.latest(key) == submission
    receipts.append(Receipt(job_key=key, network="cloudmesh", outcome=JobOutcome.settled, settled_at=datetime.now(UTC)))
    found = receipts.find(key)
    assert found is not None
    assert found.job_key == key
    assert receipts.verify()[0] == 1
    assert written(tmp_path) == {Path("deep"), Path("deep/data")} | {Path("deep/data") / path for path in written(data)}
    assert all(path.parts[0] in ("receipts", "outbox") and len(str(path)) < 120 for path in written(data))


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_of_content_are_refused_before_any_file_is_opened(name: str, tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "deep" / "store")
    before = written(tmp_path)
    for reach in (store.get, store.has):
        with pytest.raises(Permanent):
            reach(name)
    assert written(tmp_path) == before


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize("named", [receipt_key, lambda name: result_key(name, "fetch", name)], ids=["key", "file"])
def test_hostile_names_never_show_in_keys_and_file_names(name: str, named: Callable[[str], str]) -> None:
    assert set(named(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(named(name)) < 100
