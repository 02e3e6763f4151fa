"""Solana's JSON-RPC over several endpoints: reads go to the healthiest, sends through one at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar

from pydantic import TypeAdapter
from solana.rpc.async_api import AsyncClient

from millrace.errors import MillraceError, Permanent, Transient
from protocols.solana.endpoint import Endpoint
from protocols.solana.rpc_errors import EndpointRefused, SendUnanswered, WrongChain

T = TypeVar("T")

_logger = logging.getLogger(__name__)
_SIGNATURE: TypeAdapter[str] = TypeAdapter(str)


class SolanaRpc:
    """One chain, asked through several endpoints; an async context manager.

    Arguments: `urls` in order of preference; `genesis_hash` of the chain we work for, the first answer of the
    endpoints when empty; `timeout_seconds` for one call to one endpoint; `clock` gives seconds that never go back.

    No endpoint is used before it has shown that it serves that chain. Raises Permanent if there is no endpoint or
    one is not a URL.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        genesis_hash: str = "",
        timeout_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not urls:
            raise Permanent("no Solana RPC endpoint is set", hint="set SOLANA_RPC_URL")
        self._endpoints = [Endpoint(url, clock) for url in urls]
        self._sender = self._endpoints[0]
        self._genesis_hash = genesis_hash
        self._learning = asyncio.Lock()
        self._timeout_seconds = timeout_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()

    async def genesis_hash(self) -> str:
        """The genesis hash of the chain we work for; asks the endpoints if it is not known yet."""
        if not self._genesis_hash:
            async with self._learning:
                if not self._genesis_hash:
                    self._genesis_hash = await self._first(
                        lambda endpoint: endpoint.ensure_serves("", self._timeout_seconds)
                    )
        return self._genesis_hash

    async def read(self, method: str, params: list[Any], answer: TypeAdapter[T]) -> T:
        """Call a method without side effects, on one endpoint after the other until one answers.

        Raises Transient if none can answer now, Permanent if none ever will or our request is wrong.
        """
        return await self._ask(lambda endpoint: endpoint.call(method, params, answer, self._timeout_seconds))

    async def read_large(
        self, method: str, question: Callable[[AsyncClient], Awaitable[T]], timeout_seconds: float
    ) -> T:
        """Ask a question by solana-py's own means, which parses large answers several times faster; as `read`.

        solana-py returns an error code that it does not know in place of an answer: `question` must look.
        """
        return await self._ask(lambda endpoint: endpoint.ask(method, question, timeout_seconds))

    async def _ask(self, ask: Callable[[Endpoint], Awaitable[T]]) -> T:
        genesis_hash = await self.genesis_hash()

        async def ask_the_right_chain(endpoint: Endpoint) -> T:
            await endpoint.ensure_serves(genesis_hash, self._timeout_seconds)
            return await ask(endpoint)

        return await self._first(ask_the_right_chain)

    async def send(self, payload: str, *, preflight: bool, min_context_slot: int | None = None) -> str:
        """Hand a signed transaction (base64) to an endpoint; returns its signature. The node never resends it.

        The same bytes may go out any number of times. Sends stay with one endpoint until it fails, then move on.

        Raises PreflightRefused if the node tried it and it failed; SendUnanswered if no endpoint said that it took
        it, though one may have; otherwise as `read`.
        """
        genesis_hash = await self.genesis_hash()
        config: dict[str, Any] = {"encoding": "base64", "maxRetries": 0, "skipPreflight": not preflight}
        if preflight:
            config["preflightCommitment"] = "confirmed"
        if preflight and min_context_slot is not None:
            config["minContextSlot"] = min_context_slot

        async def hand_over(endpoint: Endpoint) -> str:
            await endpoint.ensure_serves(genesis_hash, self._timeout_seconds)
            signature = await endpoint.call("sendTransaction", [payload, config], _SIGNATURE, self._timeout_seconds)
            self._sender = endpoint
            return signature

        try:
            return await self._first(hand_over, prefer=self._sender)
        except Transient as error:
            raise SendUnanswered(error.message, hint="ask the chain what became of the transaction") from None

    async def _first(self, ask: Callable[[Endpoint], Awaitable[T]], prefer: Endpoint | None = None) -> T:
        """The first answer; the healthiest endpoint is asked first."""
        failures: list[MillraceError] = []
        for endpoint in self._by_health(prefer):
            try:
                return await ask(endpoint)
            except (Transient, EndpointRefused) as error:
                _logger.info("%s", error)
                failures.append(error)
        # What passes comes first: as long as one endpoint may recover, the whole may.
        passing = [error for error in failures if isinstance(error, Transient)]
        refused = [error for error in failures if not isinstance(error, WrongChain)]
        raise (passing or refused or failures)[0]

    def _by_health(self, prefer: Endpoint | None) -> list[Endpoint]:
        def health(endpoint: Endpoint) -> tuple[bool, bool, bool, float]:
            wish = endpoint.resting_until if endpoint.resting else 0.0
            return endpoint.wrong_chain is not None, endpoint.resting, endpoint is not prefer, wish

        # The sort is stable: among equals the operator's order decides, also after an endpoint has rested.
        return sorted(self._endpoints, key=health)
