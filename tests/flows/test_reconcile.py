"""Reconcile on a real Prefect server: what it takes up, what it ends, and what it leaves alone."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from prefect import State
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.states import AwaitingRetry, Cancelling, Completed, Crashed, Pending, Running, Scheduled
from redis_server import needs_redis, serving

from flows import reconcile as reconcile_module
from flows.attempts import attempt_key
from flows.cloudmesh import cloudmesh_job
from flows.lease import hold_lease
from flows.reconcile import reconcile
from flows.validator import poc_job
from flows.watch import watch
from millrace.network import Fate, SignedSubmission
from millrace.settings import Settings
from stages.submit.outbox import Outbox
from stages.submit.outbox_opening import open_outbox

pytestmark = pytest.mark.usefixtures("prefect_server")


class Machine:
    """One machine's data folder, and its flow runs in the Prefect API."""

    def __init__(self, folder: Path, client: PrefectClient) -> None:
        self.folder = folder
        self.client = client
        self.outbox = Outbox(folder / "outbox")

    async def job_run(self, job_id: str, state: State[Any], *, attempt: int = 1) -> UUID:
        flow_id = await self.client.create_flow(cloudmesh_job)
        deployment_id = await self.client.create_deployment(flow_id, "cpu")
        run = await self.client.create_flow_run_from_deployment(
            deployment_id,
            name=job_id,
            parameters={"job_address": job_id},
            tags=["millrace"],
            idempotency_key=attempt_key(f"cloudmesh/test/{job_id}", attempt),
        )
        await self.client.set_flow_run_state(run.id, state, force=True)
        return run.id

    async def watch_run(self, state: State[Any]) -> UUID:
        run = await self.client.create_flow_run(watch, tags=["millrace"], parameters={"network": "cloudmesh"})
        await self.client.set_flow_run_state(run.id, state, force=True)
        return run.id

    def process_died(self, run_id: UUID) -> None:
        """What a killed process leaves: its lease, and nobody who holds it."""
        (self.folder / "leases").mkdir(exist_ok=True)
        (self.folder / "leases" / f"{run_id}.lease").write_text("{}")

    def signed(self, job_id: str) -> SignedSubmission:
        submission = SignedSubmission(
            job_key=f"cloudmesh/test/{job_id}",
            network="cloudmesh",
            transaction_id=f"signature of {job_id}",
            payload="AA==",
            expires_at=1,
            sender="us",
            result_cid="bafy",
            price=1,
        )
        self.outbox.record(submission)
        return submission

    async def reconcile(self) -> State[Any]:
        state: State[Any] = await reconcile(return_state=True)
        return state

    async def state(self, run_id: UUID) -> State[Any]:
        state = (await self.client.read_flow_run(run_id)).state
        assert state is not None
        return state


@pytest_asyncio.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    monkeypatch.setenv("MILLRACE_DATA_DIR", str(tmp_path))
    async with get_client() as client:
        yield Machine(tmp_path, client)
        for run in await client.read_flow_runs():
            await client.delete_flow_run(run.id)


async def test_a_job_whose_process_is_gone_is_put_back_and_a_living_one_is_not(machine: Machine) -> None:
    dead, living = await machine.job_run("dead", Running()), await machine.job_run("living", Running())
    machine.process_died(dead)
    with hold_lease(machine.folder / "leases", str(living)):
        await machine.reconcile()
    assert (await machine.state(dead)).name == "AwaitingRetry"
    assert (await machine.state(living)).name == "Running"


