"""Reconcile: what a killed worker left is taken up again.

Two questions, at worker start and on a schedule. Which flow runs have no living process? Those of jobs go back to
work on the same attempt, and stages that have a result are not done again; the others end, for a flow run that seems
to run holds a place in the work pool. Which signed submissions has nobody followed to their end? Their flow runs go
back to work as well; one whose flow run is lost gets a new one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import State, flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import AwaitingRetry, Cancelled, Completed, Crashed

from flows.attempts import attempt_key
from flows.lease import Holder, end_holder, holder_of
from flows.life import job_life
from flows.markdown import code
from flows.networks import VALIDATOR, networks
from millrace.network import SignedSubmission
from millrace.settings import Settings
from millrace.text import printable
from protocols.ipfs.locks import HeldElsewhere, alone
from stages.submit.outbox import Outbox

_logger = logging.getLogger("flows.reconcile")

_STARTING = timedelta(seconds=90)
"""How long a flow run may be Pending before its process must have taken its lease."""

_CANCELLING = timedelta(seconds=60)
"""How long a worker may take to end a flow run that is to be cancelled: its grace is half of it."""

_PATIENCE_SECONDS = 60.0
"""How long to wait for another reconciliation of this machine."""

_MOST_TIMES = 10
"""How often one flow run is put back before it is left for a person."""

_PUT_BACK = "put back by reconcile"
_OURS = "millrace"
"""The tag of all our deployments in prefect.yaml, and so of their flow runs."""


@flow(name="reconcile")
async def reconcile() -> State[Any]:
    """Put abandoned flow runs and unfinished submissions of this machine back to work; say what was done."""
    async with job_life() as bench, get_client() as client:
        try:
            # Each worker of a machine reconciles when it starts: two at once would put the same flow run back twice.
            async with alone(bench.settings.data_dir / "state" / "reconcile.lock", _PATIENCE_SECONDS):
                done = await _take_up(client, await bench.tool("outbox"), bench.settings)
        except HeldElsewhere:
            return Completed(name="Nothing to do", message="another reconciliation of this machine is at it")
    if not done:
        return Completed(
            name="Nothing to do", message="every flow run has a living process, every submission an answer"
        )
    await acreate_markdown_artifact(
        "\n".join(["# Reconciled", *(f"- {code(line)}" for line in done)]), key="reconciled"
    )
    return Completed(name=f"Took up {len(done)}", message=printable("; ".join(done), 1_000))


async def _take_up(client: PrefectClient, outbox: Outbox, settings: Settings) -> list[str]:
    abandoned = await _abandoned(client, settings)
    done = []
    for run, why in abandoned:
        if await _was_cancelled(client, run):
            done.append(await _end(client, run, why, Cancelled(message=why)))
        elif await _may_put_back(client, run):
            done.append(await _put_back(client, run, why))
    done += await _end_dead(client, settings)
    return done + await _follow_submissions(client, outbox, settings)


async def _abandoned(client: PrefectClient, settings: Settings) -> list[tuple[FlowRun, str]]:
    """The job flow runs of this machine that have no living process, and how that is known."""
    runs = await _job_runs(client, [StateType.PENDING, StateType.RUNNING, StateType.CRASHED])
    return _without_process(runs, settings)


def _without_process(runs: Sequence[FlowRun], settings: Settings) -> list[tuple[FlowRun, str]]:
    found = []
    for run in runs:
        why = _why_abandoned(run, holder_of(settings.data_dir / "leases", str(run.id)), datetime.now(UTC))
        if why:
            found.append((run, why))
    return found


def _why_abandoned(run: FlowRun, holder: Holder, now: datetime) -> str:
    """Why this flow run counts as abandoned; empty if it does not."""
    state = run.state
    if state is None or holder is Holder.alive:
        return ""
    if state.type is StateType.CRASHED:
        return "its process died"
    if state.type in (StateType.RUNNING, StateType.CANCELLING) and holder is Holder.gone:
        return "its process is gone"
    if state.type is StateType.PENDING and now - state.timestamp > _STARTING:
        return "it was never started"
    return ""


async def _end_dead(client: PrefectClient, settings: Settings) -> list[str]:
    """End the flow runs of this machine that have no living process and are not put back; says which.

    These are the ones that a person was cancelling, and those of no job: their schedule brings new ones.
    """
    jobs = {run.id for run in await _job_runs(client, [StateType.PENDING, StateType.RUNNING])}
    runs = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(
            {
                "tags": {"all_": [_OURS]},
                "state": {"type": {"any_": [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]}},
            }
        )
    )
    for run in runs:
        if _cancelled_in_vain(run, datetime.now(UTC)) and end_holder(settings.data_dir / "leases", str(run.id)):
            _logger.warning("flow run %s was to be cancelled and went on without a worker: ended", run.id)
    done = []
    for run, why in _without_process([run for run in runs if run.id not in jobs], settings):
        cancelling = run.state is not None and run.state.type is StateType.CANCELLING
        done.append(await _end(client, run, why, Cancelled(message=why) if cancelling else Crashed(message=why)))
    return done


def _cancelled_in_vain(run: FlowRun, now: datetime) -> bool:
    """Whether it should have been ended long ago: its worker, which would have, must be gone."""
    state = run.state
    return state is not None and state.type is StateType.CANCELLING and now - state.timestamp > _CANCELLING


async def _end(client: PrefectClient, run: FlowRun, why: str, end: State[Any]) -> str:
    """Give the flow run that last state; returns what was done, in words."""
    await _end_tasks(client, run, why)
    await client.set_flow_run_state(run.id, end, force=True)
    return f"{run.name}: {end.name}: {why}"


async def _was_cancelled(client: PrefectClient, run: FlowRun) -> bool:
    """Whether a person cancelled it before it crashed: what somebody ends by hand then is not to be done again."""
    before = [state for state in await client.read_flow_run_states(run.id) if state.type is not StateType.CRASHED]
    return bool(before) and max(before, key=lambda state: state.timestamp).type is StateType.CANCELLING


async def _may_put_back(client: PrefectClient, run: FlowRun) -> bool:
    """Whether this flow run was put back less often than is reasonable.

    Its states are counted, not its runs: a process that dies before the first line of its flow counts none.
    """
    states = await client.read_flow_run_states(run.id)
    return sum((state.message or "").startswith(_PUT_BACK) for state in states) < _MOST_TIMES


async def _put_back(client: PrefectClient, run: FlowRun, why: str) -> str:
    """Schedule the same flow run again, whatever state it is in; returns what was done, in words."""
    message = f"{_PUT_BACK}: {why}"
    await _end_tasks(client, run, why)
    await client.set_flow_run_state(
        run.id, AwaitingRetry(scheduled_time=datetime.now(UTC), message=message), force=True
    )
    _logger.warning("flow run %s (%s): %s", run.name, run.id, message)
    return f"{run.name}: {message}"


async def _end_tasks(client: PrefectClient, run: FlowRun, why: str) -> None:
    """Tell the history that the tasks which died with the process are no longer running."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    for task_run in await client.read_task_runs(flow_run_filter=of_run, limit=200):
        if task_run.state is not None and not task_run.state.is_final():
            await client.set_task_run_state(task_run.id, Crashed(message=why), force=True)


