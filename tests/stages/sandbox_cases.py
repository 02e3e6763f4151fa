"""What a case for the sandbox is: a program, and what must become of it.

Every program begins with the guard: it does nothing unless it runs in the box. This module needs no test framework, so
that an ordinary user's Python can run the same cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from millrace.limits import MIB, Limits
from stages.execute.sandbox.interface import Outcome, Sandbox, Spec, Status
from stages.execute.sandbox.probes import GUARD

Judge = Callable[[Outcome], bool]

PRELUDE = (
    GUARD
    + """
import ctypes, errno, os, platform, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def refused(attempt):
    try:
        attempt()
    except OSError as error:
        return error.errno or True
    return 0
def call(name, *arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if getattr(libc, name)(*arguments) == -1 else 0
def raw(x86, arm, *arguments):
    number = {"x86_64": x86, "aarch64": arm}[platform.machine()]
    return call("syscall", ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
def status(pid):
    lines = open(f"/proc/{pid}/status").read().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
def held(condition, *what):
    print("held" if condition else f"BROKEN {what}")
"""
)
"""What the programs share; only what is in `program` differs."""


def limits(**changes: float) -> Limits:
    """Small limits, so that running into them is quick."""
    small = Limits(wall_seconds=10, memory_bytes=128 * MIB, processes=30, scratch_bytes=16 * MIB, output_bytes=MIB)
    return small.model_copy(update=changes)


def says(text: str) -> Judge:
    """The outcome's stdout is exactly `text` and a newline."""
    return lambda outcome: outcome.stdout == text.encode() + b"\n"


HELD = says("held")
"""What `held` of the prelude prints if all is well."""


@dataclass(frozen=True)
class Case:
    """One program and the verdicts that are right.

    `ordinary` are the verdicts on a machine without control groups, where they differ; None if the promise is not
    made there at all.
    """

    name: str
    program: str
    statuses: frozenset[Status] = frozenset({Status.ok})
    judge: Judge = HELD
    ordinary: frozenset[Status] | None = frozenset()
    limits: Limits = field(default_factory=limits)
    stdin: bytes = b""

    def promised(self, *, grouped: bool) -> bool:
        """Whether the sandbox claims to hold this case on such a machine."""
        return grouped or self.ordinary is not None

    def broken(self, sandbox: Sandbox, *, grouped: bool) -> str:
        """Run the case; returns what is wrong with the outcome, empty if nothing is."""
        outcome = sandbox.run(Spec((PRELUDE + self.program).encode(), self.stdin, self.limits))
        wanted = self.statuses if grouped else self.ordinary or self.statuses
        if outcome.status in wanted and self.judge(outcome):
            return ""
        output = f"{outcome.stdout[:300]!r} {outcome.stderr[-600:]!r}"
        return f"{outcome.status} {outcome.returncode} after {outcome.usage.wall_seconds} s: {output} {outcome.detail}"


def any_output(outcome: Outcome) -> bool:
    """The status alone tells."""
    return True


OOM = frozenset({Status.oom})
EXIT = frozenset({Status.exit})
SIGNAL = frozenset({Status.signal})
TIMEOUT = frozenset({Status.timeout})
FLOODED = frozenset({Status.output_limit})
ANY_END = frozenset(Status) - {Status.sandbox_error}
