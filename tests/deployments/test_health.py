"""Whether the machine is well, from what its processes have written down."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from deployments.enlisted import Workers
from deployments.health import Examiner, Snapshot
from millrace.network import Fate, SignedSubmission
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from millrace.settings import Settings
from stages.drain import DrainMark
from stages.progress import Landing, Progress
from stages.submit.outbox import Outbox

WORKER = """
import os, sys
from pathlib import Path
from deployments.enlisted import Checked, Workers
missing = Checked(name="sandbox", level="missing", text="bubblewrap is not there", at=1.0)
Workers(Path(sys.argv[1])).enlist(sys.argv[2], "warm", (missing,) if "ill" in sys.argv else ())
sleep = "print('ready', flush=True); import time; time.sleep(60)"
os.execv(sys.executable, [sys.executable, "-c", sleep])  # as `millrace worker` becomes Prefect's worker
"""


def settings(folder: Path, **fields: Any) -> Settings:
    return Settings(data_dir=folder, poll_interval_seconds=10, **fields)


def served(folder: Path) -> Settings:
    return settings(folder, cloudmesh={"program_id": "P", "rpc_urls": ("http://127.0.0.1:1",)})


@contextmanager
def worker(folder: Path, pool: str = "cpu", *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WORKER, str(folder), pool, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def look(own: Settings, now: float | None = None, pools: tuple[str, ...] = ("cpu",)) -> Snapshot:
    return Examiner(own, pools).look(time.time() if now is None else now)


def test_an_empty_folder_is_ill_and_says_why(tmp_path: Path) -> None:
    seen = look(served(tmp_path / "never made"))
    assert seen.reasons == ("worker: none of the pool cpu lives", "cloudmesh: no look has succeeded yet")
    assert seen.document()["status"] == "ill"


def test_a_machine_whose_worker_lives_and_whose_looks_succeed_is_well(tmp_path: Path) -> None:
    own, now = served(tmp_path), time.time()
    Progress(tmp_path).looked("cloudmesh", now=now - 100, head=5, pending=1, given_up=0)
    with worker(tmp_path):
        assert look(own).reasons == ()
        document = look(own).document()
    assert document["networks"]["cloudmesh"]["head"] == 5
    assert document["networks"]["computechain"]["served"] is False
    (only,) = document["workers"]
    assert (only["pool"], only["kind"]) == ("cpu", "warm")


@pytest.mark.parametrize(
    ("interval", "ago", "well"), [(10, 179, True), (10, 181, False), (100, 290, True), (100, 310, False)]
)
def test_looks_may_be_late_by_patience_and_three_intervals(tmp_path: Path, interval: int, ago: int, well: bool) -> None:
    own = served(tmp_path).model_copy(update={"poll_interval_seconds": interval})
    now = time.time()
    Progress(tmp_path).looked("cloudmesh", now=now - ago, head=5, pending=1, given_up=0)
    Progress(tmp_path).could_not_look("cloudmesh", now=now - 1, trouble="503 from the node")
    with worker(tmp_path):
        reasons = look(own, now).reasons
    assert (reasons == ()) is well
    assert well or "503 from the node" in reasons[0]


def test_looks_are_not_missed_where_they_are_not_to_be(tmp_path: Path) -> None:
    """Of a fleet whose machines take turns, and where only challenges are solved."""
    own = served(tmp_path)
    elsewhere = own.model_copy(update={"health": own.health.model_copy(update={"looks": False})})
    with worker(tmp_path), worker(tmp_path, "gpu"):
        assert look(own).reasons != ()
        assert look(elsewhere).reasons == ()
        assert look(own, pools=("gpu",)).reasons == ()
        DrainMark(tmp_path).set()
        assert look(own).reasons == (), "who drains looks at nothing"
        assert look(own).document()["draining"] is not None


def test_a_chain_that_a_coordinator_reads_is_not_missed_and_the_coordinator_is(tmp_path: Path) -> None:
    own = settings(tmp_path, near={"rpc_urls": ("http://127.0.0.1:1",)}, coordinator={"url": "http://127.0.0.1:2"})
    with worker(tmp_path):
        assert look(own).reasons == ("coordinator: no look has succeeded yet",)
        Progress(tmp_path).full("coordinator", now=time.time())
        assert look(own).reasons == (), "one that has no room for more asks for nothing"


def test_a_killed_worker_is_missed_at_once_and_forgotten_by_the_next(tmp_path: Path) -> None:
    own = settings(tmp_path)
    with worker(tmp_path) as process:
        assert look(own).reasons == ()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert look(own).reasons == ("worker: none of the pool cpu lives",)
    with worker(tmp_path):
        assert len(list((tmp_path / "state" / "workers").glob("*.json"))) == 1


def test_a_worker_that_hears_nothing_from_the_server_is_ill(tmp_path: Path) -> None:
    own = settings(tmp_path)
    with worker(tmp_path):
        now = time.time()
        assert look(own, now + 119).reasons == ()
        assert "has not heard from the server" in look(own, now + 125).reasons[0]
        (file,) = (tmp_path / "state" / "workers").glob("*.json")
        os.utime(file, (now + 120, now + 120))
        assert look(own, now + 125).reasons == ()


def test_what_a_worker_found_broken_is_told(tmp_path: Path) -> None:
    with worker(tmp_path, "cpu", "ill"):
        assert look(settings(tmp_path)).reasons == ("worker of the pool cpu: sandbox: bubblewrap is not there",)


def test_a_worker_says_that_it_looked_by_its_own_file_only(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    workers.looked("cpu")
    assert workers.living() == []
    with worker(tmp_path):
        (before,) = workers.living()
        workers.looked("cpu")
        assert workers.living() == [before]


def submission(number: int) -> SignedSubmission:
    return SignedSubmission(
        job_key=f"cloudmesh/chain/job-{number}",
        network="cloudmesh",
        transaction_id=f"tx-{number}",
        payload="AA==",
        sender="us",
        result_cid="bafy",
        price=1,
    )


def test_open_submissions_are_counted_until_their_fate_is_final(tmp_path: Path) -> None:
    own, outbox = served(tmp_path), Outbox(tmp_path / "outbox")
    for number in range(2):
        outbox.record(submission(number))
    assert look(own).document()["networks"]["cloudmesh"]["open_submissions"] == 2
    outbox.mark(submission(0), Fate.landed)
    outbox.settle(submission(0).job_key)
    assert look(own).document()["networks"]["cloudmesh"]["open_submissions"] == 1
    next((tmp_path / "outbox").glob("*.json")).write_text("damaged")
    assert "outbox: 1 files cannot be read: their jobs' fate is not known" in look(own).reasons


def test_the_last_landing_is_the_newer_of_the_note_and_the_receipt(tmp_path: Path) -> None:
    own, progress = served(tmp_path), Progress(tmp_path)
    at = 1_700_000_000.0
    progress.landed("cloudmesh", Landing(job_key="k", transaction_id="noted", height=1, seen_at=at))
    assert look(own, at + 5).document()["networks"]["cloudmesh"]["last_landed"] == {
        "transaction_id": "noted",
        "height": 1,
        "seconds_ago": 5.0,
    }
    ReceiptLog(tmp_path / "receipts").append(
        Receipt(
            job_key="cloudmesh/chain/later",
            network="cloudmesh",
            outcome=JobOutcome.settled,
            transaction_id="settled",
            height=2,
            settled_at=datetime.fromtimestamp(at + 60, UTC),
        )
    )
    found = look(own, at + 65).document()["networks"]["cloudmesh"]["last_landed"]
    assert (found["transaction_id"], found["height"], found["seconds_ago"]) == ("settled", 2, 5.0)


class Daemon(BaseHTTPRequestHandler):
    """What a Docker daemon says of itself."""

    def do_GET(self) -> None:
        told = {
            "ServerVersion": "27.0",
            "SecurityOptions": ["name=seccomp,profile=builtin"],
            "Runtimes": {"runc": {"path": "runc"}},
        }
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        pass


def test_a_docker_daemon_that_ends_is_missed_where_one_is_needed(tmp_path: Path) -> None:
    """A worker found it when it started, and said for ever that it was there."""
    path = tmp_path / "docker.sock"
    needed = settings(tmp_path, sandbox={"backend": "docker", "docker_host": f"unix://{path}"})
    examiner, other = Examiner(needed, ()), Examiner(settings(tmp_path), ())
    with socketserver.ThreadingUnixStreamServer(str(path), Daemon) as daemon:
        serving = threading.Thread(target=daemon.serve_forever, args=(0.02,))
        serving.start()
        examiner.try_engine(1_000.0)
        daemon.shutdown()
        serving.join()
    assert examiner.look(1_000.0).reasons == ()
    assert examiner.look(1_000.0).document()["engine"]["text"] == "Docker 27.0, runc"
    path.unlink()
    examiner.try_engine(1_060.0)
    assert "no Docker daemon answers" in examiner.look(1_060.0).reasons[0]
    other.try_engine(1_060.0)
    assert other.look(1_060.0).reasons == ()
    assert other.look(1_060.0).document()["engine"] is None
