"""Every error Millrace raises on purpose, as one tree.

MillraceError
 ├─ Transient        try again later: a time-out, a 503, a busy gateway
 ├─ UnknownOutcome   a side effect may or may not have happened: ask the chain before anything else
 ├─ Permanent        trying again cannot help: a malformed account, a lying gateway, a bad setting
 │   └─ JobFault     the job itself is to blame, and its network can be told: a commit that is not there
 └─ Declined         we will not do this job, and say why

The three axes above are all that the retry policy looks at (see `millrace.retry`). An error that is
not in this tree is a defect of ours and is never retried.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from millrace.text import printable_lines


class MillraceError(Exception):
    """Something went wrong with a job, in a stage, and a person can act on it.

    Arguments: `message` says what happened; `hint` what to do next; `job` is the job's key and `stage`
    the step's name, both filled in by `located` when the error crosses the stage's border.
    """

    def __init__(self, message: str, *, hint: str = "", job: str = "", stage: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.job = job
        self.stage = stage

    def located(self, *, job: str, stage: str) -> Self:
        """Fill in where it happened, unless somebody closer to it already did; returns the same error."""
        self.job = self.job or job
        self.stage = self.stage or stage
        return self

    def __str__(self) -> str:
        # What a person reads, on a terminal or as a state's message: it may quote a stranger.
        where = ": ".join(part for part in (self.job, self.stage) if part)
        text = f"{where}: {self.message}" if where else self.message
        return printable_lines(f"{text} ({self.hint})" if self.hint else text)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross process borders; keyword-only arguments are lost by the default.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(kind: type[MillraceError], args: tuple[Any, ...], state: dict[str, Any]) -> MillraceError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class Transient(MillraceError):
    """Trying again may help. `retry_after_seconds` is the other side's own wish, if it had one."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, **where: str) -> None:
        super().__init__(message, **where)
        self.retry_after_seconds = retry_after_seconds


class Permanent(MillraceError):
    """Trying again cannot help."""


class JobFault(Permanent):
    """The job itself cannot be done by anybody: where its network takes a failure for an answer, this is one."""


class UnknownOutcome(MillraceError):
    """We sent something and do not know what became of it. Whoever retries must ask first."""


class DeclineReason(StrEnum):
    """Why we leave a job alone."""

    closed = "closed"  # completed or cancelled by somebody else
    too_poor = "too_poor"  # the balance does not cover the fees
    too_big = "too_big"
    unsupported = "unsupported"
    not_allowed = "not_allowed"
    not_profitable = "not_profitable"
    no_sandbox = "no_sandbox"
    draining = "draining"

    @property
    def temporary(self) -> bool:
        """True if the same job may be accepted later without anything about the job changing."""
        return self in _TEMPORARY


_TEMPORARY = frozenset({DeclineReason.too_poor, DeclineReason.no_sandbox, DeclineReason.draining})


class Declined(MillraceError):
    """We will not do this job, for a reason that a person can read and a program can tell."""

    def __init__(self, message: str, *, reason: DeclineReason, **where: str) -> None:
        super().__init__(message, **where)
        self.reason = reason
