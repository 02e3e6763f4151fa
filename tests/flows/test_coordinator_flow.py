"""Requests that a coordinator hands out, in both of its APIs: taken, answered on the chain, and told once."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from coordinator_world import RUST, Office, job_runs, office_of, until, until_async
from offchainvm_world import ECHO, TRAP, offchainvm_world
from prefect import State
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Completed

from flows.coordinator import coordinator
from flows.draining import unfinished
from flows.offchainvm import offchainvm_job
from flows.reconcile import reconcile
from flows.watch import watch
from localnet.coordinator.jobs import checksum_of
from localnet.near import Dialect
from millrace.settings import load_settings
from stages.drain import DrainMark
from stages.progress import Progress

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.usefixtures("no_history_left")]

needs_builder = pytest.mark.skipif(
    not os.environ.get("TEST_BUILDER_IMAGE"),
    reason="needs a builder, as root: export DOCKER_HOST=$(.ci/docker start)"
    " TEST_BUILDER_IMAGE=$(deployments/images/wasm-builder/from-debian)",
)
BOTH = pytest.mark.parametrize("office", list(Dialect), indirect=True)


@pytest.fixture(params=[Dialect.head])
def office(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    with offchainvm_world(request.param, tmp_path, monkeypatch) as world, office_of(world, monkeypatch) as office:
        yield office


@pytest_asyncio.fixture
async def deployed(prefect_server: None) -> None:
    """The deployment of the job's flow, without a worker: its flow runs wait."""
    async with get_client() as client:
        await client.create_deployment(await client.create_flow(offchainvm_job), "docker")


async def do(job_id: str) -> State[Any]:
    state: State[Any] = await offchainvm_job(job_id, return_state=True)
    return state


@BOTH
@pytest.mark.usefixtures("deployed")
async def test_what_is_handed_out_is_answered_on_the_chain_and_told(office: Office) -> None:
    job_id = office.hand_out(office.repository(ECHO), input_data="the mill turns")
    early = office.world.net.dialect is Dialect.early
    async with office.asking() as ended:
        await office.taken(job_id)
        state = await do(job_id)
        assert state.name == "Settled", state.message
        (told,) = await office.told("tasks_complete" if early else "jobs_complete")
    assert (ended[0].name, ended[0].is_completed()) == ("Took 1", True)
    assert json.loads(base64.b64decode(office.world.answered()["SuccessValue"])) == "the mill turns"
    assert told["success"] is True
    receipt = office.receipt(job_id)
    assert receipt.execution is not None
    assert told["instructions"] == receipt.execution.instructions
    assert told["output"] == (list(b"the mill turns") if early else {"Text": "the mill turns"})
    evidence = json.loads(office.world.read(receipt.evidence_cid))
    assert evidence["module"]["build"]["origin"] == f"the coordinator at {office.url}"
    assert office.desk.open() == []
    assert office.world.outbox.unsettled() == []


@BOTH
@pytest.mark.usefixtures("deployed")
async def test_a_draining_machine_asks_for_nothing_and_does_what_it_took(office: Office) -> None:
    """What a coordinator hands out is lost for everybody else: declined for the drain, nobody would ever do it."""
    job_id = office.hand_out(office.repository(ECHO), input_data="the mill turns")
    early = office.world.net.dialect is Dialect.early
    office.take()
    later = office.hand_out(office.repository(ECHO), input_data="later")
    DrainMark(load_settings().data_dir).set()
    async with office.asking() as ended:
        state = await do(job_id)
        assert state.name == "Settled", state.message
        await office.told("tasks_complete" if early else "jobs_complete")
    assert ended[0].name == "Took 0"
    assert office.desk.find(later) is None
    assert unfinished(load_settings()) == []
    DrainMark(load_settings().data_dir).end()
    async with office.asking() as ended:
        await office.taken(later)
    looks = Progress(load_settings().data_dir).looks("coordinator")
    assert looks is not None
    assert (looks.looked_at is not None, looks.trouble) == (True, "")


