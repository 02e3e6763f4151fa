from __future__ import annotations

import hashlib
import json
import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from millrace.errors import Permanent
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import GENESIS, ReceiptLog


def receipt(job: str, **fields: object) -> Receipt:
    return Receipt.model_validate(
        {
            "job_key": f"cloudmesh/test/{job}",
            "network": "cloudmesh",
            "outcome": JobOutcome.settled,
            "settled_at": datetime(2026, 11, 20, tzinfo=UTC),
            **fields,
        }
    )


def three_receipts(folder: Path) -> ReceiptLog:
    log = ReceiptLog(folder)
    for job in "abc":
        log.append(receipt(job))
    return log


def test_receipts_come_back_in_order_and_verify(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path)
    hashes = [log.append(receipt(job)) for job in "abc"]
    assert [entry["receipt"]["job_key"][-1] for entry in log.entries()] == ["a", "b", "c"]
    assert log.verify() == (3, hashes[-1])


def test_an_empty_log_verifies(tmp_path: Path) -> None:
    assert ReceiptLog(tmp_path).verify() == (0, GENESIS)


def test_a_job_has_one_receipt_however_often_it_is_appended(tmp_path: Path) -> None:
    """A flow run killed right after the append appends again when it is resumed."""
    log = ReceiptLog(tmp_path)
    first = log.append(receipt("a", fee=5_000))
    assert ReceiptLog(tmp_path).append(receipt("a", fee=9_999)) == first
    assert log.verify()[0] == 1
    found = log.find("cloudmesh/test/a")
    assert found is not None
    assert found.fee == 5_000


