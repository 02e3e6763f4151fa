"""Reconcile: what a killed worker left is taken up again.

Two questions, at worker start and on a schedule. Which flow runs have no living process? Those of jobs go back to
work on the same attempt, and stages that have a result are not done again; the others end, for a flow run that seems
to run holds a place in the work pool. Which signed submissions has nobody followed to their end, and of which answers
was a coordinator not told? Their flow runs go back to work as well; one whose flow run is lost gets a new one. What a
clock that was ahead put off begins now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

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
from prefect.states import AwaitingRetry, Cancelled, Completed, Crashed, Scheduled

from flows.ahead import bring_forward, server_now, within
from flows.attempts import attempt_key
from flows.lease import Holder, end_holder, forget, holder_of, without_holder
from flows.life import job_life
from flows.markdown import code
from flows.networks import COORDINATOR, VALIDATOR, networks
from flows.quarantine import SENT_BACK, attempts_of, is_quarantined, quarantine, set_aside
from millrace.network import Fate, SignedSubmission
from millrace.settings import Settings
from millrace.text import printable
from protocols.ipfs.locks import HeldElsewhere, alone
from stages.discover.coordinator import desk_of
from stages.submit.outbox import Outbox, OutboxDamaged

_logger = logging.getLogger("flows.reconcile")

_STARTING = timedelta(seconds=90)
"""How long a flow run may be Pending before its process must have taken its lease."""

_CANCELLING = timedelta(seconds=60)
"""How long a worker may take to end a flow run that is to be cancelled: its grace is half of it."""

_PATIENCE_SECONDS = 60.0
"""How long to wait for another reconciliation of this machine."""

_MOST_TIMES = 10
"""How often one flow run is put back before it is left for a person."""

_MOST_RUNS = 200
"""Prefect shows so many flow runs at once."""

_PUT_BACK = "put back by reconcile"
TAG_OF_ALL = "millrace"
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
    done = []
    for found, why in await _abandoned(client, settings):
        # Of many the last one's turn comes late: another machine may have put it back, and it may be running again.
        run = await client.read_flow_run(found.id)
        if not _without_process([run], settings, await server_now(client)):
            continue
        if await _was_cancelled(client, run):
            done.append(await _end(client, run, why, Cancelled(message=why)))
        elif await _may_put_back(client, run):
            done.append(await _put_back(client, run, why))
        else:
            done.append(await _set_aside(client, run, why))
    done += await bring_forward(client, await _job_runs(client, [StateType.SCHEDULED]))
    done += await _end_dead(client, settings)
    done += await _set_aside_failed(client, settings)
    done += await _follow_submissions(client, outbox, settings)
    done += await _have_told(client, outbox, settings)
    await _forget_leases(client, settings)
    return done


async def _abandoned(client: PrefectClient, settings: Settings) -> list[tuple[FlowRun, str]]:
    """The job flow runs of this machine that have no living process, and how that is known."""
    runs = await _job_runs(client, [StateType.PENDING, StateType.RUNNING, StateType.CRASHED])
    return _without_process(runs, settings, await server_now(client))


def _without_process(runs: Sequence[FlowRun], settings: Settings, now: datetime) -> list[tuple[FlowRun, str]]:
    found = []
    for run in runs:
        why = _why_abandoned(run, holder_of(settings.data_dir / "leases", str(run.id)), now)
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
    if state.type is StateType.PENDING and not within(state.timestamp, now, _STARTING):
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
                "tags": {"all_": [TAG_OF_ALL]},
                "state": {"type": {"any_": [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]}},
            }
        )
    )
    now = await server_now(client)
    for run in runs:
        if _cancelled_in_vain(run, now) and end_holder(settings.data_dir / "leases", str(run.id)):
            _logger.warning("flow run %s was to be cancelled and went on without a worker: ended", run.id)
    done = []
    for run, why in _without_process([run for run in runs if run.id not in jobs], settings, now):
        cancelling = run.state is not None and run.state.type is StateType.CANCELLING
        done.append(await _end(client, run, why, Cancelled(message=why) if cancelling else Crashed(message=why)))
    return done


def _cancelled_in_vain(run: FlowRun, now: datetime) -> bool:
    """Whether it should have been ended long ago: its worker, which would have, must be gone."""
    state = run.state
    if state is None or state.type is not StateType.CANCELLING:
        return False
    return not within(state.timestamp, now, _CANCELLING)


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
    """Whether this flow run was put back less often than is reasonable since a person last had a look at it.

    Its states are counted, not its runs: a process that dies before the first line of its flow counts none.
    """
    times = 0
    for state in sorted(await client.read_flow_run_states(run.id), key=lambda state: state.timestamp):
        if (state.message or "").startswith(SENT_BACK):
            times = 0
        times += (state.message or "").startswith(_PUT_BACK)
    return times < _MOST_TIMES


async def _set_aside(client: PrefectClient, run: FlowRun, why: str) -> str:
    """Put the job of a flow run that was put back too often into quarantine; returns what was done, in words."""
    told = f"put back {_MOST_TIMES} times, in vain: {why}"
    await _end_tasks(client, run, why)
    await quarantine(client, run, told)
    return f"{run.name}: {told}; in quarantine"


async def _put_back(client: PrefectClient, run: FlowRun, why: str) -> str:
    """Schedule the same flow run again, whatever state it is in; returns what was done, in words."""
    message = f"{_PUT_BACK}: {why}"
    await _end_tasks(client, run, why)
    await client.set_flow_run_state(
        run.id, AwaitingRetry(scheduled_time=await server_now(client), message=message), force=True
    )
    _logger.warning("flow run %s (%s): %s", run.name, run.id, message)
    return f"{run.name}: {message}"


async def _end_tasks(client: PrefectClient, run: FlowRun, why: str) -> None:
    """Tell the history that the tasks which died with the process are no longer running."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    for task_run in await client.read_task_runs(flow_run_filter=of_run, limit=200):
        if task_run.state is not None and not task_run.state.is_final():
            await client.set_task_run_state(task_run.id, Crashed(message=why), force=True)


