"""Hundreds of jobs on three networks while a kill comes every few seconds: none may be lost, doubled or wrong.

A whole Millrace on this machine: the Prefect server, a worker for each pool, the watches that find the jobs, and a
stand-in for each chain. By SIGKILL, drawn from `--seed`: flow runs of all kinds, workers alone or with all below them,
the Prefect server, and the nodes, whose chains then forget what waited for a block. What is killed comes back after
seconds, as a supervisor would start it; nobody else does anything about it.

lost: jobs without a receipt, or without an answer on their chain. doubled: answers on a chain beyond one a job, and
second receipts. wrong: receipts that are not what they would be, or that do not verify. orphans: processes, held locks
and temporary files that are left when the workers were told to stop, and flow runs that have not ended. Bar: none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter

from bench.report import print_report
from bench.soaking.leftovers import leftovers
from bench.soaking.machine import SERVER, Machine
from bench.soaking.market import EVERY_BLOCKS, NETWORKS, Market
from bench.soaking.reaper import Reaper
from deployments.database import open_database
from deployments.localnet import localnet_settings
from deployments.processes import Processes
from deployments.stack import base_environment, deploy, first_look, free_port, prefect_environment, start_server
from deployments.temporary import sweep_temporary
from flows.draining import unfinished
from flows.lease import without_holder
from flows.networks import networks
from localnet.computechain import ComputeChainLocalnet
from localnet.ipfs import IpfsLocalnet
from localnet.near import NearLocalnet
from localnet.solana import SolanaLocalnet
from localnet.solana.client import JobPoster
from millrace.errors import MillraceError
from millrace.settings import ENV_FILE_NAME, Settings
from protocols.computechain.keystore import Keystore
from protocols.solana.keypair import load_or_create_keypair
from stages.drain import DrainMark

_AHEAD = 12
"""So many jobs of a network wait at most: a request on NEAR lives for 200 blocks."""

_KEY_NAME = "worker"
_QUIET_SECONDS = 150.0
"""After the last receipt: what was killed between its receipt and its end is put back within a minute."""

_JOB_FLOWS = FlowFilter(
    name=FlowFilterName(any_=[served.deployment.partition("/")[0] for served in networks().values()])
)
_NOT_WELL = FlowRunFilter.model_validate(
    {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "CRASHED", "FAILED"]}}}
)


@dataclass
class Verdict:
    """What was found, each in words that name the job."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    def every(self) -> list[str]:
        """All of it."""
        return [*self.lost, *self.doubled, *self.wrong, *self.orphans]


