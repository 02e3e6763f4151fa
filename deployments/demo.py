"""`millrace demo`: several jobs from chain to chain on local stand-ins, with every part running for real."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from prefect.client.orchestration import PrefectClient
from rich.console import Console

from deployments.database import URL_NAMES
from deployments.demo_builder import DemoBuilder, find_builder
from deployments.demo_challenges import CHALLENGE_SETTINGS, begun_challenges, fund_worker
from deployments.demo_jobs import JOBS, WALL_SECONDS, DemoJob
from deployments.demo_report import verdict_table
from deployments.demo_requests import REQUEST_SETTINGS, demo_requests, make_requests
from deployments.demo_validator import PushedJob, push_job
from deployments.localnet import localnet_settings
from deployments.preflight import missing
from deployments.processes import Processes, wait_until
from deployments.progress import Progress, job_runs
from deployments.stack import (
    POOLS,
    base_environment,
    deploy,
    first_look,
    free_port,
    prefect_environment,
    start_database_and_server,
    start_worker,
)
from localnet.solana.client import JobPoster
from millrace.errors import Permanent
from millrace.settings import ENV_FILE_NAME, PUBLIC_NAMES, Settings
from protocols.solana.keypair import load_or_create_keypair
from stages.execute.sandbox.opening import open_bubblewrap

_SLOT_MILLISECONDS = 100
_BLOCK_SECONDS = 2.0
_FLOW_RUNS_AT_ONCE = 4
_JOBS_DEADLINE_SECONDS = 150.0
_TABLE_COLUMNS = 150
"""Width of the last table; a narrower terminal wraps its lines, which reads better than cells cut to a letter."""


@dataclass
class Posted:
    """A demo job on the local chain."""

    job: DemoJob
    address: str
    key: str

    @property
    def title(self) -> str:
        """What the job is called."""
        return self.job.title

    @property
    def job_id(self) -> str:
        """The address of the job's account."""
        return self.address


async def run_demo(*, keep: bool) -> int:
    """Run the demo; returns the exit code, 0 only if every job ended as it should."""
    console = Console(highlight=False)
    console.width = max(console.width, _TABLE_COLUMNS)
    if missing(console):
        return 1
    folder = Path(tempfile.mkdtemp(prefix="millrace-demo-"))
    task = asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel if task else lambda: None)
    good = False
    try:
        with Processes(folder / "logs") as processes:
            good = await _demo(console, processes, folder, keep=keep)
    except asyncio.CancelledError:
        console.print("\nstopped; nothing is left running")
        return 130
    finally:
        if good:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"logs are in {folder / 'logs'}; the folder may be deleted", markup=False)
    return 0 if good else 1


async def _demo(console: Console, processes: Processes, folder: Path, *, keep: bool) -> bool:
    began = time.monotonic()
    grouped = open_bubblewrap(Settings()).hierarchy is not None
    jobs = JOBS if grouped else tuple(job.without_groups() for job in JOBS)
    builder = await asyncio.to_thread(find_builder)
    port = free_port()
    environment = {
        **_without_settings(base_environment()),
        **prefect_environment(folder, port),
        ENV_FILE_NAME: str(folder / "none.env"),
        "MILLRACE_LIMITS__WALL_SECONDS": str(WALL_SECONDS),
        "MILLRACE_CLOUDMESH__KEYPAIR_PATH": str(folder / "worker-keypair.json"),
        **CHALLENGE_SETTINGS,
        **REQUEST_SETTINGS,
        "MILLRACE_COMPUTECHAIN__KEYSTORE": str(folder / "keys"),
        "MILLRACE_COMPILE__IMAGE": builder.image,
        "POLL_INTERVAL": "2",
        "MILLRACE_MAX_IN_FLIGHT": str(len(JOBS)),
    }
    console.print("starting the local chains, IPFS and the Prefect server ...")
    addresses = await _start_localnet(processes, folder, environment)
    environment |= localnet_settings(addresses)
    line = await start_database_and_server(processes, environment, port, folder, durable=False)
    await _ensure_empty(environment)
    console.print(f"  {line}\n  Prefect UI: http://127.0.0.1:{port}\nposting {len(jobs)} jobs ...", markup=False)
    posted = await asyncio.to_thread(_post_jobs, jobs, addresses, folder)
    await asyncio.to_thread(fund_worker, addresses, folder / "keys")
    requests = demo_requests(compiles=bool(builder.image), addresses=addresses)
    console.print(_told_builder(builder), markup=False)
    asked = await asyncio.to_thread(make_requests, addresses, requests)
    pushed = PushedJob()
    await asyncio.to_thread(push_job, addresses, pushed)
    console.print("creating the work pools and the deployments of prefect.yaml ...")
    await deploy(environment, _FLOW_RUNS_AT_ONCE)
    async with PrefectClient(environment["PREFECT_API_URL"]) as client:
        await _start_cancelled(client, posted)
        await first_look(client)
        for pool in POOLS:
            start_worker(processes, environment, _FLOW_RUNS_AT_ONCE, pool)
        console.print("workers started; they test their sandbox, then serve their pools\n")
        progress = Progress(console, client, lambda runs: [*posted, *begun_challenges(runs), pushed, *asked])
        finished = await progress.follow(processes.check, _JOBS_DEADLINE_SECONDS)
        runs = await job_runs(client)
        table, good = await asyncio.to_thread(
            verdict_table, runs, posted, begun_challenges(runs), pushed, asked, addresses, folder
        )
    console.print(table)
    if not finished:
        console.print(f"not every job ended within {_JOBS_DEADLINE_SECONDS:.0f} s", style="red")
        for name in ("worker", "worker-gpu", "worker-docker"):
            console.print(processes.log_tail(name, 30), markup=False)
    good = good and finished
    outcome = "every job ended as it should" if good else "something did NOT end as it should"
    console.print(f"{outcome}; {time.monotonic() - began:.0f} s in all", style="bold green" if good else "bold red")
    _where_to_look(console, port, keep=keep)
    while keep:
        processes.check()
        await asyncio.sleep(1)
    return good


