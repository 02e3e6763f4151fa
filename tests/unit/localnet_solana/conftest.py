from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from rpc_client import RpcClient
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
def rpc(net: SolanaLocalnet) -> Iterator[RpcClient]:
    with httpx.Client(timeout=10) as http:
        yield RpcClient(net.url, http)
