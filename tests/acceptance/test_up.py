"""`millrace up` as an operator runs it: it says how it does, and lets what runs end."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect.client.orchestration import PrefectClient

from deployments.processes import Processes
from deployments.stack import base_environment, free_port
from flows.lease import Holder, holder_of
from localnet.ipfs import IpfsLocalnet
from stages.execute.sandbox import missing_tools

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(missing_tools()), reason="needs bubblewrap, libseccomp and python3; install them"),
]

PROGRAM = b"import time\ntime.sleep(12)\nprint('whole')\n"


async def test_up_tells_how_it_does_and_lets_a_running_program_end(tmp_path: Path) -> None:
    """Ten seconds after Ctrl-C a program of twelve was cut off, and run again from its start at the next."""
    port, health_port = free_port(), free_port()
    with IpfsLocalnet(tmp_path / "ipfs") as ipfs, Processes(tmp_path / "outer") as processes:
        environment = {
            **base_environment(),
            "MILLRACE_DATA_DIR": str(tmp_path / "data"),
            "MILLRACE_HEALTH__PORT": str(health_port),
            "MILLRACE_IPFS__GATEWAYS": ipfs.gateway_url,
            "MILLRACE_IPFS__ALLOW_PRIVATE_GATEWAYS": "true",
        }
        command = [sys.executable, "-m", "deployments", "up", "--port", str(port), "--limit", "2"]
        up = processes.start("up", command, environment)
        health = await well(health_port, processes)
        assert [worker["pool"] for worker in health["workers"]] == ["cpu"]
        assert [check["level"] for check in health["workers"][0]["checks"]] == ["ok"]
        assert listening(up.pid) <= {"127.0.0.1", "::1"}

        cid = ipfs.add(PROGRAM)
        async with PrefectClient(f"http://127.0.0.1:{port}/api") as client:
            deployment = await client.read_deployment_by_name("execute/python")
            run = await client.create_flow_run_from_deployment(deployment.id, parameters={"code_cid": cid})
            await until_it_executes(client, run.id, tmp_path / "data")
        up.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(up.wait, 90) == 0
        log = (tmp_path / "data" / "logs" / "worker.log").read_text()
        assert f"Flow run '{cid}' - Finished in state Completed" in log
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.TransportError):
                await http.get(f"http://127.0.0.1:{health_port}/health", timeout=2)


async def until_it_executes(client: PrefectClient, run_id: Any, data_dir: Path) -> None:
    deadline = time.monotonic() + 60
    while holder_of(data_dir / "leases", str(run_id)) is not Holder.alive or not any(
        task.flow_run_id == run_id and task.name.startswith("execute") and task.state_name == "Running"
        for task in await client.read_task_runs(limit=200)
    ):
        assert time.monotonic() < deadline, "it does not execute"
        await asyncio.sleep(0.2)


def listening(pid: int) -> set[str]:
    """The addresses on which that process and everything below it listens."""
    return {
        str(connection.laddr.ip)
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


async def well(port: int, processes: Processes) -> dict[str, Any]:
    """What `/health` says, once it says that all is well."""
    deadline = time.monotonic() + 120
    async with httpx.AsyncClient(timeout=10) as http:
        while True:
            processes.check()
            try:
                answer = await http.get(f"http://127.0.0.1:{port}/health")
                if answer.status_code == 200:
                    found: dict[str, Any] = answer.json()
                    return found
                told = answer.text
            except httpx.TransportError as error:
                told = str(error)
            assert time.monotonic() < deadline, f"{told}\n{processes.log_tail('up')}"
            await asyncio.sleep(0.5)
