from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from job_abi import Bench
from solders.keypair import Keypair

from localnet.solana import SolanaLocalnet


@pytest.fixture
def net() -> Iterator[SolanaLocalnet]:
    """A chain that stands still unless a test advances it."""
    with SolanaLocalnet() as running:
        running.chain.freeze()
        yield running


@pytest.fixture
def payer(net: SolanaLocalnet) -> Keypair:
    keypair = Keypair()
    net.chain.airdrop(str(keypair.pubkey()), 10**10)
    return keypair


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10) as client:
        yield client


class RpcClient:
    """The barest client: what the server sends is what a test sees."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url, self.http = url, http

    def raw(self, method: str, *params: Any) -> dict[str, Any]:
        request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}
        answer: dict[str, Any] = self.http.post(self.url, json=request).json()
        return answer

    def __call__(self, method: str, *params: Any) -> Any:
        return self.raw(method, *params)["result"]

    def error(self, method: str, *params: Any) -> dict[str, Any]:
        error: dict[str, Any] = self.raw(method, *params)["error"]
        return error


@pytest.fixture
def rpc(net: SolanaLocalnet, http: httpx.Client) -> RpcClient:
    return RpcClient(net.url, http)


@pytest.fixture
def bench() -> Bench:
    return Bench()
