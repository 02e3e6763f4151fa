"""What a flow run costs before and around its work: our warm worker against Prefect's own process worker.

Both serve pools of their own on one Prefect server, with the same settings, and take turns. A flow run is timed from
its creation to its first line and to its end: alone, and in a burst of eight. Then whole CloudMesh jobs with an empty
program: from creation to the end, less the time inside the stages, is what Prefect costs a job.

Bars, at the median: 5 times faster alone, 8 times in the burst; 0.6 s a job on PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun

from bench.report import print_report
from bench.warm_flows import mark
from deployments.localnet import localnet_settings
from deployments.processes import Processes
from deployments.stack import (
    base_environment,
    deploy,
    free_port,
    prefect_environment,
    start_database_and_server,
    start_worker,
)
from deployments.worker import WarmWorker
from localnet.ipfs import IpfsLocalnet
from localnet.solana import SolanaLocalnet
from localnet.solana.client import JobPoster
from protocols.solana.keypair import load_or_create_keypair

BURST = 8
BAR_SINGLE, BAR_BURST, BAR_JOB_SECONDS = 5.0, 8.0, 0.6
_TYPES = {"process": "Prefect's process worker", "warm": "ours, warm"}
_PATIENCE_SECONDS = 180.0
_SETTLING_SECONDS = 3.0
"""Between two turns: a flow run's process ends a while after the flow run has, and would slow the other worker."""


@dataclass(frozen=True)
class Timing:
    """Seconds from a flow run's creation to its first line and to its end."""

    first_line: float
    end: float


def main() -> int:
    """Measure; 0 if every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--single", type=int, default=5, help="flow runs alone, of each worker")
    parser.add_argument("--bursts", type=int, default=3, help="bursts of eight, of each worker")
    parser.add_argument("--jobs", type=int, default=10, help="CloudMesh jobs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        return asyncio.run(bench(Path(folder), options.single, options.bursts, options.jobs))


async def bench(folder: Path, single: int, bursts: int, jobs: int) -> int:
    port = free_port()
    environment = {**base_environment(), **prefect_environment(folder, port)}
    with Processes(folder / "logs") as processes:
        database = await start_database_and_server(processes, environment, port, folder)
        print(database, flush=True)
        async with PrefectClient(environment["PREFECT_API_URL"]) as client:
            deployments = {kind: await _serve(processes, environment, client, kind) for kind in _TYPES}
            await asyncio.gather(
                *[timed(client, folder, found, f"first-{kind}") for kind, found in deployments.items()]
            )
            alone: dict[str, list[Timing]] = {kind: [] for kind in _TYPES}
            for turn in range(single):
                for kind, found in deployments.items():
                    await asyncio.sleep(_SETTLING_SECONDS)
                    alone[kind].append(await timed(client, folder, found, f"alone-{kind}-{turn}"))
            together: dict[str, list[Timing]] = {kind: [] for kind in _TYPES}
            for turn in range(bursts):
                for kind, found in deployments.items():
                    await asyncio.sleep(_SETTLING_SECONDS)
                    names = [f"burst-{kind}-{turn}-{n}" for n in range(BURST)]
                    together[kind] += await asyncio.gather(*[timed(client, folder, found, n) for n in names])
            megabytes = {
                kind: await memory(processes, client, folder, found, kind) for kind, found in deployments.items()
            }
            for kind in _TYPES:
                processes.stop(kind)
            costs = await job_costs(folder, processes, environment, client, jobs)
    return _report(alone, together, megabytes, costs, database)


async def _serve(processes: Processes, environment: dict[str, str], client: PrefectClient, kind: str) -> UUID:
    """A pool of that type with its worker, and the bench's flow deployed to it."""
    await client.create_work_pool(WorkPoolCreate(name=kind, type=kind, base_job_template=_template(kind)))
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", kind, "--type", kind]
    processes.start(kind, [*command, "--limit", str(BURST)], environment)
    return await client.create_deployment(
        await client.create_flow(mark),
        kind,
        entrypoint="bench.warm_flows.mark",
        work_pool_name=kind,
    )


async def timed(client: PrefectClient, folder: Path, deployment: UUID, name: str) -> Timing:
    """One flow run's timing. Its record has the times, so that waiting for it need not be precise, or cost much."""
    created = time.time()
    run = await client.create_flow_run_from_deployment(deployment, parameters={"folder": str(folder), "name": name})
    await asyncio.to_thread(_wait_for, [folder / name])  # before that there is nothing to ask the server
    ended = await _ended(client, run)
    return Timing(float((folder / name).read_text()) - created, _end_of(ended) - created)


async def memory(processes: Processes, client: PrefectClient, folder: Path, deployment: UUID, kind: str) -> float:
    """Megabytes that a running flow adds: proportional set size, so that shared pages count once."""
    worker, flows = processes.process(kind), 4
    idle = _proportional_megabytes(worker)
    runs = [
        await client.create_flow_run_from_deployment(
            deployment, parameters={"folder": str(folder), "name": f"memory-{kind}-{n}", "seconds": 8.0}
        )
        for n in range(flows)
    ]
    await asyncio.to_thread(_wait_for, [folder / f"memory-{kind}-{n}" for n in range(flows)])
    busy = _proportional_megabytes(worker)
    for run in runs:
        await _ended(client, run)
    return (busy - idle) / flows


