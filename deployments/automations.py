"""What the Prefect server does by itself: it takes note of flow runs that have fallen silent, and forgets old ones.

Source: Prefect's documentation, "Detect zombie flows". No result and no transaction depends on either: `reconcile`
looks after the flow runs of its own machine within a minute. This is for a machine that never comes back.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.reconcile import TAG_OF_ALL

NAME = "Millrace: silent flow runs have crashed"
HEARTBEAT_SECONDS = 60
_MISSED = 4
"""How many heartbeats have to be missing: a busy machine or server is late with one now and then."""

_ALIVE = frozenset({"prefect.flow-run.heartbeat"})
_ENDED = frozenset(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed"))


def retention(days: int) -> dict[str, str]:
    """The server's settings with which it forgets flow runs, their logs and events after so many days."""
    seconds = str(int(timedelta(days=days).total_seconds()))
    return {
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": seconds,
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{days}D",
    }


async def create_automations(client: PrefectClient) -> None:
    """Create or renew the automation that reports flow runs of ours as crashed once they are silent."""
    wanted = AutomationCore(
        name=NAME,
        description="A flow run that no longer says that it lives has crashed: `reconcile` puts it back to work.",
        enabled=True,
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.id": [f"prefect.tag.{TAG_OF_ALL}"]}),
            for_each={"prefect.resource.id"},
            after=set(_ALIVE),
            expect=set(_ALIVE | _ENDED),
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=_MISSED * HEARTBEAT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no sign of life for {_MISSED * HEARTBEAT_SECONDS} s: its machine may be gone",
            )
        ],
    )
    there = await client.read_automations_by_name(NAME)
    if there:
        await client.update_automation(there[0].id, wanted)
        for surplus in there[1:]:
            await client.delete_automation(surplus.id)
    else:
        await client.create_automation(wanted)
