"""What a case of the attack corpus is: a program, and what must become of it.

Every program begins with a guard: it does nothing unless it runs in a box. A case says what is right on bubblewrap with
control groups; where another back end ends a program differently, that back end's own table says so (see
`attack_backends`). No case reaches beyond what it names, and none does harm if its defence is missing: bombs are as
large as it takes to tell, never larger.

This module needs no test framework, so that an ordinary user's Python can run the same cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from millrace.limits import MIB, Limits
from stages.execute.sandbox.interface import Outcome, Spec, Status
from stages.execute.sandbox.probes import GUARD

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from stages.execute.sandbox.interface import Sandbox

Judge: TypeAlias = Callable[[Outcome], bool]
Host: TypeAlias = "Callable[[], AbstractContextManager[Mapping[str, object]]]"

TOOLS = """
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

PRELUDE = GUARD + TOOLS
"""What the programs share; only what is in `program` differs."""


def limits(**changes: float) -> Limits:
    """Small limits, so that running into them is quick."""
    small = Limits(wall_seconds=10, memory_bytes=128 * MIB, processes=30, scratch_bytes=16 * MIB, output_bytes=MIB)
    return small.model_copy(update=changes)


def says(text: str) -> Judge:
    """The outcome's stdout is exactly `text` and a newline."""
    return lambda outcome: outcome.stdout == text.encode() + b"\n"


def complains_of(*words: str) -> Judge:
    """The last line of stderr has one of the words: how a back end without the feature refuses it."""

    def judge(outcome: Outcome) -> bool:
        last = outcome.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return any(word in line for line in last for word in words)

    return judge


def any_output(outcome: Outcome) -> bool:
    """The status alone tells."""
    return True


HELD = says("held")
"""What `held` of the prelude prints if all is well."""

OK = frozenset({Status.ok})
OOM = frozenset({Status.oom})
EXIT = frozenset({Status.exit})
SIGNAL = frozenset({Status.signal})
TIMEOUT = frozenset({Status.timeout})
FLOODED = frozenset({Status.output_limit})


@dataclass(frozen=True)
class Difference:
    """How a case ends on a back end where it does not end as on bubblewrap.

    What is None is as in the case. `reason` is for whoever reads the table.
    """

    reason: str
    statuses: frozenset[Status] | None = None
    judge: Judge | None = None
    limits: Limits | None = None
    program: str | None = None


@dataclass(frozen=True)
class NotPromised:
    """A case that a back end makes no promise about, and why."""

    reason: str


Differences: TypeAlias = Mapping[str, "Difference | NotPromised"]
"""By the case's name."""


@contextmanager
def nothing_special() -> Iterator[Mapping[str, object]]:
    """A host on which nothing is set up for the case."""
    yield {}


@dataclass(frozen=True)
class Case:
    """One program and the verdicts that are right on bubblewrap with control groups.

    `host` sets up what the program must not reach, and gives it what it needs to know as the dictionary `HOST`; it may
    raise `Reached` when it is left.
    """

    name: str
    program: str
    statuses: frozenset[Status] = OK
    judge: Judge = HELD
    limits: Limits = field(default_factory=limits)
    stdin: bytes = b""
    host: Host = nothing_special

    def broken(self, sandbox: Sandbox, difference: Difference | None = None, prelude: str = PRELUDE) -> str:
        """Run the case; returns what is wrong with the outcome, empty if nothing is."""
        other = difference or Difference("")
        program = self.program if other.program is None else other.program
        try:
            with self.host() as known:
                source = f"{prelude}HOST = {dict(known)!r}\n{program}"
                outcome = sandbox.run(Spec(source.encode(), self.stdin, other.limits or self.limits))
        except Reached as error:
            return str(error)
        if outcome.status in (other.statuses or self.statuses) and (other.judge or self.judge)(outcome):
            return ""
        output = f"{outcome.stdout[:300]!r} {outcome.stderr[-600:]!r}"
        return f"{outcome.status} {outcome.returncode} after {outcome.usage.wall_seconds} s: {output} {outcome.detail}"


class Reached(Exception):
    """A program has done something to the host."""
