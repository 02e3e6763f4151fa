"""A worker with a hostile gateway, an honest one, and a data folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from localnet.ipfs import IpfsLocalnet
from millrace.settings import IpfsSettings


@pytest.fixture(scope="session")
def _serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[IpfsLocalnet, IpfsLocalnet]]:
    with (
        IpfsLocalnet(tmp_path_factory.mktemp("hostile")) as hostile,
        IpfsLocalnet(tmp_path_factory.mktemp("honest")) as honest,
    ):
        yield hostile, honest


@pytest.fixture
def hostile(_serving: tuple[IpfsLocalnet, IpfsLocalnet]) -> IpfsLocalnet:
    return _well_behaved(_serving[0])


@pytest.fixture
def honest(_serving: tuple[IpfsLocalnet, IpfsLocalnet]) -> IpfsLocalnet:
    return _well_behaved(_serving[1])


def _well_behaved(network: IpfsLocalnet) -> IpfsLocalnet:
    for name, service in network.services.items():
        network.misbehave(name)
        service.requests.clear()
    return network


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def settings(hostile: IpfsLocalnet) -> IpfsSettings:
    """The hostile gateway is the only one; results go to the hostile Pinata."""
    return IpfsSettings(
        gateways=(hostile.gateway_url,),
        allow_private_gateways=True,
        pinata_jwt=SecretStr(hostile.pinata_jwt),
        pinata_api=hostile.pinata_url,
        timeout_seconds=1.5,
    )
