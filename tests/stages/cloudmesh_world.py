"""A local chain whose time only tests move, and workers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from localnet.solana import SolanaLocalnet
from localnet.solana.client import JobPoster
from millrace.network import Result
from millrace.settings import CloudMeshSettings, Settings
from protocols.solana.job_account import JobStatus, JobType
from protocols.solana.keypair import load_or_create_keypair
from stages.submit.cloudmesh import CloudMeshNetwork, open_network
from stages.submit.follow import Pace

CID = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
OTHER_CID = "bafkreieq5jui4j25lacwomsqgjeswwl3y5zcdrresptwgmfylxo2depppq"
LAMPORTS = 1_000_000_000
SLOT_SECONDS = 0.4


class World:
    """The chain, a job owner and a purse for workers; slots pass only when somebody sleeps at `pace`."""

    def __init__(self, net: SolanaLocalnet, folder: Path) -> None:
        self.net = net
        self.chain = net.chain
        self.folder = folder
        self.owner = JobPoster(net.url, net.program_id)
        self.seconds = 0.0
        self.chain.airdrop(self.owner.address, LAMPORTS)

    def clock(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.chain.advance(round(seconds / SLOT_SECONDS))

    def pace(self, **fields: float) -> Pace:
        return Pace(clock=self.clock, sleep=self.sleep, **fields)

    def post(self, title: str, code_cid: str = CID, *, finalize: bool = True) -> str:
        """A job account's address; its transaction is at least confirmed, finalized unless told otherwise."""
        with self._time_passing():
            address = self.owner.post(title, code_cid, JobType.manual)
        self.chain.advance(40 if finalize else 3)
        return address

    def cancel(self, address: str) -> None:
        with self._time_passing():
            self.owner.cancel(address)
        self.chain.advance(3)

    @contextmanager
    def _time_passing(self) -> Iterator[None]:
        self.chain.thaw()
        try:
            yield
        finally:
            self.chain.freeze()

    def settings(self, name: str = "worker", **fields: object) -> Settings:
        """The settings of a worker with a key and a data folder of its own."""
        mesh = CloudMeshSettings.model_validate(
            {
                "program_id": self.net.program_id,
                "rpc_urls": [self.net.url],
                "keypair_path": self.folder / name / "key.json",
                **fields,
            }
        )
        return Settings(data_dir=self.folder / name / "millrace", cloudmesh=mesh)

    @asynccontextmanager
    async def worker(
        self, name: str = "worker", *, lamports: int = LAMPORTS, **fields: object
    ) -> AsyncIterator[CloudMeshNetwork]:
        settings = self.settings(name, **fields)
        keypair, _ = load_or_create_keypair(settings.cloudmesh.keypair_path)
        if lamports and not self.chain.account(str(keypair.pubkey())):
            self.chain.airdrop(str(keypair.pubkey()), lamports)
        async with open_network(settings) as network:
            yield network

    async def beat_us_to(self, address: str, result_cid: str = OTHER_CID) -> None:
        """Another worker completes the job, confirmed when this returns."""
        async with self.worker("rival") as rival:
            job = await rival.find(address)
            await rival.send(await rival.prepare(job, Result(result_cid=result_cid), 0))
        self.chain.advance(3)

    def status(self, address: str) -> JobStatus:
        job = self.owner.job(address)
        assert job is not None
        return job.status

    def completions(self, address: str) -> int:
        """How many transactions have completed the job, as the chain counts: successes beyond the posting."""
        return len(self.chain.landed(address)) - 1


@contextmanager
def cloudmesh_world(folder: Path) -> Iterator[World]:
    """A fresh chain with very short slots while the owner posts, and none passing otherwise."""
    with SolanaLocalnet(slot_milliseconds=10) as net:
        net.chain.freeze()
        world = World(net, folder)
        try:
            yield world
        finally:
            world.owner.close()
