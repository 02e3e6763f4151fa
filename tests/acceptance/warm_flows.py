"""Flows that tell how they were started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect import Flow, State, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run
from prefect.states import Cancelling

from deployments.warm_start import PRELOADED
from flows.endless import stoppable
from flows.lease import hold_lease
from millrace.settings import load_settings


def about_me() -> dict[str, Any]:
    """This process as a flow sees it."""
    return {
        "pid": os.getpid(),
        "began": time.time(),
        "greeting": os.environ.get("GREETING"),
        "folder": os.getcwd(),  # noqa: PTH109
        "forked": "multiprocessing.forkserver" in " ".join(psutil.Process(os.getppid()).cmdline()),
        "missing": [name for name in PRELOADED if name not in sys.modules],
    }


def note(path: str, found: dict[str, Any]) -> None:
    """Leave a note for the test that waits."""
    Path(path).write_text(json.dumps(found))


def note_cancellation(flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
    """Prefect calls this when a flow run is cancelled."""
    note(run.parameters["path"] + ".cancelled", {"state": state.name})


@flow(log_prints=True, on_cancellation=[note_cancellation])
async def tell(path: str, seconds: float = 0.0) -> None:
    """Write down what this process is, then take `seconds`, then write down the end."""
    note(path, about_me())
    print("written")
    await asyncio.sleep(seconds)
    note(f"{path}.ended", {"at": time.time()})


@flow
async def endless(path: str) -> None:
    """Go on until SIGTERM, and end well then, as those of Millrace's flows do that have no end."""
    leases, flow_run_id = load_settings().data_dir / "leases", str(flow_run.get_id())
    async with stoppable() as told:
        with hold_lease(leases, flow_run_id, flow="endless"):
            note(path, about_me())
            await told.wait()


@flow
async def ends_while_cancelling(path: str) -> None:
    """End before anybody can see that this flow run is to be cancelled."""
    note(path, about_me())
    async with get_client() as client:
        await client.set_flow_run_state(UUID(str(flow_run.get_id())), Cancelling())


@flow
async def stubborn(path: str) -> None:
    """Stay, whoever asks to end."""
    note(path, about_me())
    while True:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(3600)
