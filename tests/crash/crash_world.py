"""Jobs of all three networks on one stack, and what must be true of each of them when everything has ended."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import psutil
import wasmtime
from acceptance_stack import KEY_NAME, Stack, running_stack
from docker.errors import DockerException
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey

from flows.attempts import attempt_key
from flows.lease import without_holder
from localnet.git import GitLocalnet
from localnet.near import CONTRACT, OPERATOR
from localnet.solana.client import JobPoster
from millrace.receipt import JobOutcome, Receipt
from protocols.computechain.keystore import Keystore
from protocols.computechain.transaction import SUBMIT_RESULT
from stages.execute.sandbox.containers.options import OWNER
from stages.submit.outbox import Outbox

HERE = Path(__file__).parent
DEPLOYMENTS = {
    "cloudmesh-job/cpu": "killed_flows.cloudmesh_job",
    "computechain-job/gpu": "killed_flows.computechain_job",
    "offchainvm-job/docker": "killed_flows.offchainvm_job",
}
ATTEMPTS = 3
"""As many as a job gets by default (`MILLRACE_MAX_ATTEMPTS`)."""

LIMITS = {"max_instructions": 10_000_000_000, "max_memory_mb": 16, "max_execution_seconds": 10}
PROGRAM = "import time\ntime.sleep(0.6)\nprint('done {}')\n"
# So many turns take a while, and then it writes.
MODULE = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 16) "done")
  (func (export "_start") (local $i i64)
    (loop $l (br_if $l (i64.lt_u (local.tee $i (i64.add (local.get $i) (i64.const 1))) (i64.const 600000000))))
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 4))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
MANIFEST = '[package]\nname = "tool"\nversion = "0.1.0"\nedition = "2021"\n'
SOURCE = 'fn main() {{ println!("built {number}"); }}\n'
BUILDER_IMAGE = os.environ.get("TEST_BUILDER_IMAGE", "")


@dataclass(frozen=True)
class CrashJob:
    """A job on its chain, and where its process is to be killed; empty for one that is left alone."""

    kind: str
    """A network, or `compiled`: a request of OffchainVM's whose repository is to be compiled."""
    job_id: str
    key: str
    point: str = ""

    @property
    def network(self) -> str:
        return "offchainvm" if self.kind == "compiled" else self.kind


