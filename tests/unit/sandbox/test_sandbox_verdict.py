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


def stream(kept: bytes = b"") -> Kept:
    return Kept(1000, bytearray(kept))


def seen(
    ending: Ending = Ending.exited, code: int | None = 0, ooms: int = 0, dead: bool = True, err: bytes = b""
) -> Outcome:
    observation = Observation(ending, code, ooms, dead, stream(), stream(err), Usage())
    return judge(observation, Limits(), "box")


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
        (128 + 24, Status.timeout, -9),
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
