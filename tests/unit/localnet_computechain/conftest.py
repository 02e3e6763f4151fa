from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from node_client import FakeClock, NodeClient

from localnet.computechain import ComputeChainLocalnet
from protocols.computechain.keys import ComputeKey


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def net(clock: FakeClock) -> Iterator[ComputeChainLocalnet]:
    """A devnet with its first block, which makes more only when a test says so."""
    with ComputeChainLocalnet(clock=clock) as running:
        running.chain.freeze()
        yield running


@pytest.fixture
def node(net: ComputeChainLocalnet) -> Iterator[NodeClient]:
    with httpx.Client(timeout=10) as http:
        yield NodeClient(net.url, http)


@pytest.fixture
def worker(net: ComputeChainLocalnet) -> ComputeKey:
    """A key with one CPC."""
    key = ComputeKey(b"\x01" * 32)
    net.chain.fund(key.address, 10**18)
    return key


@pytest.fixture
def rival(net: ComputeChainLocalnet) -> ComputeKey:
    """Another key with one CPC."""
    key = ComputeKey(b"\x02" * 32)
    net.chain.fund(key.address, 10**18)
    return key
