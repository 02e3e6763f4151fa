"""A whole Millrace: localnet in this process, the Prefect server and the worker as processes of their own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort

from deployments.database import open_database
from deployments.localnet import localnet_settings
from deployments.processes import Processes
from deployments.stack import (
    base_environment,
    deploy,
    free_port,
    prefect_environment,
    start_server,
    start_worker,
)
from flows.lease import living
from localnet.computechain import ComputeChainLocalnet
from localnet.ipfs import IpfsLocalnet
from localnet.near import NearLocalnet
from localnet.solana import SolanaLocalnet
from localnet.solana.client import JobPoster
from millrace.receipt import Receipt
from millrace.receipt_log import ReceiptLog
from protocols.computechain.keystore import Keystore
from protocols.solana.keypair import load_or_create_keypair

WALL_SECONDS = 20
KEY_NAME = "worker"


@dataclass
class Stack:
    """Everything that runs, and the questions that tests ask it."""

    folder: Path
    solana: SolanaLocalnet
    ipfs: IpfsLocalnet
    processes: Processes
    environment: dict[str, str]
    owner: JobPoster
    compute: ComputeChainLocalnet
    near: NearLocalnet
    server_environment: dict[str, str]

    @property
    def receipts(self) -> ReceiptLog:
        return ReceiptLog(self.folder / "receipts")

    def post(self, title: str, program: str) -> str:
        return self.owner.post(title, self.ipfs.add(program.encode()))

    def receipt(self, address: str) -> Receipt | None:
        return self.receipts.find(f"cloudmesh/{self.solana.genesis_hash}/{address}")

    def start_worker(self, pool: str = "cpu") -> None:
        start_worker(self.processes, self.environment, limit=3, pool=pool)

    def client(self) -> PrefectClient:
        return PrefectClient(self.environment["PREFECT_API_URL"])

    async def run(self, deployment: str, **parameters: Any) -> UUID:
        """Start a deployment as an operator does by hand; returns the flow run's id."""
        async with self.client() as client:
            found = await client.read_deployment_by_name(deployment)
            return (await client.create_flow_run_from_deployment(found.id, parameters=parameters)).id

    async def ended(self, run_id: UUID, seconds: float = 150) -> FlowRun:
        """The flow run, once it has ended."""
        return await self._until(lambda run: run.state is not None and run.state.is_final(), run_id, seconds)

    async def running(self, run_id: UUID, seconds: float = 60) -> FlowRun:
        """The flow run, once its flow has begun in a process: from then on the lease says which flow it is."""
        leases = self.folder / "leases"
        return await self._until(
            lambda run: any(lease.flow and lease.flow_run_id == str(run.id) for lease in living(leases)),
            run_id,
            seconds,
        )

    async def _until(self, holds: Callable[[FlowRun], bool], run_id: UUID, seconds: float) -> FlowRun:
        deadline = time.monotonic() + seconds
        async with self.client() as client:
            while True:
                run = await client.read_flow_run(run_id)
                if holds(run):
                    return run
                log = "\n".join(self.processes.log_tail(name, 40) for name in ("worker", "worker-gpu"))
                assert time.monotonic() < deadline, f"{run.name} is {run.state_name} after {seconds} s\n{log}"
                await asyncio.sleep(0.2)

    async def task_states(self, run_id: UUID) -> dict[str, list[str]]:
        """The names of the states that each stage of a flow run ended in, by stage."""
        async with self.client() as client:
            tasks = await client.read_task_runs(limit=200)
        states: dict[str, list[str]] = {}
        for task in sorted(tasks, key=lambda task: task.start_time.timestamp() if task.start_time else 0):
            if task.flow_run_id == run_id:
                states.setdefault(task.name.rpartition("-")[0], []).append(task.state_name or "")
        return states

    async def is_in(self, run_id: UUID, stage: str) -> bool:
        """Whether the flow run is in this stage now."""
        async with self.client() as client:
            tasks = await client.read_task_runs(limit=200)
        return any(
            task.flow_run_id == run_id and task.name.rpartition("-")[0] == stage and task.state_name == "Running"
            for task in tasks
        )

    async def logs_about(self, text: str) -> list[str]:
        """The log lines in the Prefect API that contain `text`."""
        async with self.client() as client:
            logs = await client.read_logs(limit=200, sort=LogSort.TIMESTAMP_DESC)
        return [log.message for log in logs if text in log.message]

    async def start_server(self) -> None:
        """Start the Prefect server, the first time or again, and wait until it answers."""
        port = int(self.environment["PREFECT_API_URL"].rpartition(":")[2].partition("/")[0])
        await start_server(self.processes, self.server_environment, port)

    def kill_server(self) -> None:
        """SIGKILL for the Prefect server; its database lives on."""
        self._kill("prefect-server")

    def kill_worker(self, name: str = "worker") -> None:
        """SIGKILL for the worker and everything below it, at once, as when the machine dies."""
        self._kill(name)

    def _kill(self, name: str) -> None:
        first = self.processes.process(name)
        for process in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # it ends by itself
                process.kill()
        first.wait(10)
        self.processes.stop(name)

    async def read(self, cid: str) -> bytes:
        """Content as anybody gets it from a gateway."""
        async with httpx.AsyncClient() as http:
            return (await http.get(f"{self.ipfs.legacy_gateway_url}/ipfs/{cid}")).raise_for_status().content

    def flow_process(self, run_id: UUID) -> psutil.Process:
        """The process that holds the flow run's lease."""
        lease = self.folder / "leases" / f"{run_id}.lease"
        return psutil.Process(json.loads(lease.read_text())["pid"])


