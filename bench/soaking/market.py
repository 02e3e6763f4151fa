"""The chains of the soak: jobs of three networks made at a pace, and what the chains themselves say became of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import wasmtime

from deployments.verify import checks_of
from localnet.computechain import ComputeChainLocalnet
from localnet.ipfs import IpfsLocalnet
from localnet.near import CONTRACT, OPERATOR, NearLocalnet
from localnet.solana import SolanaLocalnet
from localnet.solana.client import JobPoster
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from protocols.computechain.block import Block
from protocols.computechain.rpc import ComputeChainRpc
from protocols.computechain.transaction import SUBMIT_RESULT

NETWORKS = ("cloudmesh", "computechain", "offchainvm")

EVERY_BLOCKS = 50
"""A challenge each so many blocks: further apart than blocks come by themselves, so that jobs come when they are to."""

_PROGRAM = "import time\ntime.sleep(0.5)\nprint('the mill has turned {} times')\n"
# So many turns take a while; then it writes what it has read.
_MODULE = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $i i64)
    (loop $l (br_if $l (i64.lt_u (local.tee $i (i64.add (local.get $i) (i64.const 1))) (i64.const 300000000))))
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
_LIMITS = {"max_instructions": 10_000_000_000, "max_memory_mb": 16, "max_execution_seconds": 20}


@dataclass(frozen=True)
class SoakJob:
    """A job on its chain, and what its result must contain; a challenge's is proven instead."""

    network: str
    job_id: str
    key: str
    shows: str = ""


