"""Whose fault a failure is, and what happens where there is no sandbox: no job is ever run bare."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from attack_backends import BUBBLEWRAP
from attack_case import PRELUDE, limits
from attack_corpus import BY_NAME
from attack_reach import ENVELOPE
from attack_weakened import (
    Weaken,
    group_with,
    no_filter,
    on_the_way,
    open_file_too,
    our_environment,
    with_capabilities,
    without,
)

from millrace.errors import Declined, DeclineReason, Transient
from millrace.limits import MIB
from millrace.retry import is_retriable
from millrace.settings import Settings
from stages.execute.python import Execution, run_python
from stages.execute.sandbox import SandboxFault, Status, open_sandbox, tools
from stages.execute.sandbox.bubblewrap import BubblewrapSandbox
from stages.execute.sandbox.selftest import CACHE_FILE, ensure_working

UNAVAILABLE = BUBBLEWRAP.unavailable()
pytestmark = [pytest.mark.sandbox, pytest.mark.skipif(bool(UNAVAILABLE), reason=UNAVAILABLE)]


@pytest.fixture(scope="module")
def sandbox() -> BubblewrapSandbox:
    opened = BUBBLEWRAP.open()
    assert isinstance(opened, BubblewrapSandbox)
    return opened


def executed(sandbox: BubblewrapSandbox, program: str, wall_seconds: float = 10) -> Execution:
    within = limits(wall_seconds=wall_seconds)
    return run_python((PRELUDE + program).encode(), within, sandbox=sandbox, clock=time.time)


@pytest.mark.parametrize(
    ("name", "status", "returncode"),
    [
        ("exit_code", Status.exit, 7),
        ("exception", Status.exit, 1),
        ("segv_ctypes", Status.signal, -11),
        ("infinite_loop", Status.timeout, -9),
        ("mem_bomb", Status.oom, -9),
    ],
)
def test_fault_or_job_what_a_job_does_is_its_result(
    sandbox: BubblewrapSandbox, name: str, status: Status, returncode: int
) -> None:
    run = executed(sandbox, BY_NAME[name].program, BY_NAME[name].limits.wall_seconds)
    assert (run.status, run.returncode) == (status, returncode)
    assert json.loads(run.result_json)["returncode"] == returncode


@pytest.mark.parametrize("broken", ["bwrap", "prlimit", "setpriv"])
def test_fault_or_job_what_the_box_does_is_retried(sandbox: BubblewrapSandbox, broken: str, tmp_path: Path) -> None:
    without_it = replace(sandbox, tools=replace(sandbox.tools, **{broken: tmp_path / broken}))
    with pytest.raises(SandboxFault) as caught:
        executed(without_it, "print('hi')")
    assert isinstance(caught.value, Transient)
    assert is_retriable(caught.value)


def test_a_forged_report_and_document_stay_output(sandbox: BubblewrapSandbox) -> None:
    run = executed(sandbox, BY_NAME["output_forgery"].program)
    document = json.loads(run.result_json)
    assert (document["stdout"], document["returncode"]) == (ENVELOPE.decode(), 7)
    assert not document["executed_at"].startswith("2000")


def test_a_pickle_that_a_job_prints_is_text_in_the_document(sandbox: BubblewrapSandbox) -> None:
    with BY_NAME["pickle_result"].host() as known:
        run = executed(sandbox, f"HOST = {dict(known)!r}\n{BY_NAME['pickle_result'].program}")
    assert "mkdir" in json.loads(run.result_json)["stdout"]


def test_no_sandbox_refused_when_a_tool_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "SEARCH_PATH", str(tmp_path))
    with pytest.raises(Declined) as caught:
        open_sandbox(Settings(_env_file=None))
    assert caught.value.reason is DeclineReason.no_sandbox
    assert "bwrap" in caught.value.message
    assert "apt install" in caught.value.hint


@pytest.mark.parametrize(
    ("weaken", "promise"),
    [
        pytest.param(no_filter, "no exotic sockets", id="no filter"),
        pytest.param(our_environment, "nothing of our environment in its first process", id="our environment"),
        pytest.param(with_capabilities, "no privileges", id="capabilities"),
        pytest.param(without("--unshare-pid"), "tells about itself", id="the host's processes"),
        pytest.param(without("--remount-ro", "/dev"), "a read-only root", id="a writable /dev"),
        pytest.param(on_the_way(open_file_too), "no open files of ours", id="an open file"),
        pytest.param(group_with(memory_bytes=1024 * MIB), "the memory limit", id="more memory"),
        pytest.param(group_with(processes=200), "the process limit", id="more processes"),
    ],
)
def test_no_sandbox_refused_when_a_defence_is_missing(
    weaken: Weaken,
    promise: str,
    sandbox: BubblewrapSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control of the self-test: it notices, names the promise, and is not remembered as passed."""
    monkeypatch.setenv("MILLRACE_ATTACK_SECRET", "correct-horse")
    with pytest.raises(Declined, match=promise) as caught:
        ensure_working(weaken(monkeypatch, sandbox), tmp_path)
    assert caught.value.reason is DeclineReason.no_sandbox
    assert not (tmp_path / CACHE_FILE).exists()