async def _forget_leases(client: PrefectClient, settings: Settings) -> None:
    """Remove what killed processes left of their leases, once their flow runs have ended for good or are forgotten."""
    folder = settings.data_dir / "leases"
    left = sorted(filter(_is_id, without_holder(folder)))[:_MOST_RUNS]
    if not left:
        return
    of_them = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(name) for name in left]))
    runs = {str(run.id): run for run in await client.read_flow_runs(flow_run_filter=of_them, limit=_MOST_RUNS)}
    to_be_put_back = {str(run.id) for run in await _job_runs(client, [StateType.CRASHED])}
    for flow_run_id in left:
        state = runs[flow_run_id].state if flow_run_id in runs else None
        ended = flow_run_id not in runs or (state is not None and state.is_final())
        if ended and flow_run_id not in to_be_put_back:
            forget(folder, flow_run_id)


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


async def _set_aside_failed(client: PrefectClient, settings: Settings) -> list[str]:
    """Put jobs into quarantine whose last attempt has failed, whether their chain still lists them or not."""
    done = []
    for job_key, runs in attempts_of(await _job_runs(client, [StateType.FAILED])).items():
        if max(runs) >= settings.max_attempts and await set_aside(client, job_key, runs):
            done.append(f"{job_key}: failed {max(runs)} times; in quarantine")
    return done


async def _follow_submissions(client: PrefectClient, outbox: Outbox, settings: Settings) -> list[str]:
    """See that somebody follows every signed submission without a final answer."""
    # Two machines of a fleet at once would both find that nobody is at it, and each put a flow run back.
    async with outbox.followers_turn() as ours:
        unsettled = outbox.unsettled() if ours else []
        followed = [await _follow_submission(client, submission, settings) for submission in unsettled]
    return [done for done in followed if done]


async def _have_told(client: PrefectClient, outbox: Outbox, settings: Settings) -> list[str]:
    """See that the coordinator is told of every answer that is final: its flow run may have ended just before that."""
    if not COORDINATOR.configured(settings):
        return []
    desk, done = desk_of(settings), []
    followed = {submission.job_key for submission in outbox.unsettled()}  # whoever follows it tells
    for handed in await asyncio.to_thread(desk.open):
        if handed.job is None or handed.job.key in followed:
            continue
        try:
            history = outbox.history(handed.job.key)
        except OutboxDamaged as error:
            _logger.error("%s", error)
            continue
        if not history or history[-1].fate is not Fate.landed:
            continue
        submission = history[-1].submission
        ended = await _ended_runs(client, submission, settings)
        # In this order: a flow run that tells has told before it ends.
        if ended is not None and await asyncio.to_thread(desk.find, handed.job_id) == handed:
            why = "its coordinator was not told how it ended"
            done.append(await _go_on_with(client, submission, settings, ended, why))
    return [each for each in done if each]


async def _follow_submission(client: PrefectClient, submission: SignedSubmission, settings: Settings) -> str:
    """See that somebody follows this submission; returns what was done about it, empty if nothing had to be."""
    if submission.network not in networks():
        return f"{submission.job_key}: no network called {submission.network} is installed, left alone"
    ended = await _ended_runs(client, submission, settings)
    if ended is None:
        return ""
    return await _go_on_with(client, submission, settings, ended, "its submission has no final answer")


async def _ended_runs(client: PrefectClient, submission: SignedSubmission, settings: Settings) -> list[FlowRun] | None:
    """The job's flow runs, newest first, if all have ended; None if one is at it, or will be when its turn comes."""
    served, job_id = networks()[submission.network], submission.job_key.rsplit("/", 1)[-1]
    keys = [attempt_key(submission.job_key, n) for n in range(settings.max_attempts + 1)]
    about_it = await _runs_about(client, served.deployment.partition("/")[0], job_id, keys)
    if any(run.state is not None and not run.state.is_final() for run in about_it):
        return None
    return [run for run in about_it if run.deployment_id is not None]  # no worker takes one without


async def _go_on_with(
    client: PrefectClient, submission: SignedSubmission, settings: Settings, ended: Sequence[FlowRun], why: str
) -> str:
    """Have the newest of the job's flow runs go on, or a new one begin; returns what was done, in words."""
    served, job_id = networks()[submission.network], submission.job_key.rsplit("/", 1)[-1]
    if not ended:
        deployment = await client.read_deployment_by_name(served.deployment)
        await client.create_flow_run_from_deployment(
            deployment.id,
            parameters={served.parameter: job_id},
            state=Scheduled(scheduled_time=await server_now(client)),
            idempotency_key=attempt_key(submission.job_key, 0),  # no watcher counts from 0
        )
        return f"{submission.job_key}: its flow run is lost, a new one follows its submission"
    if await _may_put_back(client, ended[0]):
        return await _put_back(client, ended[0], why)
    return "" if is_quarantined(ended[0]) else await _set_aside(client, ended[0], why)


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
        limit=_MOST_RUNS,
    )
