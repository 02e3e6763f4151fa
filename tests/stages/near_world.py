"""A local NEAR whose blocks only tests make, and workers on it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from localnet.near import CONTRACT, OPERATOR, Dialect, NearLocalnet
from millrace.settings import NearSettings, Settings
from protocols.near.job import OffchainVmJob
from stages.submit.follow import Pace
from stages.submit.offchainvm import OffchainVmNetwork
from stages.submit.offchainvm_answer import Answer
from stages.submit.offchainvm_opening import open_network

CID = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
SOURCE = {"repo": "https://github.com/alice/tool", "commit": "a" * 40}

LIMITS = {"max_instructions": 1_000_000_000, "max_memory_mb": 128, "max_execution_seconds": 60}


def answer(output: bytes = b"42", **fields: Any) -> Answer:
    """What a module came to that wrote `output`."""
    whole = {
        "result_cid": CID,
        "evidence_cid": CID,
        "result_hash": "5f" * 32,
        "success": True,
        "output_base64": base64.b64encode(output).decode(),
        "instructions": 3_000_000,
        "time_ms": 12,
    }
    return Answer.model_validate({**whole, **fields})


FAILED = answer(b"", success=False, error="out of fuel: more than 1000 instructions")


class World:
    """The chain; a block comes with every second that somebody sleeps at `pace`."""

    def __init__(self, net: NearLocalnet, folder: Path, finality_lag: int) -> None:
        self.net = net
        self.finality_lag = finality_lag
        self.chain = net.chain
        self.folder = folder
        self.seconds = 0.0
        self.sleeping_makes_blocks = True

    def clock(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        before = int(self.seconds)
        self.seconds += seconds
        if self.sleeping_makes_blocks and int(self.seconds) > before:
            self.chain.make_block(int(self.seconds) - before)

    def pace(self, **fields: float) -> Pace:
        return Pace(clock=self.clock, sleep=self.sleep, **fields)

    def settings(self, name: str = "worker", **fields: Any) -> Settings:
        near = {
            "rpc_urls": [self.net.url],
            "neardata_url": self.net.url,
            "contract_id": CONTRACT,
            "account_id": OPERATOR,
            "private_keys": [self.net.operator.secret_key],
            **fields,
        }
        return Settings(data_dir=self.folder / name / "millrace", near=NearSettings.model_validate(near))

    @asynccontextmanager
    async def worker(self, name: str = "worker", **fields: Any) -> AsyncIterator[OffchainVmNetwork]:
        async with open_network(self.settings(name, **fields)) as network:
            yield network

    def ask(self, **fields: Any) -> None:
        """Have a request made; two blocks later it is there."""
        named = "code_source" if self.net.dialect is Dialect.early else "source"
        source = SOURCE if self.net.dialect is Dialect.early else {"GitHub": SOURCE}
        # HEAD takes a request without limits for one that is to be compiled only.
        self.chain.request({named: source, "resource_limits": LIMITS, **fields})
        self.chain.make_block(2)

    async def job(self, network: OffchainVmNetwork, **fields: Any) -> OffchainVmJob:
        """A new request, seen by `network` in a final block."""
        await network.pending()
        self.ask(**fields)
        self.chain.make_block(1 + self.finality_lag)
        *_, newest = await network.pending()
        return newest

    def resolutions(self) -> list[str]:
        """Hashes of the operator's transactions in blocks whose execution succeeded."""
        return [
            sent.hash
            for height in range(self.chain.height() + 1)
            if (block := self.chain.block(height)) is not None
            for sent in block.transactions
            if sent.transaction.signer_id == OPERATOR and "SuccessValue" in self.chain.result_of(sent.hash)
        ]


@contextmanager
def near_world(folder: Path, dialect: Dialect, *, finality_lag: int = 0, **fields: Any) -> Iterator[World]:
    """A fresh chain; no blocks come by themselves."""
    with NearLocalnet(dialect, wait_seconds=0.05, finality_lag=finality_lag, **fields) as net:
        net.chain.freeze()
        net.chain.make_block(3 + finality_lag)
        yield World(net, folder, finality_lag)
