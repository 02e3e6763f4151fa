"""The one retry policy: a function of the error's type and nothing else."""

from __future__ import annotations

from millrace.errors import Transient, UnknownOutcome

ATTEMPTS = 6
"""How often a stage is tried in all within one flow run."""

BACKOFF_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Waits between the attempts, before jitter."""

JITTER_FACTOR = 0.5
"""Each wait is stretched by a random share of itself, so that workers do not knock in step."""


def is_retriable(error: BaseException) -> bool:
    """Whether the stage that raised `error` may be run again.

    `UnknownOutcome` qualifies because every stage that can raise it begins by asking the chain.
    """
    return isinstance(error, Transient | UnknownOutcome)