def _wait_for(notes: Sequence[Path]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while missing := [note for note in notes if not note.exists()]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no flow run wrote {missing[0]}")
        time.sleep(0.2)


def _proportional_megabytes(worker: psutil.Process) -> float:
    family = [worker, *worker.children(recursive=True)]
    return float(sum(process.memory_full_info().pss for process in family)) / 1e6


async def job_costs(
    folder: Path, processes: Processes, environment: dict[str, str], client: PrefectClient, jobs: int
) -> list[float]:
    """For each CloudMesh job with an empty program: seconds from creation to its end, less those inside the stages."""
    costs = []
    async with _cloudmesh(folder, environment, processes) as (owner, code_cid):
        for deployment in await client.read_deployments():
            await client.pause_deployment(deployment.id)  # the watcher would take the jobs, too
        deployment = await client.read_deployment_by_name("cloudmesh-job/cpu")
        for number in range(jobs + 1):
            address = await asyncio.to_thread(owner.post, f"empty {number}", code_cid)
            created = time.time()
            run = await client.create_flow_run_from_deployment(deployment.id, parameters={"job_address": address})
            ended = await _ended(client, run)
            if ended.state_name != "Settled":
                raise RuntimeError(f"job {number} ended {ended.state_name}: {ended.state and ended.state.message}")
            costs.append(_end_of(ended) - created - await _worked_seconds(client, run))
    return costs[1:]  # the first one finds the sandbox untested and the pool's worker new


@asynccontextmanager
async def _cloudmesh(
    folder: Path, environment: dict[str, str], processes: Processes
) -> AsyncIterator[tuple[JobPoster, str]]:
    """A local chain and IPFS, our deployments and a warm worker: who posts jobs, and an empty program's CID."""
    keypair_path = folder / "worker-keypair.json"
    worker, _ = load_or_create_keypair(keypair_path)
    with (
        SolanaLocalnet(slot_milliseconds=50) as solana,
        IpfsLocalnet(folder / "ipfs") as ipfs,
        JobPoster(solana.url, solana.program_id) as owner,
    ):
        for address in (owner.address, str(worker.pubkey())):
            solana.chain.airdrop(address, 10**9)
        addresses = {
            "solana_rpc_url": solana.url,
            "program_id": solana.program_id,
            "ipfs_gateway_url": ipfs.gateway_url,
            "pinata_url": ipfs.pinata_url,
            "pinata_jwt": ipfs.pinata_jwt,
        }
        own = {"MILLRACE_CLOUDMESH__KEYPAIR_PATH": str(keypair_path), **localnet_settings(addresses)}
        await deploy({**environment, **own}, BURST)
        start_worker(processes, {**environment, **own}, BURST)
        yield owner, ipfs.add(b"")


async def _worked_seconds(client: PrefectClient, run: FlowRun) -> float:
    """What the flow run's log says; it is sent a moment after the run has ended."""
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    for _ in range(100):
        for line in await client.read_logs(wanted):
            if found := re.search(r"the stages worked for ([\d.]+) s", line.message):
                return float(found[1])
        await asyncio.sleep(0.1)
    raise RuntimeError(f"flow run {run.id} does not say how long its stages worked")


async def _ended(client: PrefectClient, run: FlowRun) -> FlowRun:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        now = await client.read_flow_run(run.id)
        if now.state is not None and now.state.is_final():
            return now
        await asyncio.sleep(0.5)
    raise RuntimeError(f"flow run {run.id} did not end within {_PATIENCE_SECONDS:.0f} s")


def _end_of(run: FlowRun) -> float:
    if run.end_time is None:
        raise RuntimeError(f"flow run {run.id} has no end")
    return run.end_time.timestamp()


def _template(kind: str) -> dict[str, Any]:
    if kind == WarmWorker.type:
        return WarmWorker.get_default_base_job_template()
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()


def _report(
    alone: dict[str, list[Timing]],
    together: dict[str, list[Timing]],
    megabytes: dict[str, float],
    costs: Sequence[float],
    database: str,
) -> int:
    database = "SQLite" if re.match(r"database: sqlite", database, re.IGNORECASE) else "PostgreSQL"
    rows: list[dict[str, Any]] = [
        {
            "worker": name,
            "alone_first_line_s": _median([timing.first_line for timing in alone[kind]]),
            "alone_end_s": _median([timing.end for timing in alone[kind]]),
            "burst_first_line_s": _median([timing.first_line for timing in together[kind]]),
            "burst_end_s": _median([timing.end for timing in together[kind]]),
            "MB_a_flow": round(megabytes[kind], 1),
        }
        for kind, name in _TYPES.items()
    ]
    cold, warm = rows
    times = {
        column: round(cold[column] / warm[column], 1)
        for column in ("alone_first_line_s", "alone_end_s", "burst_first_line_s", "burst_end_s")
    }
    job_seconds = _median(costs)
    good = (
        min(times["alone_first_line_s"], times["alone_end_s"]) >= BAR_SINGLE
        and min(times["burst_first_line_s"], times["burst_end_s"]) >= BAR_BURST
        and (job_seconds < BAR_JOB_SECONDS or database != "PostgreSQL")
    )
    summary = {
        "bench": "warm_start",
        "database": database,
        "rows": rows,
        "times_faster": times,
        "prefect_seconds_a_job": job_seconds,
        "jobs": len(costs),
        "ok": good,
    }
    print_report(f"Flow runs from creation on, medians, Prefect's database {database}", rows, summary)
    return 0 if good else 1


def _median(seconds: Sequence[float]) -> float:
    return round(statistics.median(seconds), 3)


if __name__ == "__main__":
    sys.exit(main())
