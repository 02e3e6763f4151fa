"""What is fuzzed: one reader of strangers' bytes, what it may raise, and what must hold of what it returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from millrace.errors import MillraceError
from millrace.text import printable

_LONGEST_TEXT = 4_000
"""Of a stranger at most 300 characters are quoted, and one that cannot be printed becomes up to ten."""

DEEP_JSON = b"[" * 1_900
"""More than Python's own JSON parser can take; nobody sends it by chance."""


class Disagreement(Exception):
    """The decoder returned something that its oracle contradicts."""


@dataclass(frozen=True)
class Decoder:
    """A decoder under test.

    `check` feeds it one input and returns if it behaved: read it properly, or refused it with an error that its
    docstring names. Whatever `check` raises is a defect. `seeds` are valid inputs; `longest` is in bytes.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    longest: int = 1024


def agree(condition: bool, what: str) -> None:
    """Raise Disagreement unless `condition` holds."""
    if not condition:
        raise Disagreement(what)


def presentable(text: str, longest: int = _LONGEST_TEXT) -> None:
    """Raise Disagreement if `text`, which quotes strangers, could deceive a terminal or flood a log."""
    agree(len(text) <= longest, f"a text of {len(text)} characters")
    agree(printable(text, longest) == text, f"a text that is not safe to print: {text[:200]!r}")


def well_said(error: MillraceError) -> None:
    """Raise Disagreement if the error's own text is not safe to print."""
    presentable(f"{error.message}{error.hint}")


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The loop for decoders that are coroutines: made when it is first needed, for two processes cannot share one."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_SameThread())
    return loop


class _SameThread(ThreadPoolExecutor):
    """Does at once what is meant for a thread: the fuzzer sees what it reaches, and no time goes into waking it up."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - carried to whoever waits
            future.set_exception(error)
        return future


class Bytes:
    """Draws decisions from an input: zeros once it is used up, so that every input means something."""

    def __init__(self, given: bytes) -> None:
        self._given = given
        self._position = 0

    @property
    def left(self) -> int:
        """How many bytes have not been drawn."""
        return len(self._given) - self._position

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0] if self.left else 0

    def number(self) -> int:
        """A number from eight bytes, below 2^63 as in a varint."""
        return int.from_bytes(self.take(8), "little") >> 1

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        taken = self._given[self._position : self._position + count]
        self._position += len(taken)
        return taken

    def rest(self) -> bytes:
        """All that has not been drawn."""
        return self.take(self.left)
