"""The crash world's stack, whose outside parties and machine misbehave while jobs of all networks are in flight."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from acceptance_stack import KEY_NAME, Stack, running_stack
from crash_world import CrashJob, World
from faulty_machine import FaultyMachine

from localnet.ipfs.faults import Faults
from millrace.network import Fate
from millrace.receipt import Receipt
from protocols.computechain.keystore import Keystore
from stages.submit.outbox import Entry, Outbox

NETWORKS = ("cloudmesh", "computechain", "offchainvm")
SEND = {"cloudmesh": "sendTransaction", "computechain": "send", "offchainvm": "send_tx"}
"""What a transaction is handed to a node with."""


@dataclass(frozen=True)
class Bad:
    """A fault that one call is to meet; `more` are the parameters of the stand-in's `fail`."""

    kind: str
    method: str = "*"
    more: Mapping[str, Any] = field(default_factory=dict)


class FaultWorld(World):
    """The stack with its jobs, and the means to make everything around it misbehave."""

    def __init__(self, stack: Stack, machine: FaultyMachine) -> None:
        super().__init__(stack, stack.folder)
        self.machine = machine
        self.outbox = Outbox(stack.folder / "outbox")
        self.chains: dict[str, Any] = {
            "cloudmesh": stack.solana.chain,
            "computechain": stack.compute.chain,
            "offchainvm": stack.near.chain,
        }

    async def in_flight(self, count: int, networks: tuple[str, ...] = NETWORKS) -> list[CrashJob]:
        """So many new jobs of each network, whose flow runs have been created."""
        jobs = [job for name in networks for job in await self.make(name, [""] * count)]
        await self.begin(jobs)
        return jobs

    def served(self, network: str) -> Counter[str]:
        """What this network's node did wrong so far, as it counts it."""
        return Counter(self.chains[network].faults.served)

    async def settled_well(self, jobs: list[CrashJob], seconds: float = 240) -> dict[str, Receipt]:
        """Their receipts, once each is settled once and nothing is left open."""
        receipts = await self.until_settled(jobs, seconds)
        assert self.faults(jobs, receipts) == []
        return receipts

    async def server_away(self, seconds: float) -> int:
        """SIGKILL for the Prefect server, which comes back so much later; how many calls the nodes got meanwhile."""
        self.stack.kill_server()
        before, since = self._calls(), time.monotonic()
        async with httpx.AsyncClient() as http:
            while time.monotonic() - since < seconds:
                try:
                    await http.get(f"{self.stack.environment['PREFECT_API_URL']}/health")
                except httpx.TransportError:
                    await asyncio.sleep(0.5)
                else:
                    raise AssertionError("there is a Prefect server")
        calls = self._calls() - before
        await self.stack.start_server()
        return calls

    def _calls(self) -> int:
        return sum(chain.calls.total() for chain in self.chains.values())

    # ---- faults of nodes and gateways ----

    async def storm(self, plans: Mapping[str, Sequence[Bad]], seed: int = 1) -> None:
        """Let every planned fault be met: those of sending by whoever sends first, the others one by one."""
        drawn, waiting = random.Random(seed), {}
        for name, plan in plans.items():
            for bad in plan:
                if bad.method != "*":
                    self._commit(name, bad)
            others = [bad for bad in plan if bad.method == "*"]
            waiting[name] = (deque(drawn.sample(others, len(others))), self.chains[name].faults.waiting())
        deadline = time.monotonic() + 300
        while left := [name for name, (plan, _) in waiting.items() if plan or self.chains[name].faults.waiting()]:
            told = {name: self.chains[name].faults.waiting() for name in left}
            assert time.monotonic() < deadline, f"never met: {told}\n{self._tails()}"
            for name in left:
                plan, of_sending = waiting[name]
                if plan and self.chains[name].faults.waiting() <= of_sending:
                    self._commit(name, plan.popleft())
            await asyncio.sleep(0.3)

    def _commit(self, network: str, bad: Bad) -> None:
        self.chains[network].fail(bad.method, kind=bad.kind, **bad.more)

    async def misbehave(self, service: str, plan: list[Faults]) -> None:
        """Let the IPFS stand-in misbehave in each way once, one after the other; returns when each was met.

        No answer between them is good: a few jobs would otherwise have what they want before the last.
        """
        self.stack.ipfs.misbehave(service, *(faults.model_copy(update={"times": 1}) for faults in plan))
        state = self.stack.ipfs.services[service]
        await self.until(lambda: state.faults.times == 0, f"all that was to go wrong at {service}: {plan}")

    async def until(self, holds: Callable[[], bool], what: str, seconds: float = 180) -> None:
        """Return once it holds; AssertionError, with what the workers said, if it never does."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"never: {what}\n{self._tails()}"
            await asyncio.sleep(0.02)

    def calm(self) -> None:
        """Let everything behave again."""
        self.machine.step_clock(0)
        self.machine.fill_disk(False)
        for service in self.stack.ipfs.services:
            self.stack.ipfs.misbehave(service)
        for chain in self.chains.values():
            chain.clear_faults()
            chain.thaw()

    # ---- what became of signatures ----

    def signatures(self, job: CrashJob) -> tuple[Entry, ...]:
        """All that was signed for the job, oldest first."""
        return self.outbox.history(job.key)

    def signed_once_but_for_what_expired(self, jobs: list[CrashJob]) -> None:
        """AssertionError if a job has a second signature that it did not need.

        A blockhash lives for seconds here, so that one may expire while nothing is sent; the others' signatures do not.
        """
        for job in jobs:
            fates = [entry.fate for entry in self.signatures(job)]
            assert fates[-1] is Fate.landed, f"{job.key}: {fates}"
            assert not fates[:-1] or job.network == "cloudmesh", f"{job.key}: {fates}"
            assert set(fates[:-1]) <= {Fate.expired}, f"{job.key}: {fates}"

    async def until_signed(self, jobs: list[CrashJob], generation: int = 0) -> None:
        """Return once each has a signature of that generation."""
        await self.until(
            lambda: all(len(self.signatures(job)) > generation for job in jobs), f"signature {generation} of all"
        )

    async def until_known_landed(self, job: CrashJob) -> None:
        """Return once our side has noted that the job's transaction landed."""
        await self.until(lambda: self.signatures(job)[-1].fate is Fate.landed, f"{job.key} is known to have landed")

    def waits_for_its_receipt(self, job: CrashJob) -> bool:
        """Whether the job's transaction is known to have landed, and is not final."""
        signed = self.signatures(job)
        landed = bool(signed) and signed[-1].fate is Fate.landed
        return landed and self.stack.receipts.find(job.key) is None

    @property
    def compute_key(self) -> str:
        """The secret of the worker's key on ComputeChain, in hex, as a stranger has it who stole it."""
        return Keystore(self.stack.folder / "keys").load(KEY_NAME).private_bytes.hex()

    async def roll_back_cloudmesh(self, job: CrashJob) -> None:
        """Let the job's transaction be confirmed, and then its fork lose."""
        chain = self.chains["cloudmesh"]
        await self.until_signed([job])
        chain.freeze()
        await self.until(lambda: len(chain.landed(job.job_id)) == 2, "landed in a slot that stands still")
        chain.advance(3)
        await self.until_known_landed(job)
        since = chain.log.get(self.signatures(job)[-1].submission.transaction_id).slot
        chain.rollback(chain.slot() - since + 1)
        assert len(chain.landed(job.job_id)) == 1, "only its poster's is left"
        chain.thaw()

    async def roll_back_computechain(self, job: CrashJob) -> None:
        """Let a block have the job's transaction, and then other blocks come in its place."""
        chain = self.chains["computechain"]
        chain.freeze()
        await self.until_signed([job])
        sent = self.signatures(job)[-1].submission.transaction_id
        await self.until(lambda: chain.mempool.count_of(self.compute_address) > 0, "sent")
        chain.make_block()
        await self.until_known_landed(job)
        chain.rollback(1)
        assert sent not in chain.landed(self.compute_address)
        chain.thaw()

    @property
    def compute_address(self) -> str:
        """The worker's address on ComputeChain."""
        return Keystore(self.stack.folder / "keys").load(KEY_NAME).address

    async def roll_back_offchainvm(self, job: CrashJob) -> None:
        """Let the request be resolved in blocks that are not final, and then others come in their place."""
        chain = self.chains["offchainvm"]
        chain.freeze()
        await self.until_signed([job])
        sent = self.signatures(job)[-1].submission.transaction_id
        await self.until(lambda: sent in chain.pool or chain.included(sent) is not None, "sent")
        chain.make_block(2)
        await self.until_known_landed(job)
        chain.rollback(2)
        assert chain.included(sent) is None
        chain.thaw()


@asynccontextmanager
async def fault_world(folder: Path) -> AsyncIterator[FaultWorld]:
    """A stack with a second gateway, NEAR blocks that are final only later, and workers on a machine that can fail."""
    machine = FaultyMachine(folder / "machine", folder)
    more = {
        "MILLRACE_COMPILE__ALLOW_PRIVATE_HOSTS": "true",
        "MILLRACE_MAX_IN_FLIGHT": "100",
        "MILLRACE_ATTEMPT_COOLDOWN_SECONDS": "5",
        "MILLRACE_IPFS__TIMEOUT_SECONDS": "6",
    }

    def of_workers(stack: Stack) -> Mapping[str, str]:
        gateways = f"{stack.ipfs.gateway_url} {stack.ipfs.legacy_gateway_url}"
        return {**machine.environment, "MILLRACE_IPFS__GATEWAYS": gateways}

    # A request on NEAR lives for 200 blocks: long enough for a minute without a server, and what comes after it.
    async with running_stack(
        folder,
        gpu=True,
        docker=True,
        slot_milliseconds=100,
        near_block_seconds=1.5,
        near_finality_lag=2,
        more=more,
        of_workers=of_workers,
    ) as stack:
        yield FaultWorld(stack, machine)
