from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows.attempts import next_attempt

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def run(kind: StateType, *, name: str | None = None, message: str = "", seconds_ago: float = 1_000) -> FlowRun:
    state = State(type=kind, name=name, message=message, timestamp=NOW - timedelta(seconds=seconds_ago))
    return FlowRun(flow_id=uuid4(), state=state)


def attempt(runs: dict[int, FlowRun], most: int = 3) -> int | None:
    return next_attempt(runs, now=NOW, most=most, cooldown_seconds=300)


def test_a_new_job_gets_its_first_attempt() -> None:
    assert attempt({}) == 1


@pytest.mark.parametrize("kind", [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING])
def test_a_job_in_flight_gets_no_second_flow_run(kind: StateType) -> None:
    assert attempt({1: run(kind)}) is None


def test_a_settled_job_is_left_alone_while_the_listing_lags() -> None:
    """The public worker executed finished jobs again for ten seconds after completing them."""
    assert attempt({1: run(StateType.COMPLETED, name="Settled")}) is None


def test_a_failed_job_is_tried_again_after_the_cooldown_and_not_before() -> None:
    assert attempt({1: run(StateType.FAILED, seconds_ago=299)}) is None
    assert attempt({1: run(StateType.FAILED, seconds_ago=300)}) == 2


def test_a_failure_that_is_dated_ahead_of_a_clock_set_back_since_is_not_waited_for() -> None:
    """The clock had been an hour ahead: the job's next attempt came an hour late."""
    assert attempt({1: run(StateType.FAILED, seconds_ago=-3_600)}) == 2
    assert attempt({1: run(StateType.FAILED, seconds_ago=-2)}) is None, "clocks differ a little"


def test_attempts_are_bounded() -> None:
    failed = run(StateType.FAILED)
    assert attempt({1: failed, 2: failed}) == 3
    assert attempt({1: failed, 2: failed, 3: failed}) is None


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("too_poor", 3), ("no_sandbox", 3), ("draining", 3), ("closed", None), ("unsupported", None)],
)
def test_a_job_declined_for_a_reason_that_passes_has_lost_no_attempt(reason: str, expected: int | None) -> None:
    """Three times declined while bubblewrap was missing, and the job was never looked at again."""
    failed = run(StateType.FAILED)
    declined = run(StateType.CANCELLED, name="Declined", message=f"{reason}: because")
    assert attempt({1: failed, 2: failed, 3: declined}) == expected
    fresh = run(StateType.CANCELLED, name="Declined", message=f"{reason}: because", seconds_ago=299)
    assert attempt({1: failed, 2: failed, 3: fresh}) is None


def test_a_job_that_a_person_cancelled_stays_cancelled() -> None:
    assert attempt({1: run(StateType.CANCELLED, name="Cancelled", message="too_poor: no")}) is None


def test_a_crashed_job_is_left_to_reconcile() -> None:
    assert attempt({1: run(StateType.CRASHED)}) is None