def main() -> int:
    """Soak; 0 if nothing was lost, doubled, wrong or left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300, help="jobs, a third on each network")
    parser.add_argument("--seconds-between-kills", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1, help="of the kills")
    parser.add_argument("--deadline-seconds", type=float, default=3_600.0, help="what has not ended by then is lost")
    parser.add_argument("--folder", type=Path, help="the data folder, which is kept; a new one that is not if left out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="millrace-soak-", ignore_cleanup_errors=True) as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        return asyncio.run(
            soak(folder, options.jobs, options.seconds_between_kills, options.seed, options.deadline_seconds)
        )


async def soak(folder: Path, jobs: int, between_kills: float, seed: int, deadline_seconds: float) -> int:
    """Run it and print the report; the exit code."""
    began, task = time.monotonic(), asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel if task else lambda: None)
    wanted = {name: len(range(number, jobs, len(NETWORKS))) for number, name in enumerate(NETWORKS)}
    verdict = Verdict()
    async with _everything(folder, seed) as (machine, market, reaper, client):
        await _under_fire(machine, market, reaper, wanted, between_kills, began + deadline_seconds)
        seconds = time.monotonic() - began
        verdict.orphans += await _come_to_rest(machine, client)
        await asyncio.to_thread(judge, market, wanted, verdict)
        for name in machine.workers:
            await asyncio.to_thread(machine.processes.stop, name, 60.0)
        sweep_temporary(folder)  # as the next worker does when it starts
        verdict.orphans += leftovers(folder, _standing(machine))
        rows = [_row(market, name, wanted[name], verdict) for name in NETWORKS]
    for found in verdict.every():
        print(found)
    summary = {
        "jobs": jobs,
        "kills": reaper.kills.total(),
        "lost": len(verdict.lost),
        "doubled": len(verdict.doubled),
        "wrong": len(verdict.wrong),
        "orphans": len(verdict.orphans),
        "seed": seed,
        "seconds": round(seconds),
        "seconds_between_kills": between_kills,
        "killed": dict(sorted(reaper.kills.items())),
        "ended_by_themselves": dict(+machine.ended_by_themselves),
    }
    title = f"{jobs} jobs, {reaper.kills.total()} kills: " + ", ".join(
        f"{times} of a {kind}" for kind, times in reaper.kills.items()
    )
    print_report(title, rows, summary)
    return int(bool(verdict.every()))


def _row(market: Market, network: str, wanted: int, verdict: Verdict) -> dict[str, object]:
    settled = sum(job.network == network and market.receipts.find(job.key) is not None for job in market.jobs)
    found = {"lost": verdict.lost, "doubled": verdict.doubled, "wrong": verdict.wrong}
    counts = {name: sum(line.startswith(network) for line in lines) for name, lines in found.items()}
    return {"network": network, "jobs": wanted, "receipts": settled, **counts}


async def _under_fire(
    machine: Machine, market: Market, reaper: Reaper, wanted: dict[str, int], between_kills: float, deadline: float
) -> None:
    """Make the jobs and kill until all have a receipt, or the deadline passes."""
    next_kill = float("inf")
    while time.monotonic() < deadline:
        machine.tend()
        still = market.open()
        finished = len(market.jobs) - len(still)
        for network in NETWORKS:
            if market.made(network) < wanted[network] and sum(job.network == network for job in still) < _AHEAD:
                await asyncio.to_thread(market.make, network)
        if finished == sum(wanted.values()):
            return
        if next_kill == float("inf") and machine.flow_processes():
            next_kill = time.monotonic() + between_kills  # from now on: everything has begun to turn
        if time.monotonic() >= next_kill:
            next_kill += between_kills
            if struck := reaper.strike():
                print(f"{finished:4} of {sum(wanted.values())} done; killed: {struck}", file=sys.stderr, flush=True)
        await asyncio.sleep(0.1)


async def _come_to_rest(machine: Machine, client: PrefectClient) -> list[str]:
    """Let everything end that was begun, without further kills; what has not ended in time, in words."""
    deadline = time.monotonic() + _QUIET_SECONDS
    while True:
        machine.tend()
        left = await _unended(client)
        if not left and not DrainMark(machine.data_dir).is_set():
            DrainMark(machine.data_dir).set()  # as an operator does who is about to stop his workers
        left += unfinished(Settings(_env_file=None, data_dir=machine.data_dir))
        left += [f"lease of a dead process: {name}" for name in without_holder(machine.data_dir / "leases")]
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(1)


async def _unended(client: PrefectClient) -> list[str]:
    """The flow runs of jobs that are not at their end, or at a bad one."""
    try:
        runs = await client.read_flow_runs(flow_filter=_JOB_FLOWS, flow_run_filter=_NOT_WELL)
    except (httpx.HTTPError, OSError):
        return ["the Prefect server does not answer"]
    return [f"flow run {run.name}: {run.state_name}" for run in runs]


def judge(market: Market, wanted: dict[str, int], verdict: Verdict) -> None:
    """Compare receipts, results and the chains' own counts."""
    for network in NETWORKS:
        verdict.lost += [f"{network}: a job that was never made"] * (wanted[network] - market.made(network))
    answers = market.answers()
    for job in market.jobs:
        receipt = market.receipts.find(job.key)
        if receipt is None or not answers[job.key]:
            verdict.lost.append(f"{job.key}: {'no receipt' if receipt is None else 'no answer on its chain'}")
            continue
        if answers[job.key] > 1:
            verdict.doubled.append(f"{job.key}: {answers[job.key]} answers on its chain")
        if faults := list(market.faults(job, receipt)):
            verdict.wrong.append(f"{job.key}: {'; '.join(faults)}")
    verdict.doubled += [f"transaction {sent} landed and is in no receipt" for sent in market.surplus()]
    try:
        keys = [entry["receipt"]["job_key"] for entry in market.receipts.entries()]
    except MillraceError as error:
        verdict.wrong.append(f"the receipt log does not verify: {error}")
        return
    verdict.doubled += [f"{key}: {times} receipts" for key, times in Counter(keys).items() if times > 1]