@asynccontextmanager
async def running_stack(
    folder: Path,
    *,
    sqlite: bool = False,
    gpu: bool = False,
    docker: bool = False,
    slot_milliseconds: int = 50,
    near_block_seconds: float = 0.5,
    near_finality_lag: int = 0,
    more: Mapping[str, str] | None = None,
    of_workers: Callable[[Stack], Mapping[str, str]] = lambda _: {},
) -> AsyncIterator[Stack]:
    """Everything started, with an empty database in `folder`; ended with the block.

    The database is what this machine gives `millrace up`, or SQLite in any case. With `gpu`, ComputeChain is served
    too, by a worker of the pool `gpu`; with `docker`, OffchainVM, by one of the pool `docker`. `more` are variables of
    all processes, `of_workers` those of the workers alone.
    """
    port = free_port()
    with (
        SolanaLocalnet(slot_milliseconds=slot_milliseconds) as solana,
        ComputeChainLocalnet(block_seconds=0.5) as compute,
        NearLocalnet(block_seconds=near_block_seconds, finality_lag=near_finality_lag) as near,
        IpfsLocalnet(folder / "ipfs") as ipfs,
        JobPoster(solana.url, solana.program_id) as owner,
        Processes(folder / "logs") as processes,
    ):
        keypair_path = folder / "worker-keypair.json"
        worker, _ = load_or_create_keypair(keypair_path)
        for address in (owner.address, str(worker.pubkey())):
            solana.chain.airdrop(address, 10**9)
        addresses = {
            "solana_rpc_url": solana.url,
            "program_id": solana.program_id,
            "ipfs_gateway_url": ipfs.gateway_url,
            "pinata_url": ipfs.pinata_url,
            "pinata_jwt": ipfs.pinata_jwt,
        }
        if gpu:
            addresses |= {"computechain_rpc_url": compute.url, "computechain_chain_id": compute.chain_id}
            compute.chain.fund(Keystore(folder / "keys").add(KEY_NAME).address, 10**18)
        if docker:
            addresses |= {
                "near_rpc_url": near.url,
                "near_contract_id": near.contract_id,
                "near_account_id": near.operator_id,
                "near_private_key": near.operator.secret_key,
            }
        environment = {
            **base_environment(),
            **prefect_environment(folder, port),
            **localnet_settings(addresses),
            "MILLRACE_LIMITS__WALL_SECONDS": str(WALL_SECONDS),
            "MILLRACE_CLOUDMESH__KEYPAIR_PATH": str(keypair_path),
            "MILLRACE_COMPUTECHAIN__KEYSTORE": str(folder / "keys"),
            "MILLRACE_COMPUTECHAIN__KEY_NAME": KEY_NAME,
            "MILLRACE_COMPUTECHAIN__SIZE": "128",
            "MILLRACE_COMPUTECHAIN__DEVICE": "cpu",
            "MILLRACE_COMPUTECHAIN__EVERY_BLOCKS": "1000",  # none by themselves: tests say which
            "MILLRACE_COMPUTECHAIN__BACKLOG_BLOCKS": "2000",
            "MILLRACE_COMPUTECHAIN__CONFIRMATIONS": "2",
            "POLL_INTERVAL": "1",
            **(more or {}),
        }
        made = Stack(folder, solana, ipfs, processes, environment, owner, compute, near, dict(environment))
        if not sqlite:
            made.server_environment |= (await open_database(processes, folder, durable=False)).environment
        await made.start_server()
        await deploy(environment, limit=4)
        environment |= of_workers(made)
        made.start_worker()
        if gpu:
            made.start_worker("gpu")
        if docker:
            made.start_worker("docker")
        yield made
