"""A whole Millrace on one machine: Prefect server, work pools, deployments and workers."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from deployments.automations import HEARTBEAT_SECONDS, create_automations, retention
from deployments.database import open_database
from deployments.processes import Processes, wait_until
from deployments.worker import WarmWorker
from flows.ahead import server_now
from millrace.errors import Permanent
from millrace.logs import OUR_LOGGERS
from millrace.settings import ENV_FILE_NAME, Settings, env_file

PROJECT = Path(__file__).resolve().parent.parent
"""Where prefect.yaml and the flows are."""

POOLS = ("cpu", "gpu", "docker")
"""The work pools of prefect.yaml: what runs anywhere, what wants a GPU and makes do with a CPU, what compiles."""

_STANDING = 6
"""Flow runs of the pool `cpu` that are no jobs and run nearly all the time: watches, links, reconcile."""

POOL_TYPE = WarmWorker.type


def room(pool: str, limit: int) -> int:
    """How many flow runs a pool and its worker have to hold so that `limit` jobs can run in it at a time."""
    return limit + _STANDING if pool == "cpu" else limit


def free_port() -> int:
    """A TCP port on loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prefect_environment(data_dir: Path, port: int) -> dict[str, str]:
    """The environment in which our server, worker and flow runs find each other. Everything stays on loopback."""
    api_url = f"http://127.0.0.1:{port}/api"
    return {
        "PREFECT_HOME": str(data_dir / "prefect"),
        "PREFECT_API_URL": api_url,
        # On any port but 4200 the UI cannot find the API by itself.
        "PREFECT_SERVER_UI_API_URL": api_url,
        # Prefect's default lets every web page that the operator opens call the API: it could start anything here.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(data_dir / "results"),
        "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(OUR_LOGGERS),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        # Our server demands no CSRF tokens, yet every client would ask for one first.
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_WORKER_QUERY_SECONDS": "0.2",
        "PREFECT_WORKER_PREFETCH_SECONDS": "0",
        "DO_NOT_TRACK": "1",
        "MILLRACE_DATA_DIR": str(data_dir),
        "TMPDIR": str(private_folder(private_folder(data_dir) / "tmp")),
    }


def private_folder(folder: Path) -> Path:
    """`folder`, made for us alone: in the common one Prefect's runner uses a name that all users share."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def pinned_settings(settings: Settings) -> dict[str, str]:
    """The settings that are paths, absolute: flow runs work in the project's folder, their worker in the operator's."""
    return {
        ENV_FILE_NAME: str(env_file().absolute()),
        "MILLRACE_DATA_DIR": str(settings.data_dir.absolute()),
        "MILLRACE_CLOUDMESH__KEYPAIR_PATH": str(settings.cloudmesh.keypair_path.absolute()),
        "MILLRACE_COMPUTECHAIN__KEYSTORE": str(settings.computechain.keystore.expanduser().absolute()),
    }


def base_environment() -> dict[str, str]:
    """This process's environment, without Prefect settings that would point elsewhere, with our commands first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept


async def start_database_and_server(
    processes: Processes,
    environment: Mapping[str, str],
    port: int,
    data_dir: Path,
    *,
    durable: bool = True,
    history_days: int = 30,
) -> str:
    """Open the database, start the Prefect server on it, and return the line that says which one it is.

    The server alone learns the database's address. Not `durable`: see `open_database`. What ended more than
    `history_days` ago is forgotten.
    """
    database = await open_database(processes, data_dir, durable=durable)
    await start_server(processes, {**retention(history_days), **environment, **database.environment}, port)
    return database.line


_SERVER = {
    # Prefect's own default is a transaction for each of the three states of every task: a sixth of the server's time.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


async def start_server(processes: Processes, environment: Mapping[str, str], port: int) -> None:
    """Start the Prefect server and wait until it answers."""
    launch_server(processes, environment, port)
    await wait_until(lambda: _answers(f"{environment['PREFECT_API_URL']}/health"), "the Prefect server", 90, processes)


def launch_server(processes: Processes, environment: Mapping[str, str], port: int) -> None:
    """Start the Prefect server and do not wait for it."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    processes.start("prefect-server", command, {**_SERVER, **environment})


async def deploy(environment: Mapping[str, str], limit: int) -> None:
    """Create the work pools, each with room for `limit` jobs, and every deployment of prefect.yaml.

    Raises Permanent if a pool of ours is of another type, or with Prefect's own words if it refuses.
    """
    template = WarmWorker.get_default_base_job_template()
    async with PrefectClient(environment["PREFECT_API_URL"]) as client:
        for pool in POOLS:
            await _ensure_type(client, pool)
            wanted = WorkPoolCreate(
                name=pool, type=POOL_TYPE, base_job_template=template, concurrency_limit=room(pool, limit)
            )
            await client.create_work_pool(wanted, overwrite=True)
        await create_automations(client)
    await _prefect(["--no-prompt", "deploy", "--all", "--prefect-file", str(_prefect_file())], environment)


async def _ensure_type(client: PrefectClient, name: str) -> None:
    """Return if that pool, should it exist, is of the type that our worker serves: a pool keeps its type for ever."""
    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        return
    if pool.type != POOL_TYPE:
        raise Permanent(
            f"the work pool {name!r} is of the type {pool.type!r}, not {POOL_TYPE!r}",
            hint=f"`prefect work-pool delete {name}`, then start again: it and its deployments are made anew",
        )


def _prefect_file() -> Path:
    """In a checkout it lies beside the packages; a wheel carries it inside ours."""
    checkout = PROJECT / "prefect.yaml"
    return checkout if checkout.exists() else PROJECT / "deployments" / "prefect.yaml"


async def first_look(client: PrefectClient) -> None:
    """Look for jobs everywhere now, instead of at the schedule's first time, up to a minute away."""
    looking = FlowFilter(name=FlowFilterName(any_=["watch", "validator", "coordinator"]))
    now: State[Any] = Scheduled(scheduled_time=await server_now(client))
    for deployment in await client.read_deployments(flow_filter=looking):
        await client.create_flow_run_from_deployment(deployment.id, state=now)


def start_worker(processes: Processes, environment: Mapping[str, str], limit: int, pool: str = "cpu") -> str:
    """Start a worker of that pool: self-test and reconciliation first, then Prefect's worker. Returns its name."""
    command = [sys.executable, "-m", "deployments", "worker", "--pool", pool, "--limit", str(limit)]
    name = "worker" if pool == "cpu" else f"worker-{pool}"
    processes.start(name, command, environment)
    return name


def start_health(processes: Processes, environment: Mapping[str, str]) -> None:
    """Start what answers `/health` and `/metrics` for this machine."""
    processes.start("health", [sys.executable, "-m", "deployments", "health", "--serve"], environment)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


async def _prefect(arguments: list[str], environment: Mapping[str, str]) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "prefect",
        *arguments,
        env=dict(environment),
        cwd=PROJECT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await child.communicate()
    if child.returncode:
        raise Permanent(f"prefect {' '.join(arguments)} failed:\n{output.decode(errors='replace')[-2_000:]}")


def serve_beside(pool: str) -> None:
    """Start what answers `/health` and `/metrics` for a worker that this process becomes: it ends with this process.

    Its standard input is a pipe that nobody writes into; whoever holds the other end is alive.
    """
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    command = [sys.executable, "-m", "deployments", "health", "--serve", "--pool", pool, "--until-stdin-ends"]
    subprocess.Popen(command, stdin=reading, start_new_session=True)
    os.close(reading)
