"""What every job's flow run has around it: a workbench, a lease, and an end that a person can read."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from prefect import State
from prefect.artifacts import acreate_markdown_artifact
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from flows.lease import hold_lease
from flows.markdown import code, declined_markdown, receipt_key, receipt_markdown
from flows.workbench import Workbench, open_workbench
from millrace.errors import Declined
from millrace.logs import located
from millrace.receipt import JobOutcome, Receipt
from millrace.redaction import redact
from millrace.settings import load_settings
from millrace.text import printable

_logger = logging.getLogger(__name__)

DECLINED = "Declined"
"""Name of the state in which a job's flow run ends that we would not do."""


@asynccontextmanager
async def job_life(network_name: str = "") -> AsyncIterator[Workbench]:
    """Everything between a flow run's first and last line: its tools are open and its lease is held."""
    # The lease first and last: without one, a flow run whose process is killed counts as another machine's.
    leases, about = load_settings().data_dir / "leases", printable(str(flow_run.get_name() or ""), 200)
    flow = str(flow_run.get_flow_name() or "")
    with hold_lease(leases, current_flow_run_id(), flow=flow, about=about), located("", "flow"):
        async with open_workbench(network_name) as bench:
            yield bench
        _logger.info("the stages worked for %.3f s", bench.worked_seconds)


def current_flow_run_id() -> str:
    """The id of the running flow run, in the shape the API uses; empty outside one."""
    return str(flow_run.get_id() or "")


def named_after(parameter: str, prefix: str = "") -> Callable[[], str]:
    """The name of a flow run: what it was given as `parameter`, with nothing in it that a terminal would obey."""
    return lambda: prefix + printable(str(flow_run.get_parameters().get(parameter, "")), 200)


async def settled(receipt: Receipt) -> State[Any]:
    """Show the receipt and end the flow run with what it says."""
    await acreate_markdown_artifact(
        receipt_markdown(receipt), key=receipt_key(receipt.job_key), description=f"Receipt of {code(receipt.job_key)}"
    )
    if receipt.outcome is JobOutcome.beaten:
        return Completed(name="Beaten", message="the chain records another worker's result")
    if receipt.outcome is JobOutcome.closed:
        return Completed(name="Closed", message="the job ended before our submission did anything")
    if receipt.outcome is JobOutcome.answered:
        return Completed(name="Answered", message=f"result {receipt.result_cid} goes to the validator")
    return Completed(name="Settled", message=f"result {receipt.result_cid} in {receipt.transaction_id}")


async def closed(error: Declined) -> State[Any]:
    """Record why we left the job alone and end the flow run with that reason."""
    text = redact(str(error))
    await acreate_markdown_artifact(
        declined_markdown(error.job, error.reason.value, text),
        key=receipt_key(error.job),
        description=f"Declined: {code(error.job)}",
    )
    return Cancelled(name=DECLINED, message=f"{error.reason.value}: {text}")
