"""What the Prefect server is told to do by itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from prefect.client.orchestration import get_client

from deployments.automations import NAME, create_automations, retention


@pytest.mark.usefixtures("prefect_server")
async def test_the_automation_is_there_once_however_often_we_start() -> None:
    async with get_client() as client:
        for _ in range(3):
            await create_automations(client)
        (found,) = await client.read_automations_by_name(NAME)
        assert found.enabled
        assert found.trigger.within.total_seconds() == 240
        assert [action.type for action in found.actions] == ["change-flow-run-state"]


def test_the_server_reads_how_long_it_is_to_remember() -> None:
    told = (
        "from prefect.settings import get_current_settings as g; s = g().server;"
        "print(s.events.retention_period.days, s.services.db_vacuum.retention_period.days,"
        " *sorted(s.services.db_vacuum.enabled_vacuum_types))"
    )
    environment = {**os.environ, **retention(17)}
    said = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["17", "17", "events", "flow_runs", "orphans"]