class World:
    """The stack, and the jobs that were made on its chains."""

    def __init__(self, stack: Stack, orders: Path, git: GitLocalnet | None = None) -> None:
        self.stack = stack
        self.git = git
        self.orders = orders
        self.jobs: list[CrashJob] = []
        self._module = bytes(wasmtime.wat2wasm(MODULE))

    async def make(self, kind: str, points: list[str]) -> list[CrashJob]:
        """A job of that kind for each point, none begun."""
        makers = {
            "cloudmesh": self._cloudmesh,
            "computechain": self._computechain,
            "offchainvm": self._offchainvm,
            "compiled": self._compiled,
        }
        made = await asyncio.to_thread(makers[kind], len(points))
        found = [CrashJob(kind, job_id, key, point) for (job_id, key), point in zip(made, points, strict=True)]
        self.jobs += found
        return found

    def _cloudmesh(self, count: int) -> list[tuple[str, str]]:
        stack = self.stack
        with JobPoster(stack.solana.url, stack.solana.program_id) as owner:
            owner.fund()
            first = len(self.jobs)  # no two programs are the same: what was fetched once is not fetched again
            ids = [
                owner.post(f"job {number}", stack.ipfs.add(PROGRAM.format(number).encode()))
                for number in range(first, first + count)
            ]
        return [(job_id, f"cloudmesh/{stack.solana.genesis_hash}/{job_id}") for job_id in ids]

    def _computechain(self, count: int) -> list[tuple[str, str]]:
        chain = self.stack.compute.chain
        chain.make_block(count)
        height = chain.height()
        blocks = [chain.block(each) for each in range(height - count + 1, height + 1)]
        ids = [f"{block.header.height}-{block.header.hash}" for block in blocks if block is not None]
        return [(job_id, f"computechain/{self.stack.compute.chain_id}/{job_id}") for job_id in ids]

    def _offchainvm(self, count: int) -> list[tuple[str, str]]:
        ipfs = self.stack.ipfs
        url = f"{ipfs.legacy_gateway_url}/ipfs/{ipfs.add(self._module)}"
        source = {"WasmUrl": {"url": url, "hash": hashlib.sha256(self._module).hexdigest()}}
        return self._request([source] * count)

    def _compiled(self, count: int) -> list[tuple[str, str]]:
        """Each has a commit of its own: what one has built would be built for all."""
        assert self.git is not None, "this world has no Git host"
        repository, sources = self.git.repository("alice/tool"), []
        for number in range(count):
            text = SOURCE.format(number=number)
            commit = repository.commit({"Cargo.toml": MANIFEST.encode(), "src/main.rs": text.encode()})
            url = self.git.url_of(repository)
            sources.append({"GitHub": {"repo": url, "commit": commit, "build_target": "wasm32-wasip1"}})
        return self._request(sources)

    def _request(self, sources: list[dict[str, Any]]) -> list[tuple[str, str]]:
        chain = self.stack.near.chain
        sent = [chain.request({"source": source, "resource_limits": LIMITS}) for source in sources]
        chain.make_block(2)
        ids = []
        for each in sent:
            for outcome in chain.outcomes_of(each):
                for line in outcome.logs:
                    if "execution_requested" in line:
                        entry = json.loads(line.removeprefix("EVENT_JSON:"))["data"][0]
                        ids.append(f"{outcome.height}-{json.loads(entry['request_data'])['request_id']}")
        return [(job_id, f"offchainvm/localnet:{CONTRACT}/{job_id}") for job_id in ids]

    async def begin(self, jobs: list[CrashJob], attempt: int = 1) -> None:
        """Start the flow run of each, as its watch would, with the idempotency key of that attempt."""
        deployments = {name.partition("-job/")[0]: name for name in DEPLOYMENTS}
        async with self.stack.client() as client:
            for job in jobs:
                found = await client.read_deployment_by_name(deployments[job.network])
                parameter = "job_address" if job.network == "cloudmesh" else "job_id"
                await client.create_flow_run_from_deployment(
                    found.id,
                    parameters={parameter: job.job_id},
                    idempotency_key=attempt_key(job.key, attempt),
                    tags=["millrace"],
                )

    async def _begin_anew(self, jobs: list[CrashJob]) -> None:
        """Start the next attempt at jobs of ComputeChain that failed: its watch, which would, looks for none here."""
        for job in jobs:
            if job.network != "computechain":
                continue
            keys = [attempt_key(job.key, n) for n in range(1, ATTEMPTS + 1)]
            wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys))
            async with self.stack.client() as client:
                runs = await client.read_flow_runs(flow_run_filter=wanted)
            if len(runs) < len(keys) and all(run.state_name == "Failed" for run in runs):
                await self.begin([job], len(runs) + 1)

    async def until_one_settled(self, jobs: list[CrashJob]) -> None:
        """Return once the first of them is settled: others are then in every stage."""
        deadline = time.monotonic() + 90
        while not any(self.stack.receipts.find(job.key) for job in jobs):
            assert time.monotonic() < deadline, f"nothing was ever settled\n{self._tails()}"
            await asyncio.sleep(0.2)

    async def until_settled(self, jobs: list[CrashJob], seconds: float) -> dict[str, Receipt]:
        """Their receipts, once all are there; meanwhile what was killed is reconciled, as it is every minute."""
        deadline = time.monotonic() + seconds
        while True:
            receipts = {job.key: found for job in jobs if (found := self.stack.receipts.find(job.key)) is not None}
            if len(receipts) == len(jobs):
                return receipts
            missing = [f"{job.key} ({job.point})" for job in jobs if job.key not in receipts]
            assert time.monotonic() < deadline, f"never settled: {missing}\n{self._tails()}"
            await self._begin_anew([job for job in jobs if job.key not in receipts])
            run_id = await self.stack.run("reconcile/reconcile")
            with_patience = asyncio.ensure_future(self.stack.ended(run_id, 60))
            await asyncio.wait([with_patience], timeout=20)
            with_patience.cancel()
            await asyncio.sleep(1)

    def _tails(self) -> str:
        names = ("worker", "worker-gpu", "worker-docker")
        return "\n".join(f"--- {name}\n{self.stack.processes.log_tail(name, 30)}" for name in names)

    def faults(self, jobs: list[CrashJob], receipts: dict[str, Receipt]) -> list[str]:
        """Everything that is not as if nothing had been killed."""
        outbox = Outbox(self.stack.folder / "outbox")
        found = [f"in the outbox: {each.job_key}" for each in outbox.unsettled()]
        for job in jobs:
            receipt, landed = receipts[job.key], self._landed(job, receipts[job.key])
            if landed != 1:
                found.append(f"{job.key} ({job.point}): {landed} landed transactions")
            if receipt.outcome is not JobOutcome.settled:
                found.append(f"{job.key} ({job.point}): {receipt.outcome}")
            if not (receipt.result_cid and receipt.transaction_id and receipt.worker and receipt.fee):
                found.append(f"{job.key} ({job.point}): its receipt lacks something")
            if receipt.execution is None and receipt.solved is None:
                found.append(f"{job.key} ({job.point}): its receipt does not say what ran")
        count, _ = self.stack.receipts.verify()
        keys = [entry["receipt"]["job_key"] for entry in self.stack.receipts.entries()]
        if len(keys) != len(set(keys)):
            found.append(f"{count} receipts for {len(set(keys))} jobs")
        return found

    def _landed(self, job: CrashJob, receipt: Receipt) -> int:
        """How many successful transactions of ours answered this job, by the chain's own count."""
        stack = self.stack
        if job.network == "cloudmesh":
            return len(stack.solana.chain.landed(job.job_id)) - 1  # one has posted it
        if job.network == "computechain":
            return self._compute_answers().count(receipt.solved.root if receipt.solved else "")
        request_id = int(job.job_id.partition("-")[2])
        return self._near_answers().count(request_id)

    def _compute_answers(self) -> list[str]:
        chain = self.stack.compute.chain
        blocks = [chain.block(height) for height in range(chain.height() + 1)]
        ours = Keystore(self.stack.folder / "keys").load(KEY_NAME).address
        return [
            str(sent.payload["result_hash"])
            for block in blocks
            if block is not None
            for sent in block.transactions
            if sent.from_address == ours and sent.tx_type == SUBMIT_RESULT
        ]

    def _near_answers(self) -> list[int]:
        chain = self.stack.near.chain
        answers = []
        for sent in chain.sent_by(OPERATOR):
            included = chain.included(sent)
            status = chain.result_of(sent)
            if included is not None and isinstance(status, dict) and "SuccessValue" in status:
                answers.append(int(json.loads(included.signed.transaction.calls[-1].args)["request_id"]))
        return answers

    def orphans(self) -> list[str]:
        """Processes that no worker has any more, leases of dead ones, and files that nobody finished."""
        workers = {self.stack.processes.process(name) for name in ("worker", "worker-gpu", "worker-docker")}
        family = {child for worker in workers for child in worker.children(recursive=True)} | workers
        found = []
        for process in psutil.process_iter(["cmdline"]):
            try:
                ours = str(self.stack.folder) in process.environ().get("MILLRACE_DATA_DIR", "")
            except (psutil.Error, OSError):
                continue
            if ours and process not in family and process.name() not in ("postgres",):
                line = " ".join(process.cmdline())
                if "deployments" in line or "forkserver" in line or "millrace" in line:
                    found.append(f"process {process.pid}: {line[:120]}")
        found = [each for each in found if "prefect server" not in each]
        found += [f"lease of a dead process: {name}" for name in without_holder(self.stack.folder / "leases")]
        unfinished = [self.stack.folder.rglob(pattern) for pattern in ("*.tmp", "*.partial", ".writing-*")]
        found += [f"temporary file: {path}" for paths in unfinished for path in paths]
        return found + _containers()


