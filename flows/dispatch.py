"""From pending jobs to flow runs: each job at most once at a time, and no more than the work pool can hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Self
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Scheduled

from flows.ahead import server_now
from flows.attempts import attempt_key, is_given_up, next_attempt
from flows.networks import JobSource
from flows.quarantine import set_aside
from millrace.job import Job
from millrace.settings import Settings
from millrace.text import printable

_UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
_KEYS_A_QUERY = 150
"""Prefect answers at most 200 flow runs at once."""


class Dispatcher:
    """Starts flow runs of one network's job deployment."""

    logger = logging.getLogger("flows.dispatch")

    def __init__(self, client: PrefectClient, served: JobSource, settings: Settings, deployment: Any) -> None:
        self._client = client
        self._served = served
        self._settings = settings
        self._deployment_id: UUID = deployment.id
        self._work_pool_name: str | None = deployment.work_pool_name
        self.given_up: list[tuple[Job, str]] = []
        """Of the last `start`: jobs whose flow runs have ended and that get no further one, with its last state."""

    @classmethod
    async def create(cls, client: PrefectClient, served: JobSource, settings: Settings) -> Self:
        """A dispatcher for the source's deployment, which must have been deployed (`prefect deploy --all`)."""
        return cls(client, served, settings, await client.read_deployment_by_name(served.deployment))

    async def start(self, pending: Sequence[Job], begun: Callable[[Sequence[Job]], None] = lambda _: None) -> int:
        """Create a flow run for each job that needs one and fits; returns how many were created.

        `begun` is told which of the jobs have a flow run now.
        """
        self.given_up = []
        room = await self.room() if pending else 0
        started = 0
        batch_size = max(1, _KEYS_A_QUERY // self._settings.max_attempts)
        for batch in _batches(pending, batch_size):
            if started >= room:
                break
            runs = await self._runs_of(batch)
            now = await server_now(self._client)
            for job in batch:
                had = runs.get(job.key, {})
                if is_given_up(had, most=self._settings.max_attempts):
                    self.given_up.append((job, _last_word(had)))
                    await set_aside(self._client, job.key, had)
                attempt = next_attempt(
                    had,
                    now=now,
                    most=self._settings.max_attempts,
                    cooldown_seconds=min(
                        self._settings.attempt_cooldown_seconds, self._served.longest_cooldown_seconds
                    ),
                )
                if attempt is not None and started < room:
                    start = now + timedelta(microseconds=started)  # in this order
                    if attempt in had:
                        await self._repeat(job, had[attempt], start)
                    else:
                        await self._create(job, attempt, start)
                    started += 1
                    runs.setdefault(job.key, {})
            begun([job for job in batch if job.key in runs])
        return started

    async def room(self) -> int:
        """How many more flow runs may be unfinished at once."""
        limit = self._settings.max_in_flight
        if self._work_pool_name:
            pool = await self._client.read_work_pool(self._work_pool_name)
            if pool.concurrency_limit is not None:
                limit = min(limit, pool.concurrency_limit)
        unfinished = await self._client.count_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self._deployment_id])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNFINISHED))),
        )
        return limit - unfinished

    async def _runs_of(self, jobs: Sequence[Job]) -> dict[str, dict[int, FlowRun]]:
        """The flow runs that these jobs have had, by job key and attempt."""
        attempts = range(1, self._settings.max_attempts + 1)
        keys = {attempt_key(job.key, n): (job.key, n) for job in jobs for n in attempts}
        found = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=list(keys)))
        )
        runs: dict[str, dict[int, FlowRun]] = {}
        for run in found:
            if run.idempotency_key in keys:
                job_key, attempt = keys[run.idempotency_key]
                runs.setdefault(job_key, {})[attempt] = run
        return runs

    async def _create(self, job: Job, attempt: int, start: datetime) -> None:
        run = await self._client.create_flow_run_from_deployment(
            self._deployment_id,
            state=Scheduled(scheduled_time=start),
            parameters={self._served.parameter: job.job_id},
            idempotency_key=attempt_key(job.key, attempt),
            tags=[f"network:{job.network}", f"attempt:{attempt}"],
        )
        self.logger.info("job %s, attempt %d: flow run %s", job.key, attempt, run.id)

    async def _repeat(self, job: Job, declined: FlowRun, start: datetime) -> None:
        message = "declined for a reason that may have passed"
        again: State[Any] = Scheduled(scheduled_time=start, message=message)
        await self._client.set_flow_run_state(declined.id, again, force=True)
        self.logger.info("job %s: flow run %s is repeated, it was %s", job.key, declined.id, message)


def _last_word(runs: Mapping[int, FlowRun]) -> str:
    state = runs[max(runs)].state
    return printable(f"{state.name}: {state.message or ''}" if state is not None else "", 500)


def _batches(jobs: Sequence[Job], size: int) -> Iterator[list[Job]]:
    iterator = iter(jobs)
    while batch := list(islice(iterator, size)):
        yield batch