class Market:
    """Makes jobs, and knows of each how often it was answered.

    Arguments: the stand-ins, as they are without anything in front of them; `poster` owns CloudMesh's jobs;
    `compute_address` is the worker's on ComputeChain; `data_dir` the worker's data folder.
    """

    def __init__(
        self,
        solana: SolanaLocalnet,
        compute: ComputeChainLocalnet,
        near: NearLocalnet,
        ipfs: IpfsLocalnet,
        poster: JobPoster,
        compute_address: str,
        data_dir: Path,
    ) -> None:
        self._solana, self._compute, self._near, self._ipfs = solana, compute, near, ipfs
        self._poster = poster
        self._compute_address = compute_address
        self._data_dir = data_dir
        self.receipts = ReceiptLog(data_dir / "receipts")
        self.jobs: list[SoakJob] = []
        module = bytes(wasmtime.wat2wasm(_MODULE))
        url = f"{ipfs.legacy_gateway_url}/ipfs/{ipfs.add(module)}"
        self._source = {"WasmUrl": {"url": url, "hash": hashlib.sha256(module).hexdigest()}}
        self._next_height = 0

    def made(self, network: str) -> int:
        """How many jobs of that network there are."""
        return sum(job.network == network for job in self.jobs)

    def open(self) -> list[SoakJob]:
        """The jobs without a receipt."""
        return [job for job in self.jobs if self.receipts.find(job.key) is None]

    def make(self, network: str) -> None:
        """Make one more job of that network, for its watch to find."""
        makers = {"cloudmesh": self._cloudmesh, "computechain": self._computechain, "offchainvm": self._offchainvm}
        self.jobs += makers[network](self.made(network))

    def _cloudmesh(self, number: int) -> Iterator[SoakJob]:
        job_id = self._poster.post(f"soak {number}", self._ipfs.add(_PROGRAM.format(number).encode()))
        key = f"cloudmesh/{self._solana.genesis_hash}/{job_id}"
        yield SoakJob("cloudmesh", job_id, key, f"the mill has turned {number} times")

    def _computechain(self, number: int) -> Iterator[SoakJob]:
        if not any(self._data_dir.rglob("computechain-*.json")):
            return  # nobody has looked yet: what is older than the first look is nobody's job
        chain, height = self._compute.chain, self._next_height
        chain.thaw()
        chain.make_block(max(0, height - chain.height()))
        self._next_height = height + EVERY_BLOCKS
        block = chain.block(height)
        if block is None:
            raise RuntimeError(f"the chain has no block {height}")
        job_id = f"{height}-{block.header.hash}"
        yield SoakJob("computechain", job_id, f"computechain/{self._compute.chain_id}/{job_id}")

    def _offchainvm(self, number: int) -> Iterator[SoakJob]:
        chain, text = self._near.chain, f"grain of order {number}"
        sent = chain.request({"source": self._source, "resource_limits": _LIMITS, "input_data": text})
        chain.make_block(2)
        for outcome in chain.outcomes_of(sent):
            for line in outcome.logs:
                if "execution_requested" in line:
                    event = json.loads(line.removeprefix("EVENT_JSON:"))["data"][0]
                    job_id = f"{outcome.height}-{json.loads(event['request_data'])['request_id']}"
                    yield SoakJob("offchainvm", job_id, f"offchainvm/localnet:{CONTRACT}/{job_id}", text)

    # ---- what became of them ----

    def answers(self) -> Counter[str]:
        """How many transactions of the worker's landed for each job, by key, as the chains count them."""
        counted: Counter[str] = Counter()
        for job in self.jobs:
            if job.network == "cloudmesh":
                counted[job.key] = len(self._solana.chain.landed(job.job_id)) - 1  # one has posted it
        roots = Counter(self._roots())
        requests = Counter(self._resolved())
        for job in self.jobs:
            if job.network == "computechain":
                receipt = self.receipts.find(job.key)
                counted[job.key] = roots[receipt.solved.root] if receipt and receipt.solved else 0
            elif job.network == "offchainvm":
                counted[job.key] = requests[int(job.job_id.partition("-")[2])]
        return counted

    def surplus(self) -> list[str]:
        """Answers on the chains that belong to no receipt: work that was done twice, under whatever name."""
        known = {entry["receipt"]["transaction_id"] for entry in self.receipts.entries()}
        landed = self._compute.chain.landed(self._compute_address)
        landed += [sent for sent in self._near.chain.sent_by(OPERATOR) if _succeeded(self._near.chain.result_of(sent))]
        return [sent for sent in landed if sent not in known]

    def _roots(self) -> Iterator[str]:
        chain = self._compute.chain
        for height in range(chain.height() + 1):
            block = chain.block(height)
            for sent in block.transactions if block is not None else ():
                if sent.from_address == self._compute_address and sent.tx_type == SUBMIT_RESULT:
                    yield str(sent.payload["result_hash"])

    def _resolved(self) -> Iterator[int]:
        chain = self._near.chain
        for sent in chain.sent_by(OPERATOR):
            found = chain.included(sent)
            if found is not None and _succeeded(chain.result_of(sent)):
                yield int(json.loads(found.signed.transaction.calls[-1].args)["request_id"])

    def faults(self, job: SoakJob, receipt: Receipt) -> Iterator[str]:
        """Everything about a receipt that is not as if nothing had been killed."""
        if receipt.outcome is not JobOutcome.settled:
            yield f"it is {receipt.outcome}"
        if not (
            receipt.transaction_id and receipt.worker and receipt.fee and receipt.evidence_cid + receipt.result_cid
        ):
            yield "its receipt lacks something"
        if receipt.execution is None and receipt.solved is None:
            yield "its receipt does not say what ran"
        content = self._content(receipt.result_cid)
        if job.network == "computechain":
            yield from self._challenge_faults(receipt, content)
        elif job.shows not in content:
            yield f"its result is {content[:60]!r}"
        if job.network == "cloudmesh":
            account = self._poster.job(job.job_id)
            if account is None or account.result_cid != receipt.result_cid:
                yield "the chain has another result"

    def _content(self, cid: str) -> str:
        """As anybody gets it from a gateway."""
        return httpx.get(f"{self._ipfs.legacy_gateway_url}/ipfs/{cid}", timeout=30).raise_for_status().text

    async def _block(self, height: int) -> Block | None:
        async with ComputeChainRpc((self._compute.url,)) as rpc:
            return await rpc.block(height)

    def _challenge_faults(self, receipt: Receipt, bundle: str) -> Iterator[str]:
        block = asyncio.run(self._block(receipt.height or 0))
        if block is None:
            yield f"there is no block {receipt.height}"
            return
        for check in checks_of(receipt, bundle, block):
            if check.verdict != "holds":
                yield f"{check.claim}: {check.verdict}: {check.detail}"


def _succeeded(status: Any) -> bool:
    return isinstance(status, dict) and "SuccessValue" in status
