"""A local NEAR: a node that checks and carries out transactions, with the OffchainVM contract, in this process.

with NearLocalnet(Dialect.early, block_seconds=0.2) as net:
    net.chain.request({"code_source": {"repo": "https://github.com/a/b", "commit": "main"}})
    ...NearRpc([net.url]), NeardataSource(net.url, net.contract_id)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from localnet.near.chain import CONTRACT, OPERATOR, OWNER, RELAY, REQUESTER, YOCTO_PER_NEAR, Chain
from localnet.near.server import Server
from protocols.near.contract import Dialect
from protocols.near.keys import NearKey
from protocols.near.lanes import VALIDITY_BLOCKS

__all__ = ["CONTRACT", "OPERATOR", "OWNER", "RELAY", "REQUESTER", "YOCTO_PER_NEAR", "Chain", "Dialect", "NearLocalnet"]

_OPERATOR_KEY = NearKey(b"\x01" * 32)
_REQUESTER_KEY = NearKey(b"\x02" * 32)


class NearLocalnet:
    """One chain, its RPC and its block server at one URL; a context manager.

    Arguments: `dialect` is the contract's; `block_seconds` lie between blocks; `port` 0 takes a free one; `clock`
    gives Unix time in seconds; `wait_seconds` is how long a call waits for a transaction; `validity_blocks` is how
    many blocks the block hash in a transaction may be old; a block is final once `finality_lag` others follow it.
    Attributes: `url` (once made) of RPC and block server, `contract_id`, `operator_id` (the worker's account) and
    `operator`, its key; `requester`, the key of who asks; `chain` with all controls.
    Raises OSError if the port is taken, ValueError for a block time that is not positive.
    """

    def __init__(
        self,
        dialect: Dialect = Dialect.head,
        *,
        block_seconds: float = 1.0,
        port: int = 0,
        clock: Callable[[], float] = time.time,
        wait_seconds: float = 10.0,
        validity_blocks: int = VALIDITY_BLOCKS,
        finality_lag: int = 0,
    ) -> None:
        self.dialect = dialect
        self.contract_id = CONTRACT
        self.operator_id = OPERATOR
        self.operator = _OPERATOR_KEY
        self.requester = _REQUESTER_KEY
        self.chain = Chain(
            dialect,
            block_seconds=block_seconds,
            clock=clock,
            validity_blocks=validity_blocks,
            finality_lag=finality_lag,
            operator=_OPERATOR_KEY,
            requester=_REQUESTER_KEY,
        )
        self._server = Server(self.chain, port, wait_seconds)
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
