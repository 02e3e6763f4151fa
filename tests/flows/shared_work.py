"""One flow run in a process of its own, with a shared stage: `shared_work.py FOLDER JOB`.

Each call of the work adds a line to FOLDER/calls; it ends when FOLDER/go is there.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from functools import partial
from pathlib import Path

from prefect import flow

from flows.locks import choice
from flows.locks.fleet import RedisLocks
from flows.stage import Stage
from flows.workbench import open_workbench

FOLDER, JOB = Path(sys.argv[1]), sys.argv[2]


def build(recipe: str) -> str:
    with (FOLDER / "calls").open("a") as calls:
        calls.write(f"{os.getpid()}\n")
    while not (FOLDER / "go").exists():
        time.sleep(0.02)
    return f"{recipe} built by {os.getpid()}"


@flow(name="shared-work")
async def shared_work() -> str:
    async with open_workbench():
        return await Stage("build-in-processes", build, shared=True)(JOB, "flour")


if __name__ == "__main__":
    choice.RedisLocks = partial(RedisLocks, ttl_seconds=1.0)  # type: ignore[misc,assignment]
    print("result:", asyncio.run(shared_work()), flush=True)
