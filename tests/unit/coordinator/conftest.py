from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from localnet.coordinator import CoordinatorLocalnet
from protocols.coordinator.client import Coordinator

TOKEN = "token-of-a-test-worker"


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 1_760_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def net(clock: FakeClock) -> Iterator[CoordinatorLocalnet]:
    with CoordinatorLocalnet(token=TOKEN, clock=clock) as running:
        yield running


@pytest.fixture
async def coordinator(net: CoordinatorLocalnet) -> AsyncIterator[Coordinator]:
    async with Coordinator(net.url, SecretStr(TOKEN), timeout_seconds=5) as client:
        yield client
