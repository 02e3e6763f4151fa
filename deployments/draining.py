"""`millrace drain`: take nothing new, finish what runs, and say when the machine is empty."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from deployments.enlisted import Workers
from flows.draining import unfinished
from millrace.settings import Settings
from millrace.text import printable
from stages.drain import HINT, DrainMark

_LOOK_SECONDS = 1.0
_STEADY_LOOKS = 2
"""So often, one after the other, nothing must be left: a flow run may end between two questions of one look."""

_AGAIN_SECONDS = 30.0
"""After so long without news it is said once more what is left."""

EMPTY, NOT_EMPTY, ENDED = 0, 1, 2


def drain(
    settings: Settings,
    console: Console,
    *,
    wait: bool,
    timeout_seconds: float | None = None,
    elapsed: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Set the mark, then tell what is left until nothing is; returns the exit code.

    EMPTY if nothing is left; NOT_EMPTY if something is at the time-out, or now if nobody is to `wait`; ENDED if
    somebody ended the draining meanwhile.
    """
    mark = DrainMark(settings.data_dir)
    mark.set()
    console.print("draining: nothing new is taken on this machine", markup=False)
    if not wait:
        return _tell(console, unfinished(settings))
    with mark.awaited():
        return _until_empty(settings, console, mark, timeout_seconds, elapsed, sleep)


def _until_empty(
    settings: Settings,
    console: Console,
    mark: DrainMark,
    timeout_seconds: float | None,
    elapsed: Callable[[], float],
    sleep: Callable[[float], None],
) -> int:
    began, told, told_at, steady = elapsed(), None, 0.0, 0
    while True:
        if not mark.is_set():
            console.print("somebody ended the draining: jobs are taken again", markup=False)
            return ENDED
        left = unfinished(settings)
        steady = 0 if left else steady + 1
        if steady >= _STEADY_LOOKS:
            return _tell(console, [])
        if timeout_seconds is not None and elapsed() - began >= timeout_seconds:
            console.print(f"not empty after {timeout_seconds:g} s; it goes on draining", markup=False)
            return _tell(console, left)
        if left and (left != told or elapsed() - told_at >= _AGAIN_SECONDS):
            _tell(console, left)
            if not Workers(settings.data_dir).living():
                console.print("no worker lives here; one that is started now finishes this, and takes nothing new")
            told, told_at = left, elapsed()
        sleep(_LOOK_SECONDS)


def end_drain(settings: Settings, console: Console) -> int:
    """Take jobs again; returns the exit code."""
    if DrainMark(settings.data_dir).end():
        console.print("jobs are taken again; one that was declined meanwhile waits for its cooldown", markup=False)
    else:
        console.print("the machine was not draining", markup=False)
    return EMPTY


def _tell(console: Console, left: list[str]) -> int:
    if not left:
        console.print(f"empty: nothing runs, and every submission has its answer; {HINT}", markup=False)
        return EMPTY
    for line in left:
        console.print(f"left: {printable(line)}", markup=False)
    return NOT_EMPTY
