"""The job flows of all networks, in processes that kill themselves once, at the point that the test chose for the job.

Deployments of the test name these flows instead of the real ones. Production code has no hook for it: this module wraps
the stages and the effects inside them, which all flow runs of this process then use.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import hashlib
import inspect
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from flows import submit, tasks
from flows.cloudmesh import cloudmesh_job
from flows.computechain import computechain_job
from flows.offchainvm import offchainvm_job
from flows.stage import Stage
from millrace.receipt_log import ReceiptLog
from protocols.ipfs.pinata import Pinata
from stages.submit.cloudmesh import CloudMeshNetwork
from stages.submit.computechain import ComputeChainNetwork
from stages.submit.offchainvm import OffchainVmNetwork
from stages.submit.outbox import Outbox
from stages.upload import documents

__all__ = ["EFFECTS", "STAGES", "cloudmesh_job", "computechain_job", "offchainvm_job", "order"]

FOLDER = "CRASH_FOLDER"
"""The variable that names the folder with the orders: a file for each job that is to be killed."""

_DURING_SECONDS = 0.3
_CHALLENGE_SECONDS = 0.05
"""For a challenge's stage: its child has begun, and a small challenge has not been solved yet."""

STAGES: dict[str, tuple[Stage[Any], ...]] = {
    "fetch": (tasks.fetch, tasks.fetch_source, tasks.fetch_module),
    "compile": (tasks.compile_source,),
    "execute": (tasks.execute_python, tasks.solve, tasks.execute_request),
    "upload": (tasks.upload, tasks.publish, tasks.publish_run),
    "sign": (submit.sign,),
    "confirm": (submit.confirm,),
    "settle": (tasks.settle,),
}
EFFECTS: dict[str, tuple[tuple[type, str], ...]] = {
    "persist": ((Outbox, "record"),),
    "send": ((CloudMeshNetwork, "send"), (ComputeChainNetwork, "send"), (OffchainVmNetwork, "send")),
    "mark": ((Outbox, "mark"),),
    "receipt": ((ReceiptLog, "append"),),
    "put away": ((Outbox, "settle"),),
    "publish": ((Pinata, "publish"),),
}


def order(folder: Path, job_id: str, point: str) -> None:
    """Have the process that does this job killed at `point`: before, after or during something; once."""
    _order_of(folder, job_id).write_text(point)


def was_killed(folder: Path, job_id: str) -> bool:
    """Whether the order was carried out."""
    return _order_of(folder, job_id).with_suffix(".done").exists()


def _order_of(folder: Path, job_id: str) -> Path:
    return folder / f"{hashlib.sha256(job_id.encode()).hexdigest()}.order"


def _here(point: str) -> None:
    """Die if it is this job's point."""
    folder = os.environ.get(FOLDER)
    parameters = flow_run.get_parameters() if folder else {}
    job_id = parameters.get("job_id") or parameters.get("job_address")
    if not folder or not job_id:
        return
    path = _order_of(Path(folder), str(job_id))
    try:
        due = path.read_text() == point
    except FileNotFoundError:
        return
    if due:
        path.rename(path.with_suffix(".done"))
        os.kill(os.getpid(), signal.SIGKILL)


def _around(name: str, function: Callable[..., Any], seconds: float = _DURING_SECONDS) -> Callable[..., Any]:
    """`function`, with the points `before <name>`, `during <name>`, so many seconds later, and `after <name>`."""

    def begin() -> threading.Timer:
        _here(f"before {name}")
        # The thread has to know which flow run it belongs to.
        timer = threading.Timer(seconds, contextvars.copy_context().run, [_here, f"during {name}"])
        timer.daemon = True
        timer.start()
        return timer

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapped(*arguments: Any, **more: Any) -> Any:
            timer = begin()
            try:
                result = await function(*arguments, **more)
            finally:
                timer.cancel()
            await asyncio.to_thread(_here, f"after {name}")
            return result

        return wrapped

    @functools.wraps(function)
    def called(*arguments: Any, **more: Any) -> Any:
        timer = begin()
        try:
            result = function(*arguments, **more)
        finally:
            timer.cancel()
        _here(f"after {name}")
        return result

    return called


for _name, _stages in STAGES.items():
    for _stage in _stages:
        _seconds = _CHALLENGE_SECONDS if _stage is tasks.solve else _DURING_SECONDS
        _stage.function = _around(_name, _stage.function, _seconds)
for _name, _places in EFFECTS.items():
    for _kind, _method in _places:
        setattr(_kind, _method, _around(_name, getattr(_kind, _method)))

_upload = documents.upload_content
_uploads = 0


async def _upload_content(*arguments: Any, **more: Any) -> Any:
    """The point `between uploads`: the evidence is there and the result is not."""
    global _uploads
    _uploads += 1
    if _uploads == 2:
        _here("between uploads")
    return await _upload(*arguments, **more)


documents.upload_content = _upload_content
