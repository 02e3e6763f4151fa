"""The essential, on a machine without PostgreSQL; everything else is tested on the database that the machine has."""

from __future__ import annotations

import pytest
from acceptance_stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]


async def test_a_job_is_done_and_settled_on_sqlite(sqlite_stack: Stack) -> None:
    address = sqlite_stack.post("on SQLite", "print(6 * 7)")
    ended = await sqlite_stack.ended(await sqlite_stack.run("cloudmesh-job/cpu", job_address=address))
    assert ended.state_name == "Settled"
    assert (sqlite_stack.folder / "prefect" / "prefect.db").exists()
    assert len(sqlite_stack.solana.chain.landed(address)) == 2  # posted, completed