async def _ensure_empty(environment: dict[str, str]) -> None:
    """Return if the database is the demo's alone. Permanent otherwise: its worker would take the operator's jobs."""
    async with PrefectClient(environment["PREFECT_API_URL"]) as client:
        if await client.read_deployments(limit=1):
            hint = f"unset {' and '.join(URL_NAMES)} for a database of the demo's own, or name an empty one"
            raise Permanent("the configured database has deployments already", hint=hint)


def _without_settings(environment: dict[str, str]) -> dict[str, str]:
    """The environment without the operator's own settings: the demo must not touch his chain, keys or daemon."""
    public = {name.upper() for name in (*PUBLIC_NAMES, "poll_interval")}
    return {n: v for n, v in environment.items() if not n.startswith("MILLRACE_") and n.upper() not in public}


async def _start_localnet(processes: Processes, folder: Path, environment: dict[str, str]) -> dict[str, str]:
    info = folder / "localnet.json"
    command = [sys.executable, "-m", "deployments", "localnet", "--info", str(info)]
    times = ["--slot-milliseconds", str(_SLOT_MILLISECONDS), "--block-seconds", str(_BLOCK_SECONDS)]
    processes.start("localnet", [*command, *times], environment)
    await wait_until(info.exists, "localnet", 30, processes)
    addresses: dict[str, str] = json.loads(info.read_text())
    return addresses


def _post_jobs(jobs: Sequence[DemoJob], addresses: dict[str, str], folder: Path) -> list[Posted]:
    """Fund the accounts, put the programs on IPFS and the jobs on the chain; cancel the one that is to be cancelled."""
    url, program_id = addresses["solana_rpc_url"], addresses["program_id"]
    worker, _ = load_or_create_keypair(folder / "worker-keypair.json")
    with JobPoster(url, program_id, worker) as worker_account:
        worker_account.fund()
    posted = []
    with JobPoster(url, program_id) as owner, httpx.Client(timeout=10) as http:
        owner.fund()
        for job in jobs:
            address = owner.post(job.title, _add(http, addresses["ipfs_rpc_url"], job.program))
            if job.cancelled:
                owner.cancel(address)
            posted.append(Posted(job, address, f"cloudmesh/{addresses['genesis_hash']}/{address}"))
    return posted


def _add(http: httpx.Client, rpc_url: str, program: str) -> str:
    parameters = {"cid-version": "1", "raw-leaves": "true", "pin": "true"}
    reply = http.post(f"{rpc_url}/api/v0/add", params=parameters, files={"file": ("main.py", program.encode())})
    return str(json.loads(reply.raise_for_status().text.splitlines()[-1])["Hash"])


async def _start_cancelled(client: PrefectClient, posted: list[Posted]) -> None:
    """Ask for the cancelled job by hand: the watcher would not list it, and a stale listing looks just like this."""
    deployment = await client.read_deployment_by_name("cloudmesh-job/cpu")
    for entry in posted:
        if entry.job.cancelled:
            await client.create_flow_run_from_deployment(deployment.id, parameters={"job_address": entry.address})


def _told_builder(builder: DemoBuilder) -> str:
    if builder.image:
        return f"a repository will be compiled in Docker, in the image {builder.image.removeprefix('sha256:')[:12]}"
    return f"nothing can be compiled here, a prebuilt module is used instead: {builder.why}"


def _where_to_look(console: Console, port: int, *, keep: bool) -> None:
    if keep:
        console.print(
            f"\nstill running; Ctrl-C ends it\n"
            f"  flow runs, their logs and receipts: http://127.0.0.1:{port}/runs\n"
            f"  receipts as artifacts:              http://127.0.0.1:{port}/artifacts\n"
            f"  deployments, to start one by hand:  http://127.0.0.1:{port}/deployments",
            markup=False,
        )
    else:
        console.print("to look around in the Prefect UI (runs, logs, receipts): make demo KEEP=1", markup=False)
