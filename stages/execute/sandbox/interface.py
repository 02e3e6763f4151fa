"""The whole contract of a sandbox: what goes in, what comes out, and what a back end must be able to do."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from millrace.errors import Transient
from millrace.limits import Limits, Usage


class Status(StrEnum):
    """How a run ended. All but the last are results of the job, whatever it did."""

    ok = "ok"  # exit code 0
    exit = "exit"  # another exit code
    signal = "signal"  # a signal it caused itself
    timeout = "timeout"  # its wall-clock time or its CPU time was up
    oom = "oom"  # it wanted more memory than it may have
    output_limit = "output_limit"  # it wrote more than is kept
    sandbox_error = "sandbox_error"  # our fault, or cancelled: says nothing about the job


@dataclass(frozen=True)
class Spec:
    """One run: the program's source, what it reads on standard input, and its limits."""

    program: bytes
    stdin: bytes = b""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    `returncode` is what `subprocess` would give: 0 for `ok`, the exit code for `exit`, minus the signal's number for
    `signal`, -9 for `timeout`, `oom` and `output_limit`, and None for `sandbox_error`. Exit codes 129 to 192 are read
    as signals, as a shell reads them. `stdout` and `stderr` hold at most the limit's bytes each; `detail` is one
    sentence for a person.
    """

    status: Status
    returncode: int | None
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_cut: bool = False
    stderr_cut: bool = False
    usage: Usage = field(default_factory=Usage)
    backend: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Check:
    """One promise of the sandbox, tried out on this machine."""

    name: str
    passed: bool
    detail: str = ""


class SandboxFault(Transient):
    """The sandbox itself failed; the job has not been judged and may be run again."""


class Sandbox(Protocol):
    """A way to run a stranger's program so that it can reach nothing of ours."""

    @property
    def name(self) -> str:
        """The back end's name, as receipts show it."""
        ...

    def run(self, spec: Spec, cancel: threading.Event | None = None) -> Outcome:
        """Run one program and wait for its end; may be called from any thread, many at once.

        Raises nothing, whatever the job does: a fault of the sandbox is an Outcome with `sandbox_error`. Setting
        `cancel` kills the run, which then is a `sandbox_error` with the detail "cancelled".
        """
        ...

    def self_test(self) -> list[Check]:
        """Try the promises out, in less than about two seconds."""
        ...

    def sweep(self) -> list[str]:
        """Remove what workers that died left behind, and nothing of living ones; returns the names removed."""
        ...

    def describe(self) -> list[str]:
        """What is weaker on this machine than it could be, one sentence each; empty if nothing is."""
        ...

    def fingerprint(self) -> str:
        """A string that changes whenever a passed self-test no longer proves anything."""
        ...
