from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from prefect.client.orchestration import get_client
from prefect.context import _temporary_global_settings_context, get_settings_context
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.processes import Processes
from deployments.stack import base_environment, free_port, prefect_environment, start_database_and_server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real Prefect server for all tests of flows, on the database that `millrace up` would take here."""
    folder, port = tmp_path_factory.mktemp("flows"), free_port()
    # What happened to a task is asked for right after it: it is to be recorded at once, as by Prefect's default.
    at_once = {"PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "1"}
    environment = {**base_environment(), **prefect_environment(folder, port), **at_once}
    url = environment["PREFECT_API_URL"]
    with Processes(folder / "logs") as processes:
        asyncio.run(start_database_and_server(processes, environment, port, folder, durable=False))
        with temporary_settings({PREFECT_API_URL: url}), _temporary_global_settings_context(get_settings_context()):
            yield
            # What was said last is sent while somebody listens.
            asyncio.run(_drain())


async def _drain() -> None:
    APILogWorker.instance().drain()
    drained = EventsWorker.drain_all()
    if drained is not None:
        await drained


@pytest_asyncio.fixture
async def no_history_left(prefect_server: None) -> AsyncIterator[None]:
    """Flow runs, and with them their tasks, are gone afterwards: Prefect shows two hundred at once to whoever asks."""
    yield
    async with get_client() as client:
        while runs := await client.read_flow_runs():
            for run in runs:
                await client.delete_flow_run(run.id)
