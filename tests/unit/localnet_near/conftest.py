from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from near_client import FakeClock, NearClient

from localnet.near import Dialect, NearLocalnet


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def early(clock: FakeClock) -> Iterator[NearClient]:
    """A chain with EARLY's contract, which makes blocks only when a test says so."""
    yield from _client(Dialect.early, clock)


@pytest.fixture
def head(clock: FakeClock) -> Iterator[NearClient]:
    """The same with HEAD's."""
    yield from _client(Dialect.head, clock)


@pytest.fixture(params=list(Dialect))
def node(request: pytest.FixtureRequest, clock: FakeClock) -> Iterator[NearClient]:
    """Either of them."""
    yield from _client(request.param, clock)


def _client(dialect: Dialect, clock: FakeClock) -> Iterator[NearClient]:
    with NearLocalnet(dialect, clock=clock, wait_seconds=0.05) as net, httpx.Client(timeout=10) as http:
        net.chain.freeze()
        yield NearClient(net, http)