@pytest.mark.usefixtures("deployed")
async def test_a_drained_machine_asks_no_more_until_the_draining_ends(office: Office) -> None:
    """It had nothing to do and went on for a day, and `millrace drain` waited for it: it was never empty."""
    settings = load_settings()
    async with office.asking() as ended:
        assert unfinished(settings) != [], "it may be asking, and what it gets then is work"
        DrainMark(settings.data_dir).set()
        await until(lambda: unfinished(settings) == [])
    assert ended[0].name == "Took 0"
    assert (await coordinator(return_state=True)).name == "Draining"


@BOTH
async def test_a_program_that_fails_is_answered_and_told_with_why(office: Office) -> None:
    job_id = office.hand_out(office.repository(TRAP))
    early = office.world.net.dialect is Dialect.early
    office.take()
    assert (await do(job_id)).name == "Settled"
    (told,) = await office.told("tasks_complete" if early else "jobs_complete")
    assert (told["success"], told["error"].startswith("unreachable")) == (False, True)
    assert early or told["error_category"] == "execution_failed"
    assert office.world.resolutions() == 1


@BOTH
async def test_what_cannot_be_had_is_answered_on_the_chain_as_well(office: Office) -> None:
    """EARLY's public worker tells its coordinator and leaves the request to time out."""
    source = {**office.repository(ECHO), "commit": "e" * 40}
    if office.world.net.dialect is Dialect.head:
        office.board.put_wasm(checksum_of({"type": "GitHub", **source}) or "", "0061736d01000000")
    job_id = office.hand_out(source)
    office.take()
    state = await do(job_id)
    assert state.name == "Settled", state.message
    assert office.world.resolutions() == 1
    call = "tasks_fail" if office.world.net.dialect is Dialect.early else "jobs_complete"
    (told,) = await office.told(call)
    assert "does not have this commit" in told["error"]
    assert told.get("error_category", "compilation_failed") == "compilation_failed"


async def test_a_compilation_that_another_worker_failed_at_is_answered_with_its_words(office: Office) -> None:
    source = office.repository(ECHO)
    job_id = office.hand_out_execution({"GitHub": {**source, "commit": "f" * 40}})
    compiler = office.other_worker_claims("compilation")
    office.other_worker_tells(compiler["job_id"], success=False, error="error: no such crate")
    office.take()
    assert (await do(job_id)).name == "Settled"
    assert office.receipt(job_id).execution is None
    *_, told = await office.told("jobs_complete")
    assert (told["error"], told["error_category"]) == ("error: no such crate", "compilation_failed")
    assert base64.b64decode(office.world.answered()["SuccessValue"]) == b"null"


async def test_a_request_that_only_wants_its_module_is_answered_with_what_the_compiler_told(office: Office) -> None:
    more = {"compile_result": "module-of-the-fleet", "compile_only": True}
    job_id = office.hand_out_execution(office.module(ECHO), more, params={"compile_only": True})
    office.take()
    # The local coordinator gives nobody the execution of such a request; the public one does.
    office.claim(job_id, "execute")
    state = await do(job_id)
    assert state.name == "Settled", state.message
    assert json.loads(base64.b64decode(office.world.answered()["SuccessValue"])) == "module-of-the-fleet"


async def test_a_request_over_https_is_declined_and_told_why(office: Office) -> None:
    job_id = office.hand_out_execution(office.module(ECHO), {"is_https_call": True, "call_id": "c-1"})
    office.take()
    state = await do(job_id)
    assert (state.name, (state.message or "").partition(":")[0]) == ("Declined", "unsupported")
    (told,) = await office.told("jobs_complete")
    assert (told["success"], told["error"]) == (False, "the request came over HTTPS: no contract waits for its answer")
    assert office.desk.open() == []


