"""Quarantine: jobs that keep failing are set aside with the reasons, where a person sees them and can send them back.

A job in quarantine is its last flow run in the state `Quarantined`, which is Prefect's `Failed` under a name of ours:
the UI lists it, and its button *Retry* runs it again from the first stage that has no result, as does
`millrace jobs --retry`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import AwaitingRetry, Failed

from flows.ahead import server_now
from millrace.errors import Permanent
from millrace.text import printable

QUARANTINED = "Quarantined"
SENT_BACK = "sent back from quarantine"
"""What a flow run's state says after a person has sent its job back."""

_LONGEST_REASON = 400

_logger = logging.getLogger("flows.quarantine")


def is_quarantined(run: FlowRun) -> bool:
    """Whether the run's job is in quarantine by this run."""
    return run.state is not None and run.state.type is StateType.FAILED and run.state.name == QUARANTINED


def reasons_of(runs: Mapping[int, FlowRun]) -> str:
    """Why each attempt failed, in words; `runs` are a job's flow runs by attempt."""
    told = [(attempt, _reason(runs[attempt].state)) for attempt in sorted(runs)]
    return "; ".join(f"attempt {attempt}: {reason}" for attempt, reason in told if reason)


async def set_aside(client: PrefectClient, job_key: str, runs: Mapping[int, FlowRun]) -> bool:
    """Put a job into quarantine if its last attempt failed; returns whether it was put there now."""
    last = runs[max(runs)]
    if last.state is None or last.state.type is not StateType.FAILED or is_quarantined(last):
        return False
    await quarantine(client, last, f"given up after {len(runs)} attempts; {reasons_of(runs)}")
    _logger.error("job %s is in quarantine: %s", job_key, reasons_of(runs))
    return True


async def quarantine(client: PrefectClient, run: FlowRun, why: str) -> None:
    """Put the job of this flow run, which has ended or has no process, into quarantine."""
    await client.set_flow_run_state(run.id, Failed(name=QUARANTINED, message=printable(why, 2_000)), force=True)


async def send_back(client: PrefectClient, run: FlowRun) -> None:
    """Have the flow run of a job in quarantine go on from its first stage without a result.

    Raises Permanent if it is not in quarantine.
    """
    if not is_quarantined(run):
        state = run.state.name if run.state is not None else "unknown"
        raise Permanent(f"{run.name} is not in quarantine, it is {state}", hint="`millrace jobs` shows every job")
    again: State[Any] = AwaitingRetry(scheduled_time=await server_now(client), message=SENT_BACK)
    await client.set_flow_run_state(run.id, again, force=True)
    _logger.info("flow run %s (%s): %s", run.name, run.id, SENT_BACK)


def _reason(state: State[Any] | None) -> str:
    return "" if state is None else printable(f"{state.name}: {state.message or ''}", _LONGEST_REASON)


def attempts_of(runs: Iterable[FlowRun]) -> dict[str, dict[int, FlowRun]]:
    """The flow runs by job key and attempt, as far as they were started for a job."""
    found: dict[str, dict[int, FlowRun]] = {}
    for run in runs:
        key, mark, attempt = (run.idempotency_key or "").rpartition("#")
        if mark and attempt.isdigit():
            found.setdefault(key, {})[int(attempt)] = run
    return found
