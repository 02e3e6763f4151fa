from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent.parent / "stages"))
sys.path.insert(0, str(Path(__file__).parent.parent / "acceptance"))

from crash_world import World, crash_world

from stages.execute.sandbox import missing_tools


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    if missing := missing_tools():
        pytest.skip(f"needs {', '.join(what for what, _ in missing)}; install it and this runs")
    async with crash_world(tmp_path_factory.mktemp("crash")) as running:
        yield running
