"""What a draining machine leaves for later, and what it has yet to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from prefect import State
from prefect.states import Completed

from flows.lease import Lease, living
from flows.networks import COORDINATOR, VALIDATOR, sources
from millrace.errors import MillraceError
from millrace.settings import Settings
from stages.discover.coordinator import desk_of, desks_of
from stages.discover.validator import Inbox, Received
from stages.discover.validator_opening import folder_of
from stages.drain import HINT, DrainMark
from stages.submit.outbox_opening import open_outbox
from stages.submit.validator import Answers

_logger = logging.getLogger(__name__)

_STANDING = frozenset({"watch", "validator", "reconcile"})
"""Flows that come and go for ever, and are no work."""


def drained() -> State[Any]:
    """How a flow run ends that would have taken something new."""
    return Completed(name="Draining", message=f"this machine takes nothing new; {HINT}")


def left_for_later(settings: Settings, runs: Collection[Mapping[str, Any]]) -> list[bool]:
    """Of flow runs with these parameters, which are not to be begun now.

    On a draining machine these are those of jobs, except where something was signed, which is followed to its end, and
    what a validator or a coordinator has given to us already and counts on.
    """
    if not runs or not DrainMark(settings.data_dir).is_set():
        return [False] * len(runs)
    named_by = {source.parameter for source in sources().values()}
    begun = _signed(settings)
    begun |= {handed.job_id for desk in desks_of(settings) for handed in desk.open()}
    begun |= {received.job.job_id for received in _inbox(settings)}
    jobs = [{str(value) for name, value in parameters.items() if name in named_by} for parameters in runs]
    return [bool(job) and not job & begun for job in jobs]


def unfinished(settings: Settings) -> list[str]:
    """What this machine has begun and not ended, a line each: it is empty when there is none.

    Flow runs that work here, submissions whose fate is not final, and what a validator or a coordinator has given to
    us and has no word about. Once the machine drains, any other flow run that has no process yet will do nothing.
    """
    return [*(_line(lease) for lease in at_work(settings)), *_open_submissions(settings), *_owed(settings)]


def at_work(settings: Settings) -> list[Lease]:
    """The flow runs on this machine that have a process and do work, oldest first."""
    working = [lease for lease in living(settings.data_dir / "leases") if lease.flow not in _STANDING]
    return sorted(working, key=lambda lease: lease.since or 0.0)


def _line(lease: Lease) -> str:
    what = f"{lease.flow or 'a flow run'}{f' {lease.about}' if lease.about else ''}"
    return f"{what}: flow run {lease.flow_run_id} runs"


def _signed(settings: Settings) -> set[str]:
    try:
        with open_outbox(settings) as outbox:
            return {submission.job_key.rsplit("/", 1)[-1] for submission in outbox.unsettled()}
    except MillraceError as error:  # of a fleet's: nothing could be followed now, and another machine may
        _logger.warning("what was signed cannot be told, and is left for later: %s", error)
        return set()


def _open_submissions(settings: Settings) -> list[str]:
    if settings.fleet_url is not None:
        return []  # the fleet's, of which there is always one, and which any machine follows
    with open_outbox(settings) as outbox:
        return [
            *(
                f"{submission.job_key}: transaction {submission.transaction_id} has no final answer"
                for submission in outbox.unsettled()
            ),
            *(f"{place}: cannot be read: its job's fate is not known" for place in outbox.damaged_live()),
        ]


def _owed(settings: Settings) -> Iterator[str]:
    for received in _inbox(settings):
        yield f"validator: job {received.job.job_id} was accepted and has no answer"
    if VALIDATOR.configured(settings):
        for answer in Answers(folder_of(settings) / "answers", time.time).waiting():
            yield f"validator: the answer to job {answer.job_id} is not delivered"
    for desk in desks_of(settings):
        for handed in desk.open():
            yield f"coordinator: job {handed.job_id} was taken and has not ended"
    if COORDINATOR.configured(settings):
        for report in desk_of(settings).reports.waiting():
            yield f"coordinator: how job {report.job_id} ended is not told"


def _inbox(settings: Settings) -> list[Received]:
    return Inbox(folder_of(settings) / "inbox").open() if VALIDATOR.configured(settings) else []
