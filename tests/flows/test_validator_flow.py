"""Jobs that a PoC validator pushes: the link's flow run, and the life of each job, with a real server of Prefect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from endless_end import end_by_sigterm, until_it_listens
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.states import Cancelled

from flows import tasks
from flows.validator import poc_job, validator
from localnet.ipfs import Faults, IpfsLocalnet
from localnet.validator import ValidatorLocalnet
from millrace.receipt import JobOutcome
from millrace.receipt_log import ReceiptLog
from millrace.settings import load_settings
from protocols.computechain.keystore import Keystore
from protocols.ipfs.cid import CID
from protocols.validator.link import validator_label
from stages.discover.validator import Inbox
from stages.discover.validator_opening import folder_of
from stages.execute.matmul.challenge import Challenge
from stages.execute.matmul.verify import verify_bundle

pytestmark = pytest.mark.usefixtures("no_history_left")

TOKEN = "a-token-of-the-test"
PAYLOAD = {"kind": "matmul-i32-v1", "block_hash": "ab" * 32, "n": 32}


class World:
    """A validator, an IPFS and a worker's data folder."""

    def __init__(self, peer: ValidatorLocalnet, ipfs: IpfsLocalnet, folder: Path, address: str) -> None:
        self.peer, self.ipfs, self.address = peer, ipfs, address
        self.receipts = ReceiptLog(folder / "receipts")
        self.inbox = Inbox(folder_of(load_settings()) / "inbox")
        self.ended: State[Any] | None = None

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[None]:
        """The link's flow run is at work inside, and is ended as a stopping worker ends it."""
        run = asyncio.ensure_future(validator(return_state=True))
        await until_it_listens(run)
        try:
            await asyncio.to_thread(self.peer.desk.wait, lambda: self.peer.desk.connections, 30)
            yield
        finally:
            self.ended = cast("State[Any]", await end_by_sigterm(run))

    async def do(self, job_id: str) -> State[Any]:
        """Do the job, once it has come."""
        for _ in range(1_000):
            if self.inbox.find(job_id) is not None:
                break
            await asyncio.sleep(0.01)
        return cast("State[Any]", await poc_job(job_id, return_state=True))

    async def answer(self, job_id: str) -> dict[str, Any]:
        return await asyncio.to_thread(self.peer.answer, job_id)

    def key(self, job_id: str) -> str:
        return f"validator/{validator_label(self.peer.url)}/{job_id}"


async def job_runs() -> list[FlowRun]:
    async with get_client() as client:
        return await client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["poc-job"])))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    for stage in (tasks.admit_poc, tasks.publish, tasks.answer):
        monkeypatch.setattr(stage.task, "retry_delay_seconds", [0.0] * 5)
    address = Keystore(tmp_path / "keys").add("worker").address
    with (
        ValidatorLocalnet(token=TOKEN) as peer,
        IpfsLocalnet(tmp_path / "ipfs") as ipfs,
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}),
    ):
        for name, value in {
            "MILLRACE_DATA_DIR": str(tmp_path),
            "MILLRACE_VALIDATOR__URL": peer.url,
            "MILLRACE_VALIDATOR__TOKEN": TOKEN,
            "MILLRACE_COMPUTECHAIN__KEYSTORE": str(tmp_path / "keys"),
            "MILLRACE_COMPUTECHAIN__KEY_NAME": "worker",
            "MILLRACE_COMPUTECHAIN__DEVICE": "cpu",
            "MILLRACE_IPFS__GATEWAYS": ipfs.gateway_url,
            "MILLRACE_IPFS__ALLOW_PRIVATE_GATEWAYS": "true",
            "MILLRACE_IPFS__PINATA_API": ipfs.pinata_url,
            "MILLRACE_IPFS__PINATA_JWT": ipfs.pinata_jwt,
        }.items():
            monkeypatch.setenv(name, value)
        yield World(peer, ipfs, tmp_path, address)


@pytest_asyncio.fixture
async def deployed(prefect_server: None) -> None:
    """The deployment of the job's flow, without a worker: its flow runs wait."""
    async with get_client() as client:
        await client.create_deployment(await client.create_flow(poc_job), "gpu")


@pytest.mark.usefixtures("deployed")
async def test_a_pushed_job_is_solved_and_answered_with_a_bundle_that_anybody_can_check(world: World) -> None:
    async with world.linked():
        world.peer.push("job-1", PAYLOAD)
        state = await world.do("job-1")
        assert state.name == "Answered", state.message
        answer = await world.answer("job-1")
    assert world.ended is not None
    assert (world.ended.name, world.ended.is_completed()) == ("Took 1", True)
    assert (answer["type"], answer["worker_address"]) == ("job_result", world.address)
    proof = json.loads(answer["proof"])
    bundle = world.ipfs.store.read(CID.parse(proof["bundle"])).decode()
    challenge = Challenge(block_hash="ab" * 32, worker_address=world.address, n=32)
    assert verify_bundle(challenge, answer["result_hash"], bundle).valid
    receipt = world.receipts.find(world.key("job-1"))
    assert receipt is not None
    assert (receipt.outcome, receipt.transaction_id) == (JobOutcome.answered, "")
    assert receipt.solved is not None
    assert (receipt.solved.root, receipt.solved.block_height) == (answer["result_hash"], None)
    assert world.inbox.open() == []


