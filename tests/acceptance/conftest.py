from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from acceptance_stack import Stack, running_stack

from stages.execute.sandbox import missing_tools


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """On the database that this machine gives `millrace up`: PostgreSQL where it is installed."""
    _skip_without_sandbox()
    async with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sqlite_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    _skip_without_sandbox()
    async with running_stack(tmp_path_factory.mktemp("stack"), sqlite=True) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gpu_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """With ComputeChain, and a worker for its jobs; on the CPU, which gives the same bytes."""
    _skip_without_sandbox()
    async with running_stack(tmp_path_factory.mktemp("stack"), gpu=True) as running:
        yield running


def _skip_without_sandbox() -> None:
    if missing := missing_tools():
        pytest.skip(f"needs {', '.join(what for what, _ in missing)}; install it and this runs")
