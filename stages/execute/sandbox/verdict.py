"""From what was seen of a run to what it is called."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from millrace.limits import Limits, Usage
from stages.execute.sandbox.cgroup import MISSING_EXIT_CODE
from stages.execute.sandbox.interface import Outcome, Status
from stages.execute.sandbox.launch import cpu_seconds_limit
from stages.execute.sandbox.streams import Kept
from stages.execute.sandbox.supervisor import Ending

_FIRST_SIGNAL_CODE = 129
_LAST_SIGNAL_CODE = 192
_CLOCK_SECONDS = 0.5
"""How far the kernel's two counts of CPU time, a process's and a group's, may be apart."""


@dataclass(frozen=True)
class Observation:
    """What the supervisor and the kernel have to say about a run."""

    ending: Ending
    exit_code: int | None
    oom_kills: int
    dead: bool
    stdout: Kept
    stderr: Kept
    usage: Usage
    reached_memory_limit: bool = True
    """Whether such kills were for the job's own limit; where nobody can tell, they are taken to be."""
    out_of_cpu_time: bool | None = None
    """Whether a back end that counts for itself ended the run for its CPU time; None where the kernel does."""


def judge(seen: Observation, limits: Limits, backend: str) -> Outcome:
    """The outcome of a run. The kernel's counter tells a lack of memory from any other kill."""
    status, returncode, detail = _verdict(seen, limits)
    if not seen.dead:
        status, returncode, detail = Status.sandbox_error, None, "a process of the job could not be killed"
    return Outcome(
        status=status,
        returncode=returncode,
        stdout=bytes(seen.stdout.kept),
        stderr=bytes(seen.stderr.kept),
        stdout_cut=seen.stdout.cut,
        stderr_cut=seen.stderr.cut,
        usage=seen.usage,
        backend=backend,
        detail=detail,
    )


def _verdict(seen: Observation, limits: Limits) -> tuple[Status, int | None, str]:
    killed = -int(signal.SIGKILL)
    if seen.ending is Ending.cancelled:
        return Status.sandbox_error, None, "cancelled"
    if seen.ending is Ending.timeout:
        return Status.timeout, killed, f"killed after {limits.wall_seconds:g} s"
    if seen.ending is Ending.output_limit:
        return Status.output_limit, killed, f"killed for writing more than {limits.output_bytes} bytes"
    if seen.oom_kills and seen.exit_code != 0:
        if not seen.reached_memory_limit:
            return Status.sandbox_error, None, "the machine ran out of memory, not the job: killed within its own limit"
        return Status.oom, killed, f"killed for using more than {limits.memory_bytes} bytes of memory"
    if seen.exit_code is None:
        return Status.sandbox_error, None, _fault(seen)
    told = seen.out_of_cpu_time
    return _exit_verdict(seen.exit_code, may_be_late=_used_its_cpu_time(seen.usage, limits) if told is None else told)


def _used_its_cpu_time(usage: Usage, limits: Limits) -> bool:
    """Whether the kernel can have ended a process for its CPU time: anybody can send the same signal, or exit with 152.

    Where CPU time is not measured, it is what all cores could have given in that time.
    """
    possible = usage.wall_seconds * (os.cpu_count() or 1) if usage.cpu_seconds is None else usage.cpu_seconds
    return possible >= cpu_seconds_limit(limits) - _CLOCK_SECONDS


def _exit_verdict(code: int, *, may_be_late: bool) -> tuple[Status, int, str]:
    if code == 0:
        return Status.ok, 0, ""
    if not _FIRST_SIGNAL_CODE <= code <= _LAST_SIGNAL_CODE:
        return Status.exit, code, f"exit code {code}"
    number = code - _FIRST_SIGNAL_CODE + 1
    if number == signal.SIGXCPU and may_be_late:
        return Status.timeout, -int(signal.SIGKILL), "killed for using more CPU time than its limits allow"
    return Status.signal, -number, f"ended by {_signal_name(number)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _fault(seen: Observation) -> str:
    """Our own tools' last words: the program never ran, so nothing in them is the job's."""
    words = bytes(seen.stderr.kept).decode(errors="replace").strip().splitlines()
    last = words[-1][:300] if words else f"ended without a word (exit code {MISSING_EXIT_CODE} is a lost control group)"
    return f"the box did not start: {last}"
