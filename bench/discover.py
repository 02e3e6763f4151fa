"""What one look for CloudMesh jobs costs on a chain that has seen many.

    python -m bench.discover [--accounts 100000] [--new 10]

A local chain holds `accounts` jobs that ended and `new` ones that are pending. The same look is measured twice: our
discovery, started anew on what it remembered, and the naive way, a listing of all accounts with their content, every
one decoded. Exits with 1 if ours needs more than one listing and one batch read, or if the two disagree.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Finalized
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from bench.report import print_report
from localnet.solana import SolanaLocalnet
from localnet.solana.accounts import StoredAccount
from protocols.solana.job_account import ACCOUNT_BYTES, JobAccount, JobStatus, JobType, encode_job_account, job_address
from protocols.solana.rpc import SolanaRpc
from stages.discover.cloudmesh import CloudMeshDiscovery

T = TypeVar("T")

RENT_LAMPORTS = 3_034_560
_CID = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"


@dataclass(frozen=True)
class Look:
    """What it took to find the pending jobs."""

    way: str
    listings: int
    batch_reads: int
    found: int
    megabytes: float
    seconds: float
    our_cpu_seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure one look for CloudMesh jobs against the naive way.")
    parser.add_argument("--accounts", type=int, default=100_000, help="jobs that ended")
    parser.add_argument("--new", type=int, default=10, help="jobs that are pending")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, SolanaLocalnet() as net:
        return asyncio.run(measure(net, Path(folder), arguments.accounts, arguments.new))


async def measure(net: SolanaLocalnet, folder: Path, ended: int, new: int) -> int:
    seed(net, ended, "ended", JobStatus.completed)
    async with SolanaRpc([net.url]) as rpc:
        first = await look("first ever, then remembered", net, discovery(net, rpc, folder))
        while (more := await look("", net, discovery(net, rpc, folder))).batch_reads:
            first = Look(
                first.way,
                first.listings + more.listings,
                first.batch_reads + more.batch_reads,
                more.found,
                first.megabytes,
                round(first.seconds + more.seconds, 3),
                round(first.our_cpu_seconds + more.our_cpu_seconds, 3),
            )
        seed(net, new, "new", JobStatus.pending)
        ours = await look("ours, after a restart", net, discovery(net, rpc, folder))
    naive = await naive_look(net)
    good = (ours.listings, ours.batch_reads, ours.found, naive.found) == (1, -(-new // 100), new, new)
    print_report(
        f"One look for {new} new jobs among {ended + new:,}",
        [asdict(row) for row in (naive, ours, first)],
        {
            "bench": "discover",
            "accounts": ended + new,
            "new": new,
            "ours": asdict(ours),
            "naive": asdict(naive),
            "first": asdict(first),
            "times_fewer_bytes": round(naive.megabytes / ours.megabytes, 1),
            "ok": good,
        },
    )
    return 0 if good else 1


def discovery(net: SolanaLocalnet, rpc: SolanaRpc, folder: Path) -> CloudMeshDiscovery:
    return CloudMeshDiscovery(rpc, Pubkey.from_string(net.program_id), net.genesis_hash, folder)


async def look(way: str, net: SolanaLocalnet, discovery: CloudMeshDiscovery) -> Look:
    return await timed(way, net, discovery.pending, lambda jobs: len(jobs), _slice_of_nothing())


async def naive_look(net: SolanaLocalnet) -> Look:
    """No filter, all content, at `finalized`, everything decoded: what the public worker does every ten seconds."""

    async def listing() -> list[JobStatus]:
        client = AsyncClient(net.url, timeout=300)
        try:
            listed = await client.get_program_accounts(Pubkey.from_string(net.program_id), Finalized, "base64")
        finally:
            await client.close()
        return [status_of(bytes(line.account.data)) for line in listed.value]

    return await timed("naive", net, listing, lambda found: found.count(JobStatus.pending), {})


async def timed(
    way: str,
    net: SolanaLocalnet,
    ask: Callable[[], Awaitable[T]],
    count: Callable[[T], int],
    listing_config: dict[str, Any],
) -> Look:
    """Do it once; the chain counts the calls. The node is Python in this process, and slow in both ways alike."""
    net.chain.calls.clear()
    started, cpu_started = time.perf_counter(), time.thread_time()
    found = await ask()
    seconds, cpu_seconds = time.perf_counter() - started, time.thread_time() - cpu_started
    listings, batch_reads = net.chain.calls["getProgramAccounts"], net.chain.calls["getMultipleAccounts"]
    megabytes = listing_bytes(net, listing_config) / 1e6
    return Look(way, listings, batch_reads, count(found), round(megabytes, 1), round(seconds, 3), round(cpu_seconds, 3))


def listing_bytes(net: SolanaLocalnet, config: dict[str, Any]) -> int:
    """How large the answer to one listing is."""
    params = [net.program_id, {"encoding": "base64", **config}]
    request = {"jsonrpc": "2.0", "id": 1, "method": "getProgramAccounts", "params": params}
    return len(httpx.post(net.url, json=request, timeout=300).content)


def _slice_of_nothing() -> dict[str, Any]:
    return {"filters": [{"dataSize": ACCOUNT_BYTES}], "dataSlice": {"offset": 0, "length": 0}}


def status_of(content: bytes) -> JobStatus:
    """The fields up to the status, decoded without any of our checks: the naive way must not pay for those."""
    offset, texts = 40, []
    for _ in range(3):
        length = int.from_bytes(content[offset : offset + 4], "little")
        texts.append(content[offset + 4 : offset + 4 + length].decode())
        offset += 4 + length
    return JobStatus(content[offset + 16])


def seed(net: SolanaLocalnet, count: int, prefix: str, status: JobStatus) -> None:
    """Put jobs on the chain, final already."""
    net.chain.seed_accounts(_accounts(net.program_id, count, prefix, status))


def _accounts(program_id: str, count: int, prefix: str, status: JobStatus) -> Iterator[tuple[str, StoredAccount]]:
    owner, program = Keypair().pubkey(), Pubkey.from_string(program_id)
    completed = status is JobStatus.completed
    for number in range(count):
        title = f"{prefix} {number}"
        address, bump = job_address(owner, title, program)
        job = JobAccount(
            address=address,
            owner=owner,
            title=title,
            code_cid=_CID,
            result_cid=_CID if completed else "",
            start_time=number,
            end_time=number + 1 if completed else 0,
            status=status,
            job_type=JobType.manual,
            cost_lamports=1_000_000 if completed else 0,
            cost_paid=False,
            bump=bump,
        )
        yield str(address), StoredAccount(RENT_LAMPORTS, program_id, encode_job_account(job))


if __name__ == "__main__":
    sys.exit(main())
