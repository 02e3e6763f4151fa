"""A local ComputeChain whose blocks only tests make, and workers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from localnet.computechain import ComputeChainLocalnet
from millrace.network import Result
from millrace.settings import ComputeChainSettings, Settings
from protocols.computechain.job import ComputeChainJob
from protocols.computechain.keystore import Keystore
from stages.submit.computechain import ComputeChainNetwork
from stages.submit.computechain_opening import open_network
from stages.submit.follow import Pace

CID = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
ROOT = "5f" * 32
RESULT = Result(result_cid=CID, result_hash=ROOT, proof='{"version":1}')
FEE_WEI = 80_000_000
WEI = 10**18
CONFIRMATIONS = 3


class World:
    """The chain, and purses for workers; a block comes with every five seconds that somebody sleeps at `pace`."""

    def __init__(self, net: ComputeChainLocalnet, folder: Path) -> None:
        self.net = net
        self.chain = net.chain
        self.folder = folder
        self.seconds = 0.0
        self.sleeping_makes_blocks = True

    def clock(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        blocks_before = self.seconds // 5
        self.seconds += seconds
        if self.sleeping_makes_blocks:
            for _ in range(int(self.seconds // 5 - blocks_before)):
                self.chain.make_block()

    def pace(self, **fields: float) -> Pace:
        return Pace(clock=self.clock, sleep=self.sleep, **fields)

    def settings(self, name: str = "worker", **fields: object) -> Settings:
        """The settings of a worker with a key and a data folder of its own."""
        compute = ComputeChainSettings.model_validate(
            {
                "rpc_urls": [self.net.url],
                "chain_id": self.net.chain_id,
                "keystore": self.folder / "keys",
                "key_name": name,
                "confirmations": CONFIRMATIONS,
                **fields,
            }
        )
        return Settings(data_dir=self.folder / name / "millrace", computechain=compute)

    @asynccontextmanager
    async def worker(
        self, name: str = "worker", *, wei: int = WEI, **fields: object
    ) -> AsyncIterator[ComputeChainNetwork]:
        settings = self.settings(name, **fields)
        keystore = Keystore(self.folder / "keys")
        if name not in {info.name for info in keystore.list()}:
            self.chain.fund(keystore.add(name).address, wei)
        async with open_network(settings) as network:
            yield network

    def private_key(self, name: str = "worker") -> str:
        return Keystore(self.folder / "keys").load(name).private_bytes.hex()

    async def newest_job(self, network: ComputeChainNetwork) -> ComputeChainJob:
        """The challenge of the block that is the newest when this is asked."""
        *_, newest = await network.pending()
        return newest

    def answers(self, network: ComputeChainNetwork) -> list[str]:
        """Hashes of the worker's transactions in blocks, strangers' uses of its key left out."""
        return [
            sent.hash
            for height in range(self.chain.height() + 1)
            if (block := self.chain.block(height)) is not None
            for sent in block.transactions
            if sent.from_address == network.address and sent.tx_type == "SUBMIT_RESULT"
        ]


@contextmanager
def computechain_world(folder: Path) -> Iterator[World]:
    """A fresh chain of ten blocks; no more come by themselves."""
    with ComputeChainLocalnet(block_seconds=3600) as net:
        net.chain.freeze()
        net.chain.make_block(10)
        yield World(net, folder)
