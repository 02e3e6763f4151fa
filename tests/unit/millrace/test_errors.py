from __future__ import annotations

import pickle

import pytest

from millrace.errors import Declined, DeclineReason, MillraceError, Permanent, Transient, UnknownOutcome
from millrace.retry import is_retriable


@pytest.mark.parametrize(
    ("error", "retriable"),
    [
        (Transient("the gateway is busy"), True),
        (UnknownOutcome("sent, no answer"), True),
        (Permanent("not a CID"), False),
        (Declined("too poor", reason=DeclineReason.too_poor), False),
        (ValueError("a defect of ours"), False),
    ],
)
def test_only_transient_and_unknown_outcomes_are_retried(error: Exception, retriable: bool) -> None:
    assert is_retriable(error) is retriable


def test_an_error_names_job_stage_and_next_step() -> None:
    error = Transient("HTTP 503", hint="wait, or add a gateway").located(job="cloudmesh/x/y", stage="fetch")
    assert str(error) == "cloudmesh/x/y: fetch: HTTP 503 (wait, or add a gateway)"


def test_the_place_nearest_to_the_fault_wins() -> None:
    error = Permanent("bad", stage="decode").located(job="j", stage="admit")
    assert (error.job, error.stage) == ("j", "decode")


@pytest.mark.parametrize(
    "error",
    [
        Transient("busy", retry_after_seconds=7.0, hint="wait", job="j", stage="s"),
        Declined("no", reason=DeclineReason.no_sandbox, hint="install bubblewrap"),
        Permanent("bad"),
    ],
)
def test_an_error_survives_the_way_to_another_process(error: MillraceError) -> None:
    """Keyword-only arguments are lost by the default pickling of exceptions."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))
