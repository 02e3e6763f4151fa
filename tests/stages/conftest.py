"""What tests of stages share with those of flows: a Redis server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "flows"))

if TYPE_CHECKING:
    from outbox_places import FleetPlace


@pytest.fixture(scope="session")
def durable_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis server that keeps what it acknowledges."""
    from redis_server import DURABLE, PROGRAM, serving

    if PROGRAM is None:
        pytest.skip("redis-server is not installed")
    with serving(tmp_path_factory.mktemp("redis"), *DURABLE) as (url, _):
        yield url


@pytest.fixture
def fleet(durable_redis: str) -> FleetPlace:
    """An empty outbox of a fleet."""
    from outbox_places import FleetPlace

    place = FleetPlace(durable_redis)
    place.clear()
    return place
