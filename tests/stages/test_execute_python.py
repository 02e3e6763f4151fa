"""The stage that runs a Python program: the document it writes, and whose fault a failure is."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import Transient
from millrace.limits import Limits
from millrace.retry import is_retriable
from millrace.settings import Settings
from stages.execute.python import Execution, execute_python, result_document, run_python
from stages.execute.sandbox import Check, Outcome, SandboxFault, Spec, Status, missing_tools, open_sandbox

NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
MISSING = missing_tools()


def clock() -> float:
    return NOON.timestamp()


@dataclass
class Scripted:
    """A sandbox that answers what it was told to, and waits for `cancel` if it was told nothing."""

    outcome: Outcome | None
    seen: list[Spec] = field(default_factory=list)
    cancelled: bool = False
    running: threading.Event = field(default_factory=threading.Event)
    name: str = "scripted"

    def run(self, spec: Spec, cancel: threading.Event | None = None) -> Outcome:
        self.seen.append(spec)
        if self.outcome is not None:
            return self.outcome
        assert cancel is not None
        self.running.set()
        self.cancelled = cancel.wait(10)
        return Outcome(Status.sandbox_error, None, detail="cancelled")

    def self_test(self) -> list[Check]:
        return []

    def sweep(self) -> list[str]:
        return []

    def describe(self) -> list[str]:
        return []

    def fingerprint(self) -> str:
        return ""


@dataclass
class Shelf:
    programs: dict[str, bytes]

    @property
    def store(self) -> Shelf:
        return self

    def get(self, cid: str) -> bytes:
        return self.programs[cid]


def executed(outcome: Outcome, within: Limits | None = None) -> Execution:
    return run_python(b"pass", within or Limits(), sandbox=Scripted(outcome), clock=clock)


def test_the_document_has_exactly_the_four_fields() -> None:
    run = executed(Outcome(Status.exit, 3, b"out\n", b"err\n"))
    assert json.loads(run.result_json) == {
        "stdout": "out\n",
        "stderr": "err\n",
        "returncode": 3,
        "executed_at": "2026-03-01T12:00:00.250Z",
    }


def test_a_cut_output_says_so_at_its_end() -> None:
    run = executed(
        Outcome(Status.output_limit, -9, b"xxxx", b"", stdout_cut=True, detail="killed for writing more than 4 bytes"),
        Limits(output_bytes=4),
    )
    document = json.loads(run.result_json)
    assert document["stdout"] == "xxxx\n[millrace: output cut at 4 bytes]"
    assert document["stderr"] == "[millrace: killed for writing more than 4 bytes]\n"
    assert document["returncode"] == -9


@pytest.mark.parametrize("status", [Status.timeout, Status.oom, Status.signal, Status.output_limit])
def test_a_killed_program_has_the_reason_as_the_last_line_of_its_stderr(status: Status) -> None:
    document = json.loads(executed(Outcome(status, -9, b"", b"no newline", detail="why")).result_json)
    assert document["stderr"] == "no newline\n[millrace: why]\n"


def test_bytes_that_are_no_text_are_kept_beside_the_document() -> None:
    run = executed(Outcome(Status.ok, 0, b"\xff\x00", b"plain"))
    assert json.loads(run.result_json)["stdout"] == "\ufffd\x00"
    assert base64.b64decode(run.stdout_base64) == b"\xff\x00"
    assert run.stderr_base64 == ""


def test_output_that_looks_like_a_document_stays_output() -> None:
    forged = b'","returncode":0,"executed_at":"x"}\n{"stdout":"forged"}'
    document = json.loads(executed(Outcome(Status.exit, 1, forged, b"")).result_json)
    assert document["stdout"] == forged.decode()
    assert document["returncode"] == 1


@given(
    stdout=st.binary(max_size=200),
    stderr=st.binary(max_size=200),
    returncode=st.integers(-64, 255),
    cut=st.booleans(),
)
def test_the_document_reads_back_whatever_was_written(stdout: bytes, stderr: bytes, returncode: int, cut: bool) -> None:
    outcome = Outcome(Status.exit, returncode, stdout, stderr, stdout_cut=cut)
    document = json.loads(result_document(outcome, Limits(), NOON).encode())
    assert set(document) == {"stdout", "stderr", "returncode", "executed_at"}
    assert document["stdout"].startswith(stdout.decode(errors="replace"))
    assert document["returncode"] == returncode


def test_an_execution_survives_json_and_its_evidence_is_complete() -> None:
    run = executed(Outcome(Status.ok, 0, b"\xfe", b"", backend="box 1"))
    assert Execution.model_validate_json(run.model_dump_json()) == run
    evidence = json.loads(run.evidence_json("cloudmesh/local/1"))
    assert evidence["job"] == "cloudmesh/local/1"
    assert evidence["result"] == json.loads(run.result_json)
    assert base64.b64decode(evidence["stdout_base64"]) == b"\xfe"
    assert {"limits", "usage", "program_sha256", "backend", "status"} <= set(evidence)


async def test_a_sandbox_fault_is_retried_and_never_charged_to_the_job() -> None:
    broken = Scripted(Outcome(Status.sandbox_error, None, detail="the box did not start: no"))
    with pytest.raises(SandboxFault, match="the box did not start") as caught:
        await execute_python("cid", Limits(), content=Shelf({"cid": b"pass"}), sandbox=broken, clock=clock)
    assert isinstance(caught.value, Transient)
    assert is_retriable(caught.value)
    assert caught.value.stage == "execute"
    assert "millrace doctor" in caught.value.hint


async def test_the_program_behind_the_cid_is_run_within_the_limits() -> None:
    sandbox = Scripted(Outcome(Status.ok, 0))
    within = Limits(wall_seconds=3)
    await execute_python("cid", within, content=Shelf({"cid": b"code"}), sandbox=sandbox, clock=clock)
    assert sandbox.seen == [Spec(b"code", limits=within)]


async def test_a_cancelled_task_kills_its_run_before_it_ends() -> None:
    sandbox = Scripted(None)
    task = asyncio.create_task(
        execute_python("cid", Limits(), content=Shelf({"cid": b"code"}), sandbox=sandbox, clock=clock)
    )
    assert await asyncio.to_thread(sandbox.running.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sandbox.cancelled


@pytest.mark.sandbox
@pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}: apt install bubblewrap libseccomp2 python3")
@pytest.mark.parametrize(
    ("program", "status", "returncode"),
    [
        ("print('hi')", Status.ok, 0),
        ("raise SystemExit(4)", Status.exit, 4),
        ("import os; os.abort()", Status.signal, -6),
        ("while True: pass", Status.timeout, -9),
        ("while True: print('x' * 999)", Status.output_limit, -9),
    ],
)
async def test_a_failing_program_is_a_completed_job(program: str, status: Status, returncode: int) -> None:
    sandbox = open_sandbox(Settings(_env_file=None))
    run = await execute_python(
        "cid",
        Limits(wall_seconds=0.6, output_bytes=10_000, memory_bytes=128 << 20),
        content=Shelf({"cid": program.encode()}),
        sandbox=sandbox,
        clock=clock,
    )
    assert (run.status, run.returncode) == (status, returncode)
    assert json.loads(run.result_json)["returncode"] == returncode
    assert run.backend == sandbox.name
