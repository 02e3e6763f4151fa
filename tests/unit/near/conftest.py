from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from localnet.near import Dialect, NearLocalnet
from protocols.near.rpc import NearRpc


@pytest.fixture(params=list(Dialect))
def net(request: pytest.FixtureRequest) -> Iterator[NearLocalnet]:
    """A chain in each dialect, which makes blocks only when a test says so."""
    with NearLocalnet(request.param, wait_seconds=0.1) as running:
        running.chain.freeze()
        yield running


@pytest.fixture
async def rpc(net: NearLocalnet) -> AsyncIterator[NearRpc]:
    async with NearRpc([net.url], timeout_seconds=3, send_timeout_seconds=3) as client:
        yield client