def _standing(machine: Machine) -> set[int]:
    """The processes that are there on purpose when the workers have ended: server, database, fronts, and this one."""
    found = {os.getpid()}
    for name in (SERVER, "postgres", *machine.fronts):
        with contextlib.suppress(KeyError, psutil.NoSuchProcess):
            process = machine.processes.process(name)
            found |= {process.pid, *(child.pid for child in process.children(recursive=True))}
    return found


@asynccontextmanager
async def _everything(folder: Path, seed: int) -> AsyncIterator[tuple[Machine, Market, Reaper, PrefectClient]]:
    """Chains, server and workers, with the watches at work; ended with the block."""
    port = free_port()
    with (
        SolanaLocalnet(slot_milliseconds=100) as solana,
        ComputeChainLocalnet(block_seconds=1.0) as compute,
        NearLocalnet(block_seconds=2.0) as near,
        IpfsLocalnet(folder / "ipfs") as ipfs,
        JobPoster(solana.url, solana.program_id) as poster,
        Processes(folder / "logs") as processes,
    ):
        fronts = {
            name: (free_port(), int(url.rpartition(":")[2]))
            for name, url in (("cloudmesh", solana.url), ("computechain", compute.url), ("offchainvm", near.url))
        }
        at = {name: f"http://127.0.0.1:{before}" for name, (before, _) in fronts.items()}
        keypair_path = folder / "worker-keypair.json"
        worker, _ = load_or_create_keypair(keypair_path)
        for address in (poster.address, str(worker.pubkey())):
            solana.chain.airdrop(address, 10**11)
        key = Keystore(folder / "keys").add(_KEY_NAME)
        compute.chain.fund(key.address, 10**20)
        addresses = {
            "solana_rpc_url": at["cloudmesh"],
            "program_id": solana.program_id,
            "computechain_rpc_url": at["computechain"],
            "computechain_chain_id": compute.chain_id,
            "near_rpc_url": at["offchainvm"],
            "near_contract_id": near.contract_id,
            "near_account_id": near.operator_id,
            "near_private_key": near.operator.secret_key,
            "ipfs_gateway_url": ipfs.gateway_url,
            "pinata_url": ipfs.pinata_url,
            "pinata_jwt": ipfs.pinata_jwt,
        }
        environment = {
            **base_environment(),
            **prefect_environment(folder, port),
            **localnet_settings(addresses),
            ENV_FILE_NAME: str(folder / "none.env"),
            "MILLRACE_CLOUDMESH__KEYPAIR_PATH": str(keypair_path),
            "MILLRACE_COMPUTECHAIN__KEYSTORE": str(folder / "keys"),
            "MILLRACE_COMPUTECHAIN__KEY_NAME": _KEY_NAME,
            "MILLRACE_COMPUTECHAIN__SIZE": "128",
            "MILLRACE_COMPUTECHAIN__DEVICE": "cpu",
            "MILLRACE_COMPUTECHAIN__EVERY_BLOCKS": str(EVERY_BLOCKS),
            "MILLRACE_COMPUTECHAIN__BACKLOG_BLOCKS": str(EVERY_BLOCKS * 2 * _AHEAD),
            "MILLRACE_COMPUTECHAIN__CONFIRMATIONS": "2",
            "MILLRACE_NEAR__START_BLOCK": "1000",
            "MILLRACE_ATTEMPT_COOLDOWN_SECONDS": "5",
            "POLL_INTERVAL": "1",
        }
        server_environment = {
            **environment,
            **(await open_database(processes, folder, durable=False)).environment,
        }
        machine = Machine(processes, folder, environment, server_environment, fronts)
        market = Market(solana, compute, near, ipfs, poster, key.address, folder)
        lose_pool = {"computechain": compute.chain.restart, "offchainvm": near.chain.restart}
        compute.chain.freeze()  # the first look is to see its first block, which is a job
        for name in fronts:
            machine.start(name)
        await start_server(processes, server_environment, port)
        await deploy(environment, limit=4)
        async with PrefectClient(environment["PREFECT_API_URL"]) as client:
            await first_look(client)
            for name in machine.workers:
                machine.start(name)
            yield machine, market, Reaper(machine, seed, lose_pool), client


if __name__ == "__main__":
    sys.exit(main())