@pytest.mark.usefixtures("deployed")
async def test_each_job_gets_one_flow_run_whoever_looks_how_often(world: World) -> None:
    for _ in range(2):
        world.peer.push("job-1", PAYLOAD)
        world.peer.push("job-2", PAYLOAD)
        async with world.linked():
            for _ in range(600):
                if len(await job_runs()) == 2:
                    break
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.5)  # another look
    runs = await job_runs()
    assert sorted(str(run.parameters["job_id"]) for run in runs) == ["job-1", "job-2"]
    assert {run.idempotency_key for run in runs} == {f"{world.key('job-1')}#1", f"{world.key('job-2')}#1"}


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize(
    ("payload", "state", "reason", "told"),
    [
        ({"kind": "zk-proof"}, "Declined", "unsupported", "'zk-proof'"),
        ({"kind": "z" * 60_000}, "Declined", "unsupported", "(60000 characters)"),
        ({}, "Declined", "unsupported", "names no kind"),
        ({**PAYLOAD, "n": 60_000}, "Declined", "too_big", "60000 is more than"),
        ({**PAYLOAD, "n": "32"}, "Failed", "malformed", "n: "),
        ({**PAYLOAD, "block_hash": "zz"}, "Failed", "malformed", "block_hash: "),
    ],
)
async def test_what_cannot_be_done_is_refused_with_the_reason(
    world: World, payload: dict[str, object], state: str, reason: str, told: str
) -> None:
    async with world.linked():
        world.peer.push("job-1", payload)
        assert (await world.do("job-1")).name == state
        refusal = await world.answer("job-1")
    assert (refusal["type"], refusal["reason"]) == ("job_refused", reason)
    assert told in refusal["message"]
    assert world.receipts.find(world.key("job-1")) is None


@pytest.mark.usefixtures("deployed")
async def test_a_job_whose_upload_fails_is_not_refused_and_done_later(world: World) -> None:
    world.ipfs.misbehave("pinata", Faults(status=500))
    async with world.linked():
        world.peer.push("job-1", PAYLOAD)
        assert (await world.do("job-1")).is_failed()
        assert world.peer.desk.answers_to("job-1") == []
        world.ipfs.misbehave("pinata")
        assert (await world.do("job-1")).name == "Answered"
        assert (await world.answer("job-1"))["type"] == "job_result"


@pytest.mark.usefixtures("deployed")
async def test_an_answered_job_is_closed_and_answered_once(world: World) -> None:
    async with world.linked():
        world.peer.push("job-1", PAYLOAD)
        assert (await world.do("job-1")).name == "Answered"
        await world.answer("job-1")
        again = cast("State[Any]", await poc_job("job-1", return_state=True))
        assert (again.name, (again.message or "").partition(":")[0]) == ("Declined", "closed")
    assert len(world.peer.desk.answers_to("job-1")) == 1
    assert world.receipts.verify()[0] == 1


@pytest.mark.usefixtures("deployed")
async def test_a_job_whose_flow_run_a_person_cancelled_is_refused_at_once(world: World) -> None:
    async with world.linked():
        world.peer.push("job-1", PAYLOAD)
        for _ in range(600):
            if runs := await job_runs():
                break
            await asyncio.sleep(0.05)
        async with get_client() as client:
            await client.set_flow_run_state(runs[0].id, Cancelled(message="not this one"), force=True)
        refusal = await world.answer("job-1")
    assert (refusal["type"], refusal["reason"]) == ("job_refused", "failed")
    assert "not this one" in refusal["message"]


async def test_a_job_that_never_came_fails_and_says_so(world: World) -> None:
    state = cast("State[Any]", await poc_job("never", return_state=True))
    assert state.is_failed()
    assert "no job never came from the validator" in (state.message or "")


@pytest.mark.usefixtures("deployed")
async def test_a_wrong_token_fails_the_links_flow_run_and_names_the_setting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_VALIDATOR__TOKEN", "wrong-token-of-the-test")
    state = cast("State[Any]", await validator(return_state=True))
    assert state.is_failed()
    assert "MILLRACE_VALIDATOR__TOKEN" in (state.message or "")
    assert "wrong-token" not in (state.message or "")


async def test_without_a_validator_in_the_settings_nothing_is_done(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILLRACE_VALIDATOR__URL", raising=False)
    state = cast("State[Any]", await validator(return_state=True))
    assert (state.name, state.is_completed()) == ("Not configured", True)
    assert "MILLRACE_VALIDATOR__URL" in (state.message or "")


@pytest.mark.usefixtures("deployed")
async def test_the_link_makes_room_after_its_time(world: World) -> None:
    state = cast("State[Any]", await validator(0.2, return_state=True))
    assert (state.name, state.is_completed()) == ("Took 0", True)