async def _follow_submissions(client: PrefectClient, outbox: Outbox, settings: Settings) -> list[str]:
    """See that somebody follows every signed submission without a final answer."""
    followed = [await _follow_submission(client, submission, settings) for submission in outbox.unsettled()]
    return [done for done in followed if done]


async def _follow_submission(client: PrefectClient, submission: SignedSubmission, settings: Settings) -> str:
    """See that somebody follows this submission; returns what was done about it, empty if nothing had to be."""
    if submission.network not in networks():
        return f"{submission.job_key}: no network called {submission.network} is installed, left alone"
    served, job_id = networks()[submission.network], submission.job_key.rsplit("/", 1)[-1]
    keys = [attempt_key(submission.job_key, n) for n in range(settings.max_attempts + 1)]
    about_it = await _runs_about(client, served.deployment.partition("/")[0], job_id, keys)
    if any(run.state is not None and not run.state.is_final() for run in about_it):
        return ""  # somebody is at it, or will be when its turn comes
    if not about_it:
        deployment = await client.read_deployment_by_name(served.deployment)
        await client.create_flow_run_from_deployment(
            deployment.id,
            parameters={served.parameter: job_id},
            idempotency_key=attempt_key(submission.job_key, 0),  # no watcher counts from 0
        )
        return f"{submission.job_key}: its flow run is lost, a new one follows its submission"
    if not await _may_put_back(client, about_it[0]):
        return f"{submission.job_key}: put back {_MOST_TIMES} times, left for a person"
    return await _put_back(client, about_it[0], "its submission has no final answer")


async def _runs_about(client: PrefectClient, flow_name: str, job_id: str, keys: list[str]) -> list[FlowRun]:
    """The flow runs of this job, newest first: those with its keys, and those that began, for they have its name.

    Only the network's own flow counts: another network's job may be called the same, by chance or on purpose.
    """
    of_network = FlowFilter(name=FlowFilterName(any_=[flow_name]))
    filters = (
        FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys)),
        FlowRunFilter(name=FlowRunFilterName(any_=[job_id])),
    )
    found = [
        run for wanted in filters for run in await client.read_flow_runs(flow_filter=of_network, flow_run_filter=wanted)
    ]
    return sorted(
        {run.id: run for run in found}.values(),
        key=lambda run: run.expected_start_time or datetime.min.replace(tzinfo=UTC),
        reverse=True,
    )


async def _job_runs(client: PrefectClient, states: Sequence[StateType]) -> list[FlowRun]:
    """Flow runs of the networks' job flows in these states, newest first."""
    deployments = [served.deployment for served in (*networks().values(), VALIDATOR)]
    names = [deployment.partition("/")[0] for deployment in deployments]
    return await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=names)),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": list(states)}}}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=200,
    )
