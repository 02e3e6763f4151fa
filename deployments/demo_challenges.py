"""The challenges of the demo: the first few that the watch begins, and how each must end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from prefect.client.schemas.objects import FlowRun

from deployments.verify import checks_of
from millrace.receipt import Receipt
from protocols.computechain.block import Block
from protocols.computechain.keystore import Keystore
from protocols.computechain.rpc import ComputeChainRpc

HOW_MANY = 3
CHALLENGE_SETTINGS = {
    "MILLRACE_COMPUTECHAIN__KEY_NAME": "worker",
    "MILLRACE_COMPUTECHAIN__SIZE": "256",
    # Blocks come every two seconds, challenges every ten: the machine has other jobs to do meanwhile.
    "MILLRACE_COMPUTECHAIN__EVERY_BLOCKS": "5",
    "MILLRACE_COMPUTECHAIN__CONFIRMATIONS": "2",
}
_WEI = 10**18


@dataclass(frozen=True)
class Challenge:
    """One of the first challenges; without a job id until it is begun."""

    title: str
    job_id: str = ""

    @property
    def told(self) -> str:
        """What the table calls it."""
        return f"block {self.job_id.partition('-')[0]}" if self.job_id else self.title

    def key(self, addresses: dict[str, str]) -> str:
        """The job's key."""
        return f"computechain/{addresses['computechain_chain_id']}/{self.job_id}"


def begun_challenges(runs: Mapping[str, FlowRun]) -> list[Challenge]:
    """The first challenges by height, as far as there are flow runs of them, which `runs` has by job id."""
    begun = sorted(
        (job_id for job_id, run in runs.items() if "job_id" in run.parameters and _height(job_id)), key=_height
    )
    known = [*begun[:HOW_MANY], *[""] * HOW_MANY][:HOW_MANY]
    return [Challenge(f"challenge {number}", job_id) for number, job_id in enumerate(known, 1)]


def _height(job_id: str) -> int:
    height = job_id.partition("-")[0]
    return int(height) if height.isdigit() else 0


def fund_worker(addresses: dict[str, str], keystore: Path) -> None:
    """Make the worker's key and give it wei for fees."""
    key = Keystore(keystore).add(CHALLENGE_SETTINGS["MILLRACE_COMPUTECHAIN__KEY_NAME"])
    action = {"action": "fund", "address": key.address, "wei": _WEI}
    httpx.post(f"{addresses['computechain_rpc_url']}/_localnet", json=action, timeout=10).raise_for_status()


def challenge_faults(
    http: httpx.Client, addresses: dict[str, str], challenge: Challenge, run: FlowRun | None, receipt: Receipt | None
) -> list[str]:
    """Everything about this challenge that is not as it should be; empty if all is well."""
    if run is None or run.state_name != "Settled" or receipt is None or receipt.height is None:
        return [f"no receipt; its flow run is {run.state_name if run else 'missing'}"]
    blocks = asyncio.run(_blocks(addresses["computechain_rpc_url"]))
    bundle = http.get(f"{addresses['ipfs_legacy_gateway_url']}/ipfs/{receipt.result_cid}").raise_for_status().text
    checks = checks_of(receipt, bundle, blocks[receipt.height])
    faults = [f"{check.claim}: {check.verdict}: {check.detail}" for check in checks if check.verdict != "holds"]
    root = receipt.solved.root if receipt.solved is not None else ""
    answers = [result for block in blocks for result in block.compute_results() if result.result_hash == root]
    return faults if len(answers) == 1 else [*faults, f"{len(answers)} answers on the chain instead of 1"]


async def _blocks(url: str) -> list[Block]:
    async with ComputeChainRpc((url,)) as rpc:
        heights = range((await rpc.status()).height + 1)
        return [block for height in heights if (block := await rpc.block(height)) is not None]
