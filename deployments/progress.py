"""Live progress of jobs: which stage each is in, as Prefect records it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.networks import VALIDATOR, networks
from millrace.text import printable


class Followed(Protocol):
    """A job, as far as progress needs to know it."""

    @property
    def title(self) -> str:
        """What to call it."""
        ...

    @property
    def job_id(self) -> str:
        """The chain's own name for it."""
        ...


class Progress:
    """Follows the flow runs of some jobs until each has ended.

    `jobs` are these, given the flow runs that there are by job id: some jobs are known only by their flow runs.
    """

    def __init__(
        self, console: Console, client: PrefectClient, jobs: Callable[[Mapping[str, FlowRun]], Sequence[Followed]]
    ) -> None:
        self._console = console
        self._client = client
        self._jobs = jobs
        self._shown: dict[str, str] = {}
        self._began = time.monotonic()

    async def follow(self, check: Callable[[], None], deadline_seconds: float) -> bool:
        """Show progress until every job has ended (True) or the deadline has passed (False).

        `check` is called between two looks and may raise, to end it early.
        """
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while time.monotonic() - self._began < deadline_seconds:
                check()
                runs = await job_runs(self._client)
                stages = await self._stages(runs)
                if self._console.is_terminal:
                    live.update(self._table(runs, stages), refresh=True)
                else:
                    self._print_changes(runs, stages)
                if all(_ended(runs.get(entry.job_id)) for entry in self._jobs(runs)):
                    return True
                await asyncio.sleep(0.5)
        return False

    async def _stages(self, runs: dict[str, FlowRun]) -> dict[UUID, str]:
        """The stage that each flow run is in, by the run's id."""
        if not runs:
            return {}
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs.values()]))
        stages: dict[UUID, str] = {}
        for task_run in await self._client.read_task_runs(flow_run_filter=wanted, limit=200):
            if task_run.flow_run_id and task_run.state and not task_run.state.is_final():
                stages[task_run.flow_run_id] = task_run.name.rpartition("-")[0] or task_run.name
        return stages

    def _words(self, run: FlowRun | None, stages: dict[UUID, str]) -> str:
        if run is None:
            return "on the chain"
        if run.id in stages:
            return stages[run.id]
        return (run.state_name or "").lower()

    def _table(self, runs: dict[str, FlowRun], stages: dict[UUID, str]) -> Table:
        table = Table("job", "where it is", title=f"{time.monotonic() - self._began:.0f} s")
        for entry in self._jobs(runs):
            run = runs.get(entry.job_id)
            style = "green" if _ended(run) else "yellow" if run else "dim"
            table.add_row(Text(printable(entry.title)), Text(self._words(run, stages), style))
        return table

    def _print_changes(self, runs: dict[str, FlowRun], stages: dict[UUID, str]) -> None:
        for entry in self._jobs(runs):
            words = self._words(runs.get(entry.job_id), stages)
            if self._shown.get(entry.title) != words:
                self._shown[entry.title] = words
                seconds = time.monotonic() - self._began
                self._console.print(f"{seconds:6.1f} s  {printable(entry.title):22} {words}", markup=False)


async def job_runs(client: PrefectClient) -> dict[str, FlowRun]:
    """The newest flow run of each job, by the chain's own name for the job."""
    newest: dict[str, FlowRun] = {}
    for served in (*networks().values(), VALIDATOR):
        flow = FlowFilter(name=FlowFilterName(any_=[served.deployment.partition("/")[0]]))
        for run in await client.read_flow_runs(flow_filter=flow, limit=200):
            job_id = str(run.parameters.get(served.parameter))
            former = newest.get(job_id)
            if former is None or (run.created and former.created and run.created > former.created):
                newest[job_id] = run
    return newest


def _ended(run: FlowRun | None) -> bool:
    return run is not None and run.state is not None and run.state.is_final()
