"""The stand-ins for the IPFS services, one set for the whole session, well-behaved at the start of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from localnet.ipfs import IpfsLocalnet
from protocols.ipfs.pin_polling import PinPolling
from protocols.ipfs.uploads import UploadRecords


@pytest.fixture(scope="session")
def _serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpfsLocalnet]:
    with IpfsLocalnet(tmp_path_factory.mktemp("ipfs")) as network:
        yield network


@pytest.fixture
def network(_serving: IpfsLocalnet) -> IpfsLocalnet:
    for name, service in _serving.services.items():
        _serving.misbehave(name)
        service.requests.clear()
        service.served.clear()
    return _serving


class Time:
    """A clock and a sleep that only each other move."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def polling() -> PinPolling:
    time = Time()
    return PinPolling(60.0, clock=time, sleep=time.sleep, jitter=lambda: 0.0)


@pytest.fixture
def records(tmp_path: Path) -> UploadRecords:
    return UploadRecords(tmp_path / "uploads")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        yield client
