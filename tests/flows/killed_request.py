"""The flow run of one request in a process that is killed on the spot: `killed_request.py PLACE JOB MODULE`.

PLACE is the name of a stage, which has done its work and left no result, or of what is written or sent in between.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from offchainvm_world import stand_in_for_the_builder

from flows.offchainvm import offchainvm_job
from flows.stage import Stage
from millrace.receipt_log import ReceiptLog
from stages.submit.offchainvm import OffchainVmNetwork
from stages.submit.outbox import Outbox

PLACE, JOB, MODULE = sys.argv[1:]
INSIDE = {
    "recorded": (Outbox, "record"),
    "sent": (OffchainVmNetwork, "send"),
    "marked": (Outbox, "mark"),
    "receipt": (ReceiptLog, "append"),
    "settled": (Outbox, "settle"),
}


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def dying_behind(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, and then the end."""
    if asyncio.iscoroutinefunction(method):

        async def waited(*inputs: Any, **more: Any) -> NoReturn:
            await method(*inputs, **more)
            die()

        return waited

    def called(*inputs: Any, **more: Any) -> NoReturn:
        method(*inputs, **more)
        die()

    return called


def dying_stage() -> None:
    run = Stage._run

    async def end(self: Stage[Any], job_key: str, *inputs: object) -> Any:
        result = await run(self, job_key, *inputs)
        if self.name == PLACE:
            die()
        return result

    Stage._run = end  # type: ignore[method-assign]
    for module in list(sys.modules.values()):
        for each in list(vars(module).values()):
            if isinstance(each, Stage):
                each.task.fn = each._run


if PLACE in INSIDE:
    owner, name = INSIDE[PLACE]
    setattr(owner, name, dying_behind(getattr(owner, name)))
else:
    dying_stage()
stand_in_for_the_builder(Path(MODULE).read_text(), setattr)
asyncio.run(offchainvm_job(JOB))