def test_a_line_of_an_older_version_verifies_and_is_read(tmp_path: Path) -> None:
    """The hash is over what was written then, not over today's fields."""
    old = receipt("old").model_dump(mode="json", exclude={"solved", "inclusion"})
    line = {"n": 0, "previous": GENESIS, "receipt": old}
    digest = hashlib.sha256(json.dumps(line, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    log = ReceiptLog(tmp_path)
    log.path.write_text(json.dumps({**line, "hash": digest}, sort_keys=True, separators=(",", ":")) + "\n")
    log.append(receipt("new"))
    assert log.verify()[0] == 2
    assert log.find("cloudmesh/test/old") == receipt("old")


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_changed_receipt_is_found(tmp_path: Path, line: int) -> None:
    log = ReceiptLog(tmp_path)
    for job in "abc":
        log.append(receipt(job, fee=5_000))
    lines = log.path.read_text().splitlines()
    lines[line] = lines[line].replace('"fee":5000', '"fee":5001')
    log.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(Permanent, match=f"line {line + 1}"):
        log.verify()


@pytest.mark.parametrize("order", [[1, 2], [0, 2], [0, 2, 1], [2, 1, 0]])
def test_removed_and_reordered_receipts_are_found(tmp_path: Path, order: list[int]) -> None:
    log = ReceiptLog(tmp_path)
    for job in "abc":
        log.append(receipt(job))
    lines = log.path.read_text().splitlines()
    log.path.write_text("".join(f"{lines[n]}\n" for n in order))
    with pytest.raises(Permanent):
        log.verify()


def test_a_forger_who_recomputes_one_hash_is_found_at_the_next(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path)
    other = ReceiptLog(tmp_path / "other")
    for job in "ab":
        log.append(receipt(job))
    other.append(receipt("forged"))
    lines = log.path.read_text().splitlines()
    log.path.write_text(other.path.read_text() + lines[1] + "\n")
    with pytest.raises(Permanent, match="line 2"):
        log.verify()


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_line_torn_by_a_crash_is_cut_off_and_appended_anew(tmp_path: Path, kept: int) -> None:
    log = ReceiptLog(tmp_path)
    log.append(receipt("a"))
    whole, head = log.path.read_bytes(), (tmp_path / "head.json").read_bytes()
    log.append(receipt("b"))
    torn = log.path.read_bytes()[len(whole) :][:kept]
    log.path.write_bytes(whole + torn)
    (tmp_path / "head.json").write_bytes(head)  # it and the index entry are written after the line
    for marker in (tmp_path / "by-job").iterdir():
        if json.loads(marker.read_text())["receipt"]["job_key"].endswith("/b"):
            marker.unlink()
    assert log.verify()[0] == 1, "a torn line was never acknowledged, and is no reason to distrust the rest"
    log.append(receipt("b"))
    assert log.verify()[0] == 2


def test_a_crash_between_line_and_index_does_not_double_the_receipt(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path)
    first = log.append(receipt("a"))
    for marker in (tmp_path / "by-job").iterdir():
        marker.unlink()
    assert log.append(receipt("a")) == first
    assert log.verify()[0] == 1


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_log_that_was_cut_or_emptied_is_found(tmp_path: Path, kept: int) -> None:
    """The shorter chain is whole in itself, and used to be approved."""
    log = three_receipts(tmp_path)
    log.path.write_text("".join(log.path.read_text().splitlines(keepends=True)[:kept]))
    with pytest.raises(Permanent, match=f"{kept} of at least 3"):
        log.verify()
    (tmp_path / "head.json").unlink()
    with pytest.raises(Permanent, match=f"{kept} of at least 3"):
        log.verify()


@pytest.mark.parametrize("evidence", ["head.json", "by-job"])
def test_a_log_that_was_removed_is_found(tmp_path: Path, evidence: str) -> None:
    log = three_receipts(tmp_path)
    log.path.unlink()
    for other in {"head.json", "by-job"} - {evidence}:
        (tmp_path / other).rename(tmp_path / "away")
    with pytest.raises(Permanent, match="missing"):
        log.verify()


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_nothing_is_appended_to_a_log_that_was_cut(tmp_path: Path, kept: int) -> None:
    """The new line's head would hide the cut."""
    log = three_receipts(tmp_path)
    short = "".join(log.path.read_text().splitlines(keepends=True)[:kept])
    log.path.write_text(short)
    with pytest.raises(Permanent, match=f"{kept} of at least 3"):
        log.append(receipt("d"))
    assert log.path.read_text() == short


def test_a_log_that_was_exchanged_for_another_whole_one_is_found(tmp_path: Path) -> None:
    log = three_receipts(tmp_path)
    other = ReceiptLog(tmp_path / "other")
    for job in "xyz":
        other.append(receipt(job))
    log.path.write_bytes(other.path.read_bytes())
    with pytest.raises(Permanent, match=r"line 3 .* is not the one"):
        log.verify()
    with pytest.raises(Permanent, match=r"line 3 .* is not the one"):
        log.append(receipt("d"))


def test_a_head_that_a_crash_left_one_line_behind_is_mended_by_the_next_append(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path)
    log.append(receipt("a"))
    behind = (tmp_path / "head.json").read_bytes()
    log.append(receipt("b"))
    (tmp_path / "head.json").write_bytes(behind)
    assert log.verify()[0] == 2
    log.append(receipt("b"))
    assert json.loads((tmp_path / "head.json").read_text())["count"] == 2


def test_a_log_without_a_head_is_an_older_versions_and_gets_one(tmp_path: Path) -> None:
    log = three_receipts(tmp_path)
    (tmp_path / "head.json").unlink()
    assert log.verify()[0] == 3
    last = log.append(receipt("d"))
    assert json.loads((tmp_path / "head.json").read_text()) == {"count": 4, "hash": last}


@pytest.mark.parametrize("content", ["", "{}", '{"count": -1, "hash": ""}'])
def test_a_head_that_cannot_be_read_is_no_approval(tmp_path: Path, content: str) -> None:
    log = three_receipts(tmp_path)
    (tmp_path / "head.json").write_text(content)
    with pytest.raises(Permanent, match=r"head\.json"):
        log.verify()


def _append_many(folder: Path, worker: int) -> None:
    log = ReceiptLog(folder)
    for n in range(20):
        log.append(receipt(f"{worker}-{n}"))


def test_processes_that_append_at_once_keep_the_chain_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(tmp_path, worker)) for worker in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert ReceiptLog(tmp_path).verify()[0] == 60
