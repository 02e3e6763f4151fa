from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server with an empty database, for all tests of flows."""
    with prefect_test_harness(server_startup_timeout=90):
        yield


@pytest_asyncio.fixture
async def no_history_left(prefect_server: None) -> AsyncIterator[None]:
    """Flow runs, and with them their tasks, are gone afterwards: Prefect shows two hundred at once to whoever asks."""
    yield
    async with get_client() as client:
        while runs := await client.read_flow_runs():
            for run in runs:
                await client.delete_flow_run(run.id)
