"""From what was seen to what it is called."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.limits import Limits, Usage
from stages.execute.sandbox.interface import Outcome, Status
from stages.execute.sandbox.streams import Kept, Stream, report_entry
from stages.execute.sandbox.supervisor import Ending
from stages.execute.sandbox.verdict import Observation, judge

LIMITS = Limits(wall_seconds=10, cpus=1)  # so a process may use 11 s of CPU time


def stream(kept: bytes = b"") -> Kept:
    return Kept(1000, bytearray(kept))


def seen(
    ending: Ending = Ending.exited,
    code: int | None = 0,
    ooms: int = 0,
    dead: bool = True,
    err: bytes = b"",
    usage: Usage | None = None,
    own_limit: bool = True,
) -> Outcome:
    observation = Observation(ending, code, ooms, dead, stream(), stream(err), usage or Usage(), own_limit)
    return judge(observation, LIMITS, "box")


@pytest.mark.parametrize(
    ("code", "status", "returncode"),
    [
        (0, Status.ok, 0),
        (1, Status.exit, 1),
        (128, Status.exit, 128),
        (129, Status.signal, -1),
        (137, Status.signal, -9),
        (139, Status.signal, -11),
        (192, Status.signal, -64),
        (193, Status.exit, 193),
        (255, Status.exit, 255),
        (128 + 24, Status.signal, -24),
    ],
)
def test_exit_codes_are_read_as_a_shell_reads_them(code: int, status: Status, returncode: int) -> None:
    outcome = seen(code=code)
    assert (outcome.status, outcome.returncode) == (status, returncode)


def test_a_kill_is_out_of_memory_only_if_the_kernel_says_so() -> None:
    assert seen(code=137).status is Status.signal
    assert seen(code=137, ooms=1).status is Status.oom
    assert seen(code=None, ooms=1).status is Status.oom, "the box itself may be the victim"
    assert seen(code=0, ooms=1).status is Status.ok, "the program coped with the loss of a child"


@pytest.mark.parametrize("code", [137, 1, None])
def test_a_kill_within_the_jobs_own_limit_is_the_machines_fault(code: int | None) -> None:
    """A limit above ours, or the whole machine, made the kernel kill: the job was called `oom` for it."""
    outcome = seen(code=code, ooms=1, own_limit=False)
    assert (outcome.status, outcome.returncode) == (Status.sandbox_error, None)
    assert "the machine ran out of memory" in outcome.detail
    assert seen(code=0, ooms=1, own_limit=False).status is Status.ok


@pytest.mark.parametrize(
    ("usage", "status"),
    [
        (Usage(wall_seconds=9.9, cpu_seconds=10.99), Status.timeout),
        (Usage(wall_seconds=9.9, cpu_seconds=0.1), Status.signal),
        (Usage(wall_seconds=9.9, cpu_seconds=5), Status.signal),
        (Usage(wall_seconds=5.5), Status.timeout),
        (Usage(wall_seconds=5.0), Status.signal),
    ],
)
def test_a_timeout_of_cpu_time_is_believed_only_if_it_was_used(
    usage: Usage, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job could have itself called `timeout` by exiting with 152 or sending itself SIGXCPU."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    outcome = seen(code=128 + 24, usage=usage)
    assert (outcome.status, outcome.returncode) == (status, -9 if status is Status.timeout else -24)


def test_a_program_that_never_ran_is_our_fault_with_our_tools_last_words() -> None:
    outcome = seen(code=None, err=b"first\nbwrap: No permissions to create new namespace\n")
    assert (outcome.status, outcome.returncode) == (Status.sandbox_error, None)
    assert "No permissions to create new namespace" in outcome.detail


@pytest.mark.parametrize("ending", list(Ending))
def test_what_cannot_be_killed_is_never_a_result(ending: Ending) -> None:
    assert seen(ending, dead=False).status is Status.sandbox_error


@given(st.binary(max_size=300))
def test_any_report_is_read_without_an_error(noise: bytes) -> None:
    made = stream(noise + b'\n{ "child-pid": 41 }\n')
    assert report_entry(made, "exit-code") is None or isinstance(report_entry(made, "exit-code"), int)


@given(st.integers(1, 4_000_000), st.integers(0, 255))
def test_a_report_tells_pid_and_exit_code(pid: int, code: int) -> None:
    made = stream(f"{json.dumps({'child-pid': pid})}\n{json.dumps({'exit-code': code})}\n".encode())
    assert (report_entry(made, "child-pid"), report_entry(made, "exit-code")) == (pid, code)


@given(st.binary(max_size=5000), st.integers(1, 5000))
def test_a_stream_keeps_the_first_bytes_up_to_its_limit(content: bytes, limit_bytes: int) -> None:
    reading, writing = os.pipe()
    try:
        pipe = Stream(reading, limit_bytes)
        os.write(writing, content)
        os.close(writing)
        pipe.drain()
        assert bytes(pipe.kept) == content[:limit_bytes]
        assert pipe.cut == (len(content) > limit_bytes)
    finally:
        os.close(reading)