async def test_a_request_that_we_do_not_serve_is_told_as_denied(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_NEAR__SENDERS", "somebody.else")
    job_id = office.hand_out_execution(office.module(ECHO))
    office.take()
    assert (await do(job_id)).name == "Declined"
    (told,) = await office.told("jobs_complete")
    assert told["error_category"] == "access_denied"


async def test_a_job_that_another_worker_claimed_is_left_to_it(office: Office) -> None:
    job_id = office.hand_out_execution(office.module(ECHO))
    office.take()
    office.other_worker_claims("execution")
    assert (await do(job_id)).name == "Not ours"
    assert office.world.resolutions() == 0
    assert office.desk.open() == []


async def test_a_job_whose_claims_answer_was_lost_is_done_all_the_same(office: Office) -> None:
    """The coordinator has it as ours and will give it to nobody else."""
    job_id = office.hand_out_execution(office.module(ECHO), input_data="claimed")
    office.take()
    office.board.fail("jobs_claim", kind="lost_reply")
    assert (await do(job_id)).name == "Settled"
    assert json.loads(base64.b64decode(office.world.answered()["SuccessValue"])) == "claimed"
    assert office.desk.reports.waiting() == []


async def test_sessions_are_opened_where_executions_want_one(office: Office) -> None:
    office.board.require_sessions([office.world.net.operator.public_key])
    job_id = office.hand_out_execution(office.module(ECHO))
    office.take()
    assert (await do(job_id)).name == "Settled"
    assert [job["state"] for job in office.board.job_states()] == ["in_progress"]
    await office.told("jobs_complete")
    assert [job["state"] for job in office.board.job_states()] == ["completed"]


@pytest.mark.parametrize("office", [Dialect.early], indirect=True)
async def test_a_task_that_was_created_twice_is_done_and_told_once(office: Office) -> None:
    source = office.repository(ECHO)
    job_id = office.hand_out(source)
    office.take()
    assert (await do(job_id)).name == "Settled"
    office.board.create_task(office.tasks[job_id])
    office.take()
    assert office.desk.open() == []
    assert (await do(job_id)).name == "Told"
    assert len(await office.told("tasks_complete")) == 1
    assert office.world.resolutions() == 1


async def test_a_job_that_nobody_handed_out_fails_and_says_so(office: Office) -> None:
    state = await do(f"1-{'ab' * 32}")
    assert state.is_failed()
    assert "no coordinator handed" in (state.message or "")


@BOTH
async def test_a_worker_killed_between_the_answer_and_the_word_on_it_tells_it_once(office: Office) -> None:
    job_id = office.hand_out(office.repository(ECHO), input_data="once")
    office.take()
    assert await office.killed_at("Desk.end", job_id)
    assert office.world.resolutions() == 1
    assert len(office.desk.open()) == 1
    assert (await do(job_id)).name == "Settled"
    early = office.world.net.dialect is Dialect.early
    assert len(await office.told("tasks_complete" if early else "jobs_complete")) == 1
    assert office.world.resolutions() == 1
    assert office.world.receipts.verify()[0] == 1


@BOTH
@pytest.mark.usefixtures("deployed")
async def test_what_was_taken_by_a_killed_worker_is_begun_by_the_next(office: Office) -> None:
    job_id = office.hand_out(office.repository(ECHO))
    assert await office.killed_at("take", job_id)
    assert [handed.job_id for handed in office.desk.open()] == [job_id]
    async with office.asking() as ended:
        await until_async(lambda: has_run(job_id))
    assert ended[0].name == "Took 0"
    assert (await do(job_id)).name == "Settled"


@pytest.mark.usefixtures("deployed")
async def test_without_room_nothing_is_asked_for(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll pops for good: what is popped and cannot be done is lost."""
    monkeypatch.setenv("MILLRACE_MAX_IN_FLIGHT", "1")
    first = office.hand_out_execution(office.module(ECHO))
    second = office.hand_out_execution(office.module(ECHO))
    async with office.asking() as ended:
        await office.taken(first)
        await until_async(lambda: has_run(first))
        polls = office.board.calls["executions_poll"]
        await asyncio.sleep(2.5)
        assert office.board.calls["executions_poll"] == polls
        assert office.desk.find(second) is None
    assert ended[0].name == "Took 1"
    assert office.board.queue_lengths()["execute"] == 1
    assert office.board.heartbeats().popitem()[1]["status"] == "offline"


@pytest.mark.usefixtures("deployed")
async def test_with_a_full_disk_nothing_is_asked_for(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was popped could not be kept, and was lost for every worker."""
    monkeypatch.setattr("stages.discover.coordinator._LEAST_FREE_BYTES", 1 << 62)
    job_id = office.hand_out_execution(office.module(ECHO))
    async with office.asking() as ended:
        await asyncio.sleep(1.5)
    assert ended[0].name == "Took 0"
    assert office.board.calls["executions_poll"] == 0
    assert office.desk.find(job_id) is None


@pytest.mark.usefixtures("deployed")
async def test_a_job_whose_flow_run_a_person_cancelled_is_told_as_failed(office: Office) -> None:
    job_id = office.hand_out_execution(office.module(ECHO))
    office.take()
    office.claim(job_id, "execute")
    async with office.asking():
        await until_async(lambda: has_run(job_id))
        async with get_client() as client:
            (run,) = await job_runs()
            await client.set_flow_run_state(run.id, Cancelled(message="not this one"), force=True)
        (told,) = await office.told("jobs_complete")
    assert "not this one" in told["error"]
    assert office.desk.open() == []


@pytest.mark.parametrize("place", ["confirm", "Desk.end"])
@pytest.mark.usefixtures("deployed")
async def test_a_job_that_is_given_up_with_its_answer_signed_is_told_by_what_became_of_that(
    office: Office, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """It was told as failed, and the answer landed; or had landed, and its flow run was killed before it told."""
    job_id = office.hand_out_execution(office.module(ECHO))
    office.take()
    office.claim(job_id, "execute")
    assert await office.killed_at(place, job_id)
    assert len(office.world.outbox.unsettled()) == (place == "confirm")
    async with office.asking():
        await until_async(has_two_runs)  # the killed one, and that which the coordinator's flow starts
        async with get_client() as client:
            for run in await job_runs():
                await client.set_flow_run_state(run.id, Cancelled(message="not this one"), force=True)
        await until(lambda: "its answer may yet land" in caplog.text)
        assert [handed.job_id for handed in office.desk.open()] == [job_id]
        assert (await reconcile(return_state=True)).name == "Took up 1"
        (again,) = [run for run in await job_runs() if run.state_name != "Cancelled"]
        assert again.deployment_id is not None, "a worker takes it"
        assert (await do(job_id)).name == "Settled", "as that flow run does"
        (told,) = await office.told("jobs_complete")
    assert told["success"] is True
    assert office.desk.open() == []
    assert office.world.resolutions() == 1
    async with get_client() as client:
        await client.set_flow_run_state(again.id, Completed(name="Told"), force=True)
    assert (await reconcile(return_state=True)).name == "Nothing to do"


@pytest.mark.usefixtures("deployed")
async def test_a_job_that_is_given_up_is_not_told_while_the_outbox_cannot_be_asked(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    """And work is asked for all the same."""
    job_id = office.hand_out_execution(office.module(ECHO))
    office.take()
    office.claim(job_id, "execute")
    assert await office.killed_at("confirm", job_id)
    (record,) = (office.world.folder / "outbox").glob("*.json")
    whole = record.read_bytes()
    record.write_bytes(b"{")
    async with office.asking() as ended:
        await until_async(has_two_runs)
        async with get_client() as client:
            for run in await job_runs():
                await client.set_flow_run_state(run.id, Cancelled(message="not this one"), force=True)
        await until(lambda: "cannot be read" in caplog.text)
        another = office.hand_out_execution(office.module(ECHO))
        await office.taken(another)
    assert ended[0].name == "Took 1"
    assert {handed.job_id for handed in office.desk.open()} == {job_id, another}
    record.write_bytes(whole)


@BOTH
@pytest.mark.usefixtures("deployed")
async def test_a_wrong_token_fails_the_flow_run_and_names_the_setting(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_AUTH_TOKEN", "wrong-token-of-the-test")
    state: State[Any] = await coordinator(return_state=True)
    assert state.is_failed()
    assert "MILLRACE_COORDINATOR__TOKEN" in (state.message or "")
    assert "wrong-token" not in (state.message or "")


async def test_without_a_coordinator_nothing_is_done(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    state: State[Any] = await coordinator(return_state=True)
    assert (state.name, "API_BASE_URL" in (state.message or "")) == ("Not configured", True)


async def test_with_a_coordinator_the_chain_is_not_watched(office: Office) -> None:
    state: State[Any] = await watch("offchainvm", 0.0, return_state=True)
    assert state.name == "Handed out"
    assert office.url in (state.message or "")


@needs_builder
async def test_one_worker_compiles_and_another_executes_what_it_built(
    office: Office, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repository = office.world.git.repository("alice/tool")
    commit = repository.commit(RUST)
    source = {
        "repo": office.world.git.url_of(repository),
        "commit": commit,
        "build_target": "wasm32-unknown-unknown",
    }
    job_id = office.hand_out_execution({"GitHub": source})
    office.take()
    assert (await do(job_id)).name == "Compiled"
    (compiled,) = await office.told("jobs_complete")
    assert (compiled["success"], compiled["wasm_checksum"]) == (True, checksum_of({"type": "GitHub", **source}))
    assert office.board.held_locks() == {}
    with office.second_worker(monkeypatch, tmp_path / "second"):
        office.take()
        state = await do(job_id)
        assert state.name == "Settled", state.message
        *_, told = await office.told("jobs_complete", 2)
        assert told["output"] == {"Text": "mill"}
    assert json.loads(base64.b64decode(office.world.answered()["SuccessValue"])) == "mill"
    assert [job["state"] for job in office.board.job_states()] == ["completed", "completed"]


@needs_builder
async def test_a_worker_compiles_and_then_executes_as_two_pieces_of_work(office: Office) -> None:
    repository = office.world.git.repository("alice/tool")
    source = {
        "repo": office.world.git.url_of(repository),
        "commit": repository.commit(RUST),
        "build_target": "wasm32-unknown-unknown",
    }
    job_id = office.hand_out_execution({"GitHub": source})
    office.take()
    assert (await do(job_id)).name == "Compiled"
    await office.told("jobs_complete")
    office.take()
    assert [handed.times for handed in office.desk.open()] == [1]
    assert (await do(job_id)).name == "Settled"
    await office.told("jobs_complete", 2)
    assert office.world.resolutions() == 1


@needs_builder
async def test_a_repository_that_does_not_compile_is_told_and_then_answered(office: Office) -> None:
    repository = office.world.git.repository("alice/tool")
    commit = repository.commit({**RUST, "src/lib.rs": b"fn broken( {"})
    job_id = office.hand_out_execution({"GitHub": {"repo": office.world.git.url_of(repository), "commit": commit}})
    office.take()
    assert (await do(job_id)).name == "Not compiled"
    (told,) = await office.told("jobs_complete")
    assert told["error_category"] == "compilation_failed"
    assert "unclosed delimiter" in told["error"]
    office.take()
    assert (await do(job_id)).name == "Settled"
    assert base64.b64decode(office.world.answered()["SuccessValue"]) == b"null"


async def has_two_runs() -> bool:
    return len(await job_runs()) == 2


async def has_run(job_id: str) -> bool:
    return job_id in [str(run.parameters["job_id"]) for run in await job_runs()]
