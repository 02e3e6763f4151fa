"""Reconcile: what a killed worker left is taken up again.

Two questions, at worker start and on a schedule. Which flow runs have no living process? They go back to work on
the same attempt, and stages that have a result are not done again. Which signed submissions has nobody followed to
their end? Their flow runs go back to work as well; one whose flow run is lost gets a new one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import State, flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import AwaitingRetry, Completed, Crashed

from flows.attempts import attempt_key
from flows.lease import Holder, holder_of
from flows.markdown import code
from flows.networks import networks
from flows.workbench import open_workbench
from millrace.network import SignedSubmission
from millrace.settings import Settings
from stages.submit.outbox import Outbox

_logger = logging.getLogger("flows.reconcile")

_STARTING = timedelta(seconds=90)
"""How long a flow run may be Pending before its process must have taken its lease."""

_MOST_RUNS = 10
"""How often one flow run is put back before it is left for a person."""


@flow(name="reconcile")
async def reconcile() -> State[Any]:
    """Put abandoned flow runs and unfinished submissions of this machine back to work; say what was done."""
    async with open_workbench() as bench, get_client() as client:
        done = [await _put_back(client, run, why) for run, why in await _abandoned(client, bench.settings)]
        done += await _follow_submissions(client, await bench.tool("outbox"), bench.settings)
    if not done:
        return Completed(
            name="Nothing to do", message="every flow run has a living process, every submission an answer"
        )
    await acreate_markdown_artifact(
        "\n".join(["# Reconciled", *(f"- {code(line)}" for line in done)]), key="reconciled"
    )
    return Completed(name=f"Took up {len(done)}", message="; ".join(done)[:1_000])


async def _abandoned(client: PrefectClient, settings: Settings) -> list[tuple[FlowRun, str]]:
    """The job flow runs of this machine that have no living process, and how that is known."""
    runs = await _job_runs(client, [StateType.PENDING, StateType.RUNNING, StateType.CRASHED, StateType.CANCELLING])
    found = []
    for run in runs:
        why = _why_abandoned(run, holder_of(settings.data_dir / "leases", str(run.id)), datetime.now(UTC))
        if why:
            found.append((run, why))
    return found


def _why_abandoned(run: FlowRun, holder: Holder, now: datetime) -> str:
    """Why this flow run counts as abandoned; empty if it does not."""
    state = run.state
    if state is None or holder is Holder.alive or run.run_count >= _MOST_RUNS:
        return ""
    if state.type is StateType.CRASHED:
        return "its process died"
    if state.type is StateType.RUNNING and holder is Holder.gone:
        return "its process is gone"
    if state.type is StateType.PENDING and now - state.timestamp > _STARTING:
        return "it was never started"
    return ""


async def _put_back(client: PrefectClient, run: FlowRun, why: str) -> str:
    """Schedule the same flow run again, whatever state it is in; returns what was done, in words."""
    message = f"put back by reconcile: {why}"
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
    submissions = outbox.unsettled()
    runs = await _job_runs(client, list(StateType)) if submissions else []
    return [
        done for submission in submissions if (done := await _follow_submission(client, submission, runs, settings))
    ]


async def _follow_submission(
    client: PrefectClient, submission: SignedSubmission, runs: Sequence[FlowRun], settings: Settings
) -> str:
    """See that somebody follows this submission; returns what was done about it, empty if nothing had to be."""
    if submission.network not in networks():
        return f"{submission.job_key}: no network called {submission.network} is installed, left alone"
    served, job_id = networks()[submission.network], submission.job_key.rsplit("/", 1)[-1]
    keys = [attempt_key(submission.job_key, n) for n in range(1, settings.max_attempts + 1)]
    about_it = [r for r in runs if r.idempotency_key in keys or r.parameters.get(served.parameter) == job_id]
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
    newest = about_it[0]
    if newest.run_count >= _MOST_RUNS:
        return f"{submission.job_key}: put back {newest.run_count} times, left for a person"
    return await _put_back(client, newest, "its submission has no final answer")


async def _job_runs(client: PrefectClient, states: Sequence[StateType]) -> list[FlowRun]:
    """Flow runs of the networks' job flows in these states, newest first."""
    names = [served.deployment.partition("/")[0] for served in networks().values()]
    return await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=names)),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": list(states)}}}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=200,
    )
