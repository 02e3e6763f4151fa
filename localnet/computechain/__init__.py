"""A local ComputeChain: a node with the real one's rules in their order behind its RPC, in this process.

with ComputeChainLocalnet(block_seconds=0.5) as net:
    net.chain.fund(address, 10**18)
    status = httpx.get(f"{net.url}/status").json()
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from localnet.computechain.chain import Chain
from localnet.computechain.server import Server
from localnet.computechain.spending import FAUCET_KEY
from protocols.computechain.networks import NETWORKS

__all__ = ["FAUCET_KEY", "Chain", "ComputeChainLocalnet"]


class ComputeChainLocalnet:
    """One chain and its node's RPC server; a context manager.

    Arguments: `network` is devnet, testnet or mainnet, whose limits then hold; `block_seconds` lie between blocks, by
    default the network's own; `port` 0 takes a free one; `clock` gives Unix time in seconds; `keep_alive_seconds`
    of silence bring a comment to listeners; `first_block` false leaves the chain without any.
    Attributes: `url` (once made), `chain_id`, `chain` with all controls, and `faucet`, the key of the funded account.
    Raises OSError if the port is taken, ValueError for an unknown network or a block time that is not positive.
    """

    def __init__(
        self,
        network: str = "devnet",
        *,
        block_seconds: float | None = None,
        port: int = 0,
        clock: Callable[[], float] = time.time,
        keep_alive_seconds: float = 15.0,
        first_block: bool = True,
    ) -> None:
        if network not in NETWORKS:
            raise ValueError(f"no network is called {network!r}; known: {', '.join(NETWORKS)}")
        self.faucet = FAUCET_KEY
        self.chain_id = NETWORKS[network].chain_id
        self.chain = Chain(
            NETWORKS[network], block_seconds=block_seconds, clock=clock, keep_alive_seconds=keep_alive_seconds
        )
        if first_block:
            self.chain.make_block()
        self._server = Server(self.chain, port)
        self.url = self._server.url

    def start(self) -> Self:
        """Begin to answer; returns itself. Raises RuntimeError if it was started before."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Close every connection and the port; a stopped localnet cannot be started again."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
