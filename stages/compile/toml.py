"""A stranger's TOML."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from millrace.text import printable
from stages.compile.failure import CompileFailure, FailureReason

_MOST_DOTS = 200
"""On one line. Python's reader takes the square of a dotted key's length: of 100 kB of dots, most of a minute."""

_MOST_PARTS = 32
"""Dots outside of strings, on one line. Each part of a key is looked up beneath each part of the header above it."""

_STRING = re.compile(rb"""\"(?:[^"\\]|\\.)*"?|'[^']*'?""")
"""One that begins on the line. Without its end too: else each quote would be looked for the end of, time and again."""


class RepositoryFault(CompileFailure):
    """What the repository depends on cannot be had, and that is its own fault."""

    def __init__(
        self,
        message: str,
        *,
        reason: FailureReason = FailureReason.missing_dependency,
        hint: str = "`cargo vendor --locked` on a fresh clone says more",
        log: str = "",
        seconds: float = 0.0,
    ) -> None:
        super().__init__(message, reason=reason, hint=hint, log=log, seconds=seconds)


def read_toml(name: str, content: bytes) -> dict[str, Any]:
    """The document. Raises RepositoryFault, with where it is wrong, whatever is wrong about it.

    The caller sees to it that `content` is no longer than what is worth reading.
    """
    for line in content.splitlines():
        if line.count(b".") > _MOST_DOTS:
            raise _unreadable(f"{name} has a line with more than {_MOST_DOTS} dots")
        if line.count(b".") > _MOST_PARTS and _STRING.sub(b"", line).count(b".") > _MOST_PARTS:
            raise _unreadable(f"{name} has a line with more than {_MOST_PARTS} dots outside of its strings")
    try:
        return tomllib.loads(content.decode())
    except RecursionError:
        raise _unreadable(f"{name} is no TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and numbers of more digits than Python reads
        raise _unreadable(f"{name} is no TOML: {printable(str(error), 200)}") from None


def table(value: Any, *keys: str) -> dict[str, Any]:
    """The table at `keys`, an empty one where there is something else: cargo says what is wrong with that."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _unreadable(message: str) -> RepositoryFault:
    return RepositoryFault(message, reason=FailureReason.no_project)
