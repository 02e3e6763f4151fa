"""How often a job is tried: which flow run a pending job needs next, if any."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from prefect.client.schemas.objects import FlowRun, StateType

from flows.ahead import within
from millrace.errors import DeclineReason


def attempt_key(job_key: str, attempt: int) -> str:
    """The idempotency key of a job's n-th flow run; Prefect keeps it for ever, so the attempt is part of it."""
    return f"{job_key}#{attempt}"


def next_attempt(runs: Mapping[int, FlowRun], *, now: datetime, most: int, cooldown_seconds: float) -> int | None:
    """The attempt that a job still pending on its chain should get now, counted from 1; None for none.

    `runs` are its flow runs so far, by attempt. A new one follows only on one that failed, and only after
    `cooldown_seconds`. One that was declined for a reason that passes is repeated then: it was no attempt at the job
    and counts for none. One that settled needs none: the chain's listing lags. One that a person cancelled gets none.
    After `most` attempts the job is left for a person.
    """
    if not runs:
        return 1
    last = max(runs)
    state = runs[last].state
    if state is None or not state.is_final() or within(state.timestamp, now, timedelta(seconds=cooldown_seconds)):
        return None
    if _declined_for_now(runs[last]):
        return last
    return last + 1 if state.type is StateType.FAILED and last < most else None


def is_given_up(runs: Mapping[int, FlowRun], *, most: int) -> bool:
    """Whether none of the flow runs so far goes on, and no further one will follow.

    A crashed one does not count: it is put back to work.
    """
    state = runs[max(runs)].state if runs else None
    if state is None or not state.is_final() or state.type is StateType.CRASHED or _declined_for_now(runs[max(runs)]):
        return False
    return state.type is not StateType.FAILED or max(runs) >= most


def _declined_for_now(run: FlowRun) -> bool:
    if run.state is None or run.state.type is not StateType.CANCELLED or run.state.name != "Declined":
        return False
    reason = (run.state.message or "").partition(":")[0]
    return reason in {r.value for r in DeclineReason if r.temporary}
