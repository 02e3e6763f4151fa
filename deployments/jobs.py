"""`millrace jobs`: what has become of every job that Prefect knows, and sending jobs back from quarantine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.networks import VALIDATOR, networks
from flows.quarantine import attempts_of, is_quarantined, send_back
from millrace.errors import Permanent
from millrace.redaction import redact
from millrace.text import printable

_PAGE = 200
_LONGEST_REASON = 300


@dataclass(frozen=True)
class JobStatus:
    """A job and the flow run that is the last word about it; started by hand, its key is not known, and its name is."""

    key: str
    attempts: int
    run: FlowRun

    @property
    def state(self) -> str:
        """The name of the flow run's state."""
        return (self.run.state.name if self.run.state is not None else "") or ""

    @property
    def reason(self) -> str:
        """What its state says."""
        return (self.run.state.message if self.run.state is not None else "") or ""


async def read_jobs(client: PrefectClient, most: int = 1_000) -> list[JobStatus]:
    """The jobs of the newest flow runs, at most so many of these, newest first."""
    runs: list[FlowRun] = []
    names = [served.deployment.partition("/")[0] for served in (*networks().values(), VALIDATOR)]
    while len(runs) < most:
        page = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=names)),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=_PAGE,
            offset=len(runs),
        )
        runs += page
        if len(page) < _PAGE:
            break
    return list(_statuses(runs))


def _statuses(runs: Sequence[FlowRun]) -> Iterator[JobStatus]:
    by_key = attempts_of(runs)
    seen: set[str] = set()
    for run in runs:
        key = (run.idempotency_key or "").rpartition("#")[0]
        if key not in by_key:
            yield JobStatus(run.name, 1, run)
        elif key not in seen:
            seen.add(key)
            yield JobStatus(key, len(by_key[key]), by_key[key][max(by_key[key])])


async def show_jobs(console: Console, *, quarantined: bool) -> int:
    """Print the jobs, or only those in quarantine with their reasons; returns the exit code, 1 if any is there."""
    async with get_client() as client:
        jobs = await read_jobs(client)
    if quarantined:
        jobs = [job for job in jobs if is_quarantined(job.run)]
    if not jobs:
        console.print("no job is in quarantine" if quarantined else "no jobs yet")
        return 0
    table = Table("job", "attempts", "state", "since", "reason")
    for job in jobs:
        since = job.run.state.timestamp.isoformat(" ", "seconds") if job.run.state is not None else ""
        reason = printable(redact(job.reason), _LONGEST_REASON)
        table.add_row(Text(printable(job.key)), str(job.attempts), Text(printable(job.state)), since, Text(reason))
    console.print(table)
    if quarantined:
        console.print("`millrace jobs --retry <job>` (or Retry in the Prefect UI) goes on at the stage that failed")
    return int(quarantined)


async def retry_job(console: Console, key: str) -> None:
    """Send a job back from quarantine, all of them for `all`. Permanent if there is none of that key in it."""
    async with get_client() as client:
        jobs = [job for job in await read_jobs(client) if is_quarantined(job.run)]
        wanted = jobs if key == "all" else [job for job in jobs if key in (job.key, job.run.name)]
        if not wanted and key != "all":
            known = ", ".join(job.key for job in jobs[:10]) or "none"
            raise Permanent(f"{printable(key)} is not in quarantine", hint=f"in quarantine: {known}")
        for job in wanted:
            await send_back(client, job.run)
            console.print(f"{job.key} goes on", markup=False)
