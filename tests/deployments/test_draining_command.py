"""`millrace drain`: what it waits for, and what it says in the end."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from deployments.draining import EMPTY, ENDED, NOT_EMPTY, drain, end_drain
from millrace.network import Fate, SignedSubmission
from millrace.settings import Settings
from stages.drain import DrainMark
from stages.submit.outbox import Outbox

HOLD = """
import sys
from pathlib import Path
from flows.lease import hold_lease
with hold_lease(Path(sys.argv[1]), sys.argv[2], flow=sys.argv[3], about="a job"):
    print("held", flush=True)
    sys.stdin.read()
"""

SUBMISSION = SignedSubmission(
    job_key="cloudmesh/chain/job",
    network="cloudmesh",
    transaction_id="tx",
    payload="AA==",
    sender="us",
    result_cid="bafy",
    price=1,
)


@contextmanager
def flow_run(folder: Path, flow: str, name: str = "run") -> Iterator[subprocess.Popen[str]]:
    """A process that works on a flow run, until its standard input ends."""
    command = [sys.executable, "-c", HOLD, str(folder / "leases"), name, flow]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


class Operator:
    """Runs the command with a clock that only waiting moves; `at` says what happens while it waits."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder)
        self.output = io.StringIO()
        self.console = Console(file=self.output, width=500)
        self.seconds = 0.0
        self.at: dict[int, object] = {}

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        happening = self.at.pop(round(self.seconds), None)
        if callable(happening):
            happening()
        assert self.seconds < 1_000, f"it waits for ever: {self.output.getvalue()}"

    def drain(self, *, wait: bool = True, timeout: float | None = None) -> int:
        return drain(
            self.settings,
            self.console,
            wait=wait,
            timeout_seconds=timeout,
            elapsed=lambda: self.seconds,
            sleep=self.sleep,
        )


def test_an_idle_machine_is_empty_at_once_and_goes_on_draining(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    assert operator.drain() == EMPTY
    assert operator.seconds <= 2
    assert "empty: nothing runs" in operator.output.getvalue()
    assert DrainMark(tmp_path).is_set()


def test_what_runs_is_waited_for_and_what_stands_is_not(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    with flow_run(tmp_path, "cloudmesh-job", "job") as job, flow_run(tmp_path, "watch", "watch"):
        operator.at[5] = lambda: (job.communicate(), None)
        assert operator.drain() == EMPTY
    assert 5 <= operator.seconds <= 7
    told = operator.output.getvalue()
    assert "left: cloudmesh-job a job: flow run job runs" in told
    assert "watch" not in told


def test_a_submission_is_waited_for_until_its_fate_is_final(tmp_path: Path) -> None:
    """The process that signed it was killed: nothing runs, and its transaction may still land."""
    outbox = Outbox(tmp_path / "outbox")
    outbox.record(SUBMISSION)
    operator = Operator(tmp_path)
    operator.at[3] = lambda: outbox.mark(SUBMISSION, Fate.landed)
    operator.at[6] = lambda: outbox.settle(SUBMISSION.job_key)
    assert operator.drain() == EMPTY
    assert operator.seconds >= 6
    told = operator.output.getvalue()
    assert "left: cloudmesh/chain/job: transaction tx has no final answer" in told
    assert "no worker lives here" in told


def test_a_file_of_the_outbox_that_cannot_be_read_is_not_empty(tmp_path: Path) -> None:
    Outbox(tmp_path / "outbox").record(SUBMISSION)
    next((tmp_path / "outbox").glob("*.json")).write_text("damaged")
    operator = Operator(tmp_path)
    assert operator.drain(timeout=5) == NOT_EMPTY
    assert "its job's fate is not known" in operator.output.getvalue()


def test_at_the_time_out_it_says_what_is_left_and_goes_on_draining(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    with flow_run(tmp_path, "cloudmesh-job"):
        assert operator.drain(timeout=10) == NOT_EMPTY
    assert operator.seconds == 10
    told = operator.output.getvalue()
    assert "not empty after 10 s; it goes on draining" in told
    assert told.rstrip().endswith("flow run run runs")
    assert DrainMark(tmp_path).is_set()


def test_without_waiting_it_says_what_is_left_now(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    assert operator.drain(wait=False) == EMPTY
    with flow_run(tmp_path, "cloudmesh-job"):
        assert operator.drain(wait=False) == NOT_EMPTY
    assert operator.seconds == 0


def test_while_it_waits_a_worker_that_starts_does_not_end_it_and_a_person_may(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    started: list[bool] = []
    operator.at[3] = lambda: started.append(DrainMark(tmp_path).end_at_start())
    operator.at[6] = lambda: end_drain(operator.settings, operator.console)
    with flow_run(tmp_path, "cloudmesh-job"):
        assert operator.drain() == ENDED
    assert started == [False]
    assert operator.seconds == 6
    assert "somebody ended the draining" in operator.output.getvalue()


def test_the_command_itself(tmp_path: Path) -> None:
    environment = {**os.environ, "MILLRACE_DATA_DIR": str(tmp_path)}

    def millrace(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "deployments", "drain", *arguments]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return told.returncode, told.stdout

    assert millrace("--timeout", "20")[0] == 0
    assert DrainMark(tmp_path).is_set()
    with flow_run(tmp_path, "cloudmesh-job"):
        code, told = millrace("--timeout", "1.5")
    assert (code, "left: cloudmesh-job" in told) == (1, True)
    assert millrace("--end") == (0, "jobs are taken again; one that was declined meanwhile waits for its cooldown\n")
    assert not DrainMark(tmp_path).is_set()
