"""The receipts' sums, and the page that Prometheus reads, parsed as Prometheus parses it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.health import NetworkState, Snapshot
from deployments.metrics import metrics_page
from deployments.receipt_totals import ReceiptTotals, Totals
from millrace.limits import Limits, Usage
from millrace.receipt import Execution, JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from stages.progress import Looks


def receipt(number: int, **fields: Any) -> Receipt:
    about: dict[str, Any] = {
        "job_key": f"cloudmesh/chain/job-{number}",
        "network": "cloudmesh",
        "outcome": JobOutcome.settled,
        "transaction_id": f"tx-{number}",
        "fee": 5_000,
        "price": 1_000_000,
        "stage_seconds": {"fetch": 0.2, "execute": 40.0},
        "settled_at": datetime(2026, 11, 20, tzinfo=UTC),
    }
    return Receipt.model_validate({**about, **fields})


def snapshot(totals: Totals, **fields: Any) -> Snapshot:
    return Snapshot(
        **{
            "now": 1_000.0,
            "networks": (),
            "workers": (),
            "running": (),
            "totals": totals,
            "damaged_submissions": 0,
            "draining_since": None,
            "free_bytes": 1,
            "cached_modules": (0, 0),
            **fields,
        }
    )


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_only_new_lines_are_read_and_the_sums_go_on(tmp_path: Path) -> None:
    log, reading = ReceiptLog(tmp_path), ReceiptTotals(tmp_path / "receipts.jsonl")
    assert reading.refresh().jobs == {}
    for number in range(3):
        log.append(receipt(number))
        assert reading.refresh().jobs["cloudmesh", JobOutcome.settled] == number + 1
    log.append(receipt(3, outcome=JobOutcome.beaten, fee=None))
    totals = reading.refresh()
    assert totals.jobs == {("cloudmesh", JobOutcome.settled): 3, ("cloudmesh", JobOutcome.beaten): 1}
    assert (totals.fees["cloudmesh"], totals.prices["cloudmesh"]) == (15_000, 3_000_000)
    assert totals.last["cloudmesh"].transaction_id == "tx-2"
    assert ReceiptTotals(tmp_path / "receipts.jsonl").refresh() == totals, "a restart counts to the same"


def test_a_long_log_is_read_in_parts(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path)
    for number in range(20):
        log.append(receipt(number))
    reading = ReceiptTotals(log.path)
    counts = []
    for _ in range(21):
        totals = reading.refresh(most_bytes=1_000)
        counts.append(totals.jobs["cloudmesh", JobOutcome.settled])
        told = ("millrace_fees_total", (("network", "cloudmesh"),)) in samples(metrics_page(snapshot(totals)))
        assert told is (counts[-1] == 20), "a sum that is behind would look like a counter that was set back"
    assert counts[0] < 5
    assert counts == sorted(counts)
    assert counts[-1] == 20


def test_a_torn_line_waits_and_a_strange_one_is_counted(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path)
    log.append(receipt(0))
    reading = ReceiptTotals(log.path)
    with log.path.open("ab") as file:
        file.write(b'{"n": 1, "rec')
    assert reading.refresh().jobs["cloudmesh", JobOutcome.settled] == 1
    with log.path.open("ab") as file:
        file.write(b"\n[]\n\xff\n")
    totals = reading.refresh()
    assert (totals.jobs["cloudmesh", JobOutcome.settled], totals.unreadable) == (1, 3)


def test_another_log_in_its_place_is_counted_anew(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path / "old")
    for number in range(3):
        log.append(receipt(number))
    reading = ReceiptTotals(log.path)
    reading.refresh()
    other = ReceiptLog(tmp_path / "new")
    other.append(receipt(7))
    other.path.replace(log.path)
    assert reading.refresh().jobs == {("cloudmesh", JobOutcome.settled): 1}


def test_the_page_says_it_in_prometheus_words(tmp_path: Path) -> None:
    totals = Totals(complete=True)
    wasm = Execution(
        backend="wasmtime",
        status="ok",
        returncode=0,
        source="x",
        source_sha256="",
        limits=Limits(),
        usage=Usage(),
        instructions=5_000,
    )
    totals.add(receipt(0))
    totals.add(receipt(1, network="offchainvm", execution=wasm, stage_seconds={"execute": 0.01}))
    looks = Looks(looked_at=970.0, head=42, pending=3, given_up=1)
    states = (
        NetworkState("cloudmesh", True, True, looks, None, 2),
        NetworkState("computechain", False, False, None, None, 0),
    )
    found = samples(metrics_page(snapshot(totals, networks=states, reasons=("ill",))))
    cloudmesh = (("network", "cloudmesh"),)
    assert found["millrace_jobs_total", (("network", "cloudmesh"), ("outcome", "settled"))] == 1
    assert found["millrace_fees_total", cloudmesh] == 5_000
    execute = (("network", "cloudmesh"), ("stage", "execute"))
    assert found["millrace_stage_seconds_count", execute] == 1
    assert found["millrace_stage_seconds_sum", execute] == 40
    assert found["millrace_stage_seconds_bucket", (("le", "30.0"), *execute)] == 0
    assert found["millrace_stage_seconds_bucket", (("le", "60.0"), *execute)] == 1
    assert found["millrace_stage_seconds_bucket", (("le", "+Inf"), *execute)] == 1
    assert found["millrace_wasm_instructions_bucket", (("le", "10000.0"), ("network", "offchainvm"))] == 1
    assert found["millrace_last_look_age_seconds", cloudmesh] == 30
    assert (found["millrace_head_height", cloudmesh], found["millrace_open_submissions", cloudmesh]) == (42, 2)
    assert found["millrace_healthy", ()] == 0
    assert ("millrace_network_served", (("network", "computechain"),)) not in found


@pytest.mark.parametrize("number", [500, 5_000])
def test_whatever_the_receipts_say_the_page_stays_small_and_tells_no_jobs_text(number: int) -> None:
    """A label for each job would fill Prometheus, and whoever posts jobs would choose what is in it."""
    totals = Totals(complete=True)
    for each in range(number):
        said = f'stranger-{each}"}}\n# evil'
        totals.add(receipt(each, network=f"net-{each}", job_key=said, result_cid=said, stage_seconds={said: 1.0}))
    page = metrics_page(snapshot(totals))
    assert len(samples(page)) < 2_000
    assert b"result" not in page
    assert b"\n# evil" not in page