async def test_a_watch_that_was_killed_does_not_hold_its_place_for_ever(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every worker killed while it watched left a run that seemed to run: each took a slot of the pool away."""
    dead, living, elsewhere = [await machine.watch_run(Running()) for _ in range(3)]
    machine.process_died(dead)
    never_started = await machine.watch_run(Pending())
    monkeypatch.setattr(reconcile_module, "_STARTING", timedelta(0))
    with hold_lease(machine.folder / "leases", str(living)):
        await machine.reconcile()
    assert [(await machine.state(run)).name for run in (dead, never_started)] == ["Crashed", "Crashed"]
    assert [(await machine.state(run)).name for run in (living, elsewhere)] == ["Running", "Running"]


async def test_a_cancellation_whose_process_died_first_comes_to_its_end(machine: Machine) -> None:
    """It was Cancelling for ever, and its submission counted as followed."""
    run_id = await machine.job_run("cancelling", Running())
    await machine.client.update_flow_run(run_id, infrastructure_pid="4711")  # without, Prefect ends it by itself
    await machine.client.set_flow_run_state(run_id, Cancelling())
    assert (await machine.state(run_id)).name == "Cancelling"
    machine.process_died(run_id)
    await machine.reconcile()
    assert (await machine.state(run_id)).name == "Cancelled"
    machine.signed("cancelling")
    await machine.reconcile()
    assert (await machine.state(run_id)).name == "AwaitingRetry"


HOLD = """
import sys, time
from pathlib import Path
from flows.lease import hold_lease
with hold_lease(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


async def test_a_cancelled_run_that_goes_on_without_its_worker_is_ended(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker, which would have ended it, was killed."""
    run_id = await machine.job_run("orphan", Running())
    await machine.client.update_flow_run(run_id, infrastructure_pid="4711")  # without, Prefect ends it by itself
    await machine.client.set_flow_run_state(run_id, Cancelling())
    command = [sys.executable, "-c", HOLD, str(machine.folder / "leases"), str(run_id)]
    orphan = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert orphan.stdout is not None
        assert await orphan.stdout.readline() == b"held\n"
        await machine.reconcile()
        assert orphan.returncode is None, "a worker gets the time that it takes"
        assert (await machine.state(run_id)).name == "Cancelling"
        monkeypatch.setattr(reconcile_module, "_CANCELLING", timedelta(0))
        await machine.reconcile()
        assert await asyncio.wait_for(orphan.wait(), 10) == -signal.SIGKILL
    finally:
        if orphan.returncode is None:
            orphan.kill()
            await orphan.wait()
    await machine.reconcile()
    assert (await machine.state(run_id)).name == "Cancelled"


async def test_a_run_that_was_cancelled_and_then_killed_by_hand_is_not_done_again(machine: Machine) -> None:
    run_id = await machine.job_run("unwanted", Running())
    await machine.client.update_flow_run(run_id, infrastructure_pid="4711")
    await machine.client.set_flow_run_state(run_id, Cancelling())
    await machine.client.set_flow_run_state(run_id, Crashed(), force=True)
    await machine.reconcile()
    assert (await machine.state(run_id)).name == "Cancelled"


async def test_a_run_that_is_just_starting_is_not_put_back_by_a_machine_whose_clock_is_ahead(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was `never started`, and put back to a start an hour ahead, for which its own process then waited."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Ahead:
            return cls.fromtimestamp(time.time() + 3_600, tz)

    monkeypatch.setattr(reconcile_module, "datetime", Ahead)
    starting, dead = await machine.job_run("starting", Pending()), await machine.job_run("dead", Running())
    machine.process_died(dead)
    await machine.reconcile()
    assert (await machine.state(starting)).type is StateType.PENDING
    start = (await machine.state(dead)).state_details.scheduled_time
    assert start is not None
    assert abs(start - datetime.now(UTC)) < timedelta(seconds=60)


async def test_a_job_that_was_scheduled_by_a_clock_that_was_ahead_begins_now(machine: Machine) -> None:
    """The clock had been an hour ahead and was set right: the jobs found meanwhile began an hour late."""
    now = datetime.now(UTC)
    ahead = await machine.job_run("ahead", Scheduled(scheduled_time=now + timedelta(hours=1)))
    put_back = await machine.job_run("put-back", AwaitingRetry(scheduled_time=now + timedelta(hours=1)))
    due = await machine.job_run("due", Scheduled(scheduled_time=now + timedelta(seconds=30)))
    by_hand = await machine.watch_run(Scheduled(scheduled_time=now + timedelta(hours=1)))
    state = await machine.reconcile()
    assert state.name == "Took up 2"
    for run_id, name in ((ahead, "Scheduled"), (put_back, "AwaitingRetry")):
        brought = await machine.state(run_id)
        assert (brought.name, brought.type) == (name, StateType.SCHEDULED)
        assert abs((brought.state_details.scheduled_time or now) - now) < timedelta(seconds=60)
        assert "a clock was set back" in (brought.message or "")
    for run_id, seconds in ((due, 30), (by_hand, 3_600)):
        assert (await machine.state(run_id)).state_details.scheduled_time == now + timedelta(seconds=seconds)
    assert (await machine.reconcile()).name == "Nothing to do"


async def test_another_networks_job_of_the_same_name_does_not_count_for_ours(machine: Machine) -> None:
    """A validator chooses its jobs' names, and ours are public."""
    ours = await machine.job_run("namesake", Completed())
    machine.signed("namesake")
    theirs = await machine.client.create_flow_run(poc_job, name="namesake", parameters={"job_id": "namesake"})
    await machine.client.set_flow_run_state(theirs.id, Running(), force=True)
    await machine.reconcile()
    assert (await machine.state(ours)).name == "AwaitingRetry"
    assert (await machine.state(theirs.id)).name == "Running"


async def test_a_run_that_crashes_before_its_first_line_is_not_put_back_for_ever(machine: Machine) -> None:
    """Prefect counts only runs that began: a process that could not import its flow was started again and again."""
    run_id = await machine.job_run("never begins", Crashed())
    for _ in range(10):
        await machine.reconcile()
        assert (await machine.state(run_id)).name == "AwaitingRetry"
        await machine.client.set_flow_run_state(run_id, Crashed(), force=True)
    await machine.reconcile()
    assert (await machine.state(run_id)).name == "Quarantined"


async def test_the_runs_of_submissions_are_found_among_many(machine: Machine) -> None:
    """Beyond the newest two hundred runs they counted as lost, and a new one was made once and never again."""
    runs = [await machine.job_run(f"old {n}", Completed(), attempt=n) for n in (0, 1, 3)]
    for number in range(200):
        await machine.client.create_flow_run(cloudmesh_job, name=f"newer {number}", state=Completed())
    for number in (0, 1, 3):
        machine.signed(f"old {number}")
    await machine.reconcile()
    assert [(await machine.state(run)).name for run in runs] == ["AwaitingRetry"] * 3
    assert (await machine.reconcile()).name == "Nothing to do", "somebody will be at it"


async def test_a_settled_submission_is_left_alone(machine: Machine) -> None:
    run_id = await machine.job_run("settled", Completed())
    submission = machine.signed("settled")
    machine.outbox.mark(submission, Fate.landed)
    machine.outbox.settle(submission.job_key)
    assert (await machine.reconcile()).name == "Nothing to do"
    assert (await machine.state(run_id)).name == "Completed"


async def test_two_reconciliations_of_one_machine_at_once_put_a_run_back_once(machine: Machine) -> None:
    """Each worker of a machine begins with one: the second put back what the first one's worker had started already."""
    dead = await machine.job_run("dead for two", Running())
    machine.process_died(dead)
    states = await asyncio.gather(machine.reconcile(), machine.reconcile())
    assert sorted(state.name or "" for state in states) == ["Nothing to do", "Took up 1"]
    put_back = [state.name for state in await machine.client.read_flow_run_states(dead)].count("AwaitingRetry")
    assert put_back == 1


async def test_a_run_that_another_machine_has_put_back_meanwhile_is_left_to_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines find the same crashed run; the second put it back while it ran again already, and it ran twice."""
    found = reconcile_module._abandoned

    async def slow(client: PrefectClient, settings: Settings) -> Any:
        abandoned = await found(client, settings)
        await client.set_flow_run_state(crashed, Running(), force=True)
        return abandoned

    crashed, dead = await machine.job_run("crashed", Crashed()), await machine.job_run("dead", Running())
    machine.process_died(dead)
    monkeypatch.setattr(reconcile_module, "_abandoned", slow)
    assert (await machine.reconcile()).name == "Took up 1"
    assert (await machine.state(crashed)).type is StateType.RUNNING
    assert (await machine.state(dead)).name == "AwaitingRetry"


async def test_the_leases_of_dead_processes_are_forgotten_when_their_runs_have_ended(machine: Machine) -> None:
    """Every watch that was killed left a file for ever."""
    ended, crashed, going = (
        await machine.job_run("ended", Completed()),
        await machine.watch_run(Crashed()),
        await machine.job_run("going on", Running()),
    )
    lost = uuid4()
    for run_id in (ended, crashed, going, lost):
        machine.process_died(run_id)
    (machine.folder / "leases" / "no flow run.lease").write_text("{}")
    await machine.reconcile()  # puts back the one that was going on: its lease says that it ran here
    left = {path.stem for path in (machine.folder / "leases").iterdir()}
    assert left == {str(going), "no flow run"}


@needs_redis
async def test_what_another_machine_of_the_fleet_signed_and_nobody_follows_is_taken_up_by_one(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own outbox was on the machine that died: nobody else could know what it had sent."""
    run_id = await machine.job_run("orphaned", Completed(name="Cancelled"))
    machine.outbox = Outbox(tmp_path / "another machine" / "outbox")
    machine.signed("orphaned")
    with serving(tmp_path) as (url, _):
        other = Settings.model_validate({"data_dir": tmp_path / "another machine", "fleet_url": url})
        monkeypatch.setenv("MILLRACE_FLEET_URL", url)
        with open_outbox(other) as outbox:
            async with outbox.followers_turn() as ours:
                assert ours
                await machine.reconcile()
                assert (await machine.state(run_id)).name == "Cancelled", "the other is at it"
        await machine.reconcile()
        assert (await machine.state(run_id)).name == "AwaitingRetry"