def _containers() -> list[str]:
    """Every container of ours, whoever started it; none where there is no daemon."""
    try:
        client = docker.from_env()
    except DockerException:
        return []
    try:
        return [f"container {each.name}" for each in client.containers.list(all=True, filters={"label": OWNER})]
    finally:
        client.close()


@asynccontextmanager
async def crash_world(folder: Path) -> AsyncIterator[World]:
    """A stack whose job deployments run the flows that kill themselves on order."""
    orders = folder / "orders"
    orders.mkdir()
    more = {
        "CRASH_FOLDER": str(orders),
        "PYTHONPATH": str(HERE),
        "MILLRACE_COMPILE__ALLOW_PRIVATE_HOSTS": "true",
        "MILLRACE_COMPILE__HOSTS": "127.0.0.1",
        "MILLRACE_COMPILE__IMAGE": BUILDER_IMAGE,
        "MILLRACE_MAX_IN_FLIGHT": "100",
    }
    # A request lives for 200 blocks: long enough for a slow machine to be killed and come back several times.
    async with running_stack(folder, gpu=True, docker=True, near_block_seconds=2.0, more=more) as stack:
        async with stack.client() as client:
            for name, entrypoint in DEPLOYMENTS.items():
                found = await client.read_deployment_by_name(name)
                await client.update_deployment(found.id, DeploymentUpdate(entrypoint=entrypoint))
        with GitLocalnet(folder / "git") as git:
            yield World(stack, orders, git)
