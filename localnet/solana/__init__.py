"""A local Solana: the real runtime and the job program behind a node's JSON-RPC, in this process.

with SolanaLocalnet() as net:
    net.chain.airdrop(address, 10**9)
    client = AsyncClient(net.url)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from localnet.solana.chain import GENESIS_HASH, Chain
from localnet.solana.program import PROGRAM_ID, SHARED_OBJECT
from localnet.solana.server import Server

__all__ = ["Chain", "SolanaLocalnet"]


class SolanaLocalnet:
    """One chain and its RPC server; a context manager.

    Arguments: `slot_milliseconds` is the length of a slot; `port` 0 takes a free one; `clock` gives Unix time
    in seconds. Attributes: `url` (once made), `program_id`, `genesis_hash`, and `chain` with all controls.
    Raises OSError if the port is taken.
    """

    def __init__(self, *, slot_milliseconds: int = 400, port: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.program_id = PROGRAM_ID
        self.genesis_hash = GENESIS_HASH
        self.chain = Chain(clock, slot_milliseconds)
        self.chain.load_program(PROGRAM_ID, SHARED_OBJECT.read_bytes())
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
