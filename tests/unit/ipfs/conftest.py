"""The stand-ins for the IPFS services, one set for the whole session, well-behaved at the start of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from localnet.ipfs import IpfsLocalnet


@pytest.fixture(scope="session")
def _serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpfsLocalnet]:
    with IpfsLocalnet(tmp_path_factory.mktemp("ipfs")) as network:
        yield network


@pytest.fixture
def network(_serving: IpfsLocalnet) -> IpfsLocalnet:
    for name, service in _serving.services.items():
        _serving.misbehave(name)
        service.requests.clear()
    return _serving


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        yield client
