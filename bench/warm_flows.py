"""The flow that the warm-start bench starts: it says when its first line ran, and has three tasks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from prefect import flow, task


@task
async def nothing(number: int) -> int:
    """Do nothing."""
    return number


@flow
async def mark(folder: str, name: str, seconds: float = 0.0) -> None:
    """Note the time of this first line in `folder`, run three tasks, and stay for `seconds`."""
    note(Path(folder) / name)
    for number in range(3):
        await nothing(number)
    await asyncio.sleep(seconds)


def note(path: Path) -> None:
    """Leave the time in a file that is there whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(repr(time.time()))
    partial.rename(path)
