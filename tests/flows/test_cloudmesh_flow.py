"""The life of a CloudMesh job as a flow in this process, against the local chain and IPFS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unicodedata import category

import pytest
from prefect import State
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows import tasks
from flows.cloudmesh import cloudmesh_job
from flows.lease import Holder, holder_of
from flows.submit import confirm
from flows.watch import watch
from localnet.ipfs import Faults, IpfsLocalnet
from localnet.solana import SolanaLocalnet
from localnet.solana.client import JobPoster
from millrace.receipt import JobOutcome
from millrace.receipt_log import ReceiptLog
from millrace.text import printable
from protocols.ipfs.cid import CID
from protocols.solana.job_account import JobStatus
from protocols.solana.keypair import load_or_create_keypair
from stages.drain import DrainMark
from stages.execute.sandbox import missing_tools
from stages.progress import Progress
from stages.submit.outbox import Outbox

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.skipif(bool(missing_tools()), reason="needs bubblewrap, libseccomp and python3; install them"),
]


class World:
    """A chain, an IPFS and a worker's data folder."""

    def __init__(self, solana: SolanaLocalnet, ipfs: IpfsLocalnet, owner: JobPoster, folder: Path) -> None:
        self.solana, self.ipfs, self.owner, self.folder = solana, ipfs, owner, folder
        self.outbox = Outbox(folder / "outbox")
        self.receipts = ReceiptLog(folder / "receipts")

    def post(self, program: str, title: str = "a job") -> str:
        return self.owner.post(title, self.ipfs.add(program.encode()))

    def key(self, address: str) -> str:
        return f"cloudmesh/{self.solana.genesis_hash}/{address}"

    async def do(self, address: str) -> State[Any]:
        state: State[Any] = await cloudmesh_job(address, return_state=True)
        return state


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks.upload.task, "retry_delay_seconds", [0.0] * 5)
    worker, _ = load_or_create_keypair(tmp_path / "worker-keypair.json")
    with (
        SolanaLocalnet(slot_milliseconds=40) as solana,
        IpfsLocalnet(tmp_path / "ipfs") as ipfs,
        JobPoster(solana.url, solana.program_id) as owner,
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}),
    ):
        for address in (owner.address, str(worker.pubkey())):
            solana.chain.airdrop(address, 10**9)
        for name, value in {
            "SOLANA_RPC_URL": solana.url,
            "PROGRAM_ID": solana.program_id,
            "WORKER_KEYPAIR_PATH": str(tmp_path / "worker-keypair.json"),
            "MILLRACE_DATA_DIR": str(tmp_path),
            "MILLRACE_IPFS__GATEWAYS": ipfs.gateway_url,
            "MILLRACE_IPFS__ALLOW_PRIVATE_GATEWAYS": "true",
            "MILLRACE_IPFS__PINATA_API": ipfs.pinata_url,
            "PINATA_JWT": ipfs.pinata_jwt,
            "MILLRACE_LIMITS__WALL_SECONDS": "2",
        }.items():
            monkeypatch.setenv(name, value)
        yield World(solana, ipfs, owner, tmp_path)


async def test_a_job_is_done_and_its_receipt_says_everything(world: World) -> None:
    address = world.post("import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)")
    state = await world.do(address)
    assert state.name == "Settled"
    job = world.owner.job(address, "finalized")
    assert job is not None
    assert (job.status, job.cost_lamports) == (JobStatus.completed, 1_000_000)
    result = json.loads(world.ipfs.store.read(CID.parse(job.result_cid)))
    assert set(result) == {"stdout", "stderr", "returncode", "executed_at"}
    assert (result["stdout"], result["stderr"], result["returncode"]) == ("out\n", "err\n", 3)
    receipt = world.receipts.find(world.key(address))
    assert receipt is not None
    assert receipt.outcome is JobOutcome.settled
    assert receipt.result_cid == job.result_cid
    assert receipt.execution is not None
    assert (receipt.execution.status, receipt.execution.returncode) == ("exit", 3)
    assert (receipt.fee, receipt.price) == (5_000, 1_000_000)
    assert receipt.transaction_id in world.solana.chain.landed(address)
    evidence = json.loads(world.ipfs.store.read(CID.parse(receipt.evidence_cid)))
    assert evidence["job"] == world.key(address)
    assert world.outbox.unsettled() == []
    assert world.receipts.verify()[0] == 1


async def test_doing_a_done_job_again_changes_nothing(world: World) -> None:
    """An operator starts by hand what the watcher has started too."""
    address = world.post("print(1)")
    assert (await world.do(address)).name == "Settled"
    landed = world.solana.chain.landed(address)
    again = await world.do(address)
    assert again.name == "Settled"
    assert world.solana.chain.landed(address) == landed
    assert world.receipts.verify()[0] == 1


async def test_two_flow_runs_of_one_job_at_once_land_one_transaction(world: World) -> None:
    address = world.post("print(1)")
    states = await asyncio.gather(world.do(address), world.do(address))
    assert {state.name for state in states} == {"Settled"}
    assert len(world.solana.chain.landed(address)) == 2  # posted, completed
    assert world.receipts.verify()[0] == 1


async def test_a_job_that_somebody_else_completes_meanwhile_is_declined_after_the_run(world: World) -> None:
    address = world.post("import time\ntime.sleep(1.5)")
    running = asyncio.ensure_future(world.do(address))
    await asyncio.sleep(0.8)
    with JobPoster(world.solana.url, world.solana.program_id) as rival:
        await asyncio.to_thread(rival.fund)
        await asyncio.to_thread(rival.complete, address, world.ipfs.add(b"{}"), 7)
    state = await running
    assert state.name == "Declined"
    assert (state.message or "").startswith("closed: ")
    assert world.receipts.verify()[0] == 0


async def test_a_worker_without_money_declines_and_names_the_address_to_fund(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor, _ = load_or_create_keypair(world.folder / "poor.json")
    monkeypatch.setenv("WORKER_KEYPAIR_PATH", str(world.folder / "poor.json"))
    address = world.post("print(1)")
    state = await world.do(address)
    assert state.name == "Declined"
    assert (state.message or "").startswith("too_poor: ")
    assert str(poor.pubkey()) in (state.message or "")
    assert len(world.solana.chain.landed(address)) == 1  # posted


async def test_the_allow_list_holds_for_jobs_started_by_hand_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_CLOUDMESH__OWNERS", world.solana.program_id)
    address = world.post("print(1)")
    state = await world.do(address)
    assert state.name == "Declined"
    assert (state.message or "").startswith("not_allowed: ")
    assert len(world.solana.chain.landed(address)) == 1  # posted


async def test_a_key_that_a_node_repeats_does_not_end_in_the_history(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Providers put the key into the path, and some quote it in their errors."""
    key = "k3y-of-the-operator-0123456789"
    monkeypatch.setenv("SOLANA_RPC_URL", f"{world.solana.url}/v2/{key}")
    monkeypatch.setattr(tasks.admit.task, "retry_delay_seconds", [0.0] * 5)
    world.solana.chain.fail("*", times=1_000, kind="malformed")
    state = cast("State[Any]", await watch("cloudmesh", run_seconds=0, return_state=True))
    assert state.is_failed()
    assert key not in str(state.message)


async def test_without_a_sandbox_the_job_is_declined_and_never_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_SANDBOX__PYTHON", str(world.folder / "no-such-python"))
    address = world.post("print(1)")
    state = await world.do(address)
    assert state.name == "Declined"
    assert (state.message or "").startswith("no_sandbox: ")
    assert len(world.solana.chain.landed(address)) == 1  # posted


async def test_a_draining_machine_declines_a_new_job_and_does_it_afterwards(world: World) -> None:
    address = world.post("print(1)")
    DrainMark(world.folder).set()
    state = await world.do(address)
    assert state.name == "Declined"
    assert (state.message or "").startswith("draining: ")
    assert len(world.solana.chain.landed(address)) == 1  # posted
    DrainMark(world.folder).end()
    assert (await world.do(address)).name == "Settled"
    noted = Progress(world.folder).landing("cloudmesh")
    receipt = world.receipts.find(world.key(address))
    assert noted is not None
    assert receipt is not None
    assert noted.transaction_id == receipt.transaction_id


async def test_a_draining_machine_follows_what_was_signed_to_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the send, in the middle of a drain: declined, its transaction would never be looked at again."""
    address = world.post("print(1)")
    for stage in (confirm, tasks.settle):
        monkeypatch.setattr(stage.task, "retries", 0)
    monkeypatch.setenv("MILLRACE_CONFIRM_SECONDS", "0.01")  # no time to see that it is final
    assert (await world.do(address)).is_failed()
    assert len(world.outbox.unsettled()) == 1
    DrainMark(world.folder).set()
    monkeypatch.setenv("MILLRACE_CONFIRM_SECONDS", "60")
    assert (await world.do(address)).name == "Settled"
    assert world.outbox.unsettled() == []


async def test_a_watch_of_a_draining_machine_looks_at_nothing_and_says_so(world: World) -> None:
    DrainMark(world.folder).set()
    world.solana.chain.fail("*", times=1_000, kind="malformed")
    state = cast("State[Any]", await watch("cloudmesh", run_seconds=0, return_state=True))
    assert (state.name, state.is_completed()) == ("Draining", True)


async def test_a_failed_look_is_noted_for_whoever_asks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.admit.task, "retry_delay_seconds", [0.0] * 5)
    world.solana.chain.fail("*", times=1_000, kind="malformed")
    await watch("cloudmesh", run_seconds=0, return_state=True)
    looks = Progress(world.folder).looks("cloudmesh")
    assert looks is not None
    assert looks.looked_at is None
    assert looks.trouble


async def test_without_an_upload_there_is_no_submission(world: World) -> None:
    """The public worker invented a CID when Pinata failed, and lost the result for ever."""
    world.ipfs.misbehave("pinata", Faults(status=500))
    address = world.post("print(1)")
    state = await world.do(address)
    assert state.is_failed()
    assert "upload" in (state.message or "")
    assert len(world.solana.chain.landed(address)) == 1  # posted
    world.ipfs.misbehave("pinata")
    assert (await world.do(address)).name == "Settled"


async def test_a_running_flow_holds_its_lease_and_leaves_none(world: World) -> None:
    address = world.post("import time\ntime.sleep(1)")
    running = asyncio.ensure_future(world.do(address))
    leases = world.folder / "leases"
    async with asyncio.timeout(20):
        while not list(leases.glob("*.lease")):  # noqa: ASYNC110 - a file appears; nobody sets an event
            await asyncio.sleep(0.02)
    (lease,) = leases.glob("*.lease")
    assert holder_of(leases, lease.stem) is Holder.alive
    assert (await running).name == "Settled"
    assert list(leases.iterdir()) == []


async def test_the_token_of_pinata_is_nowhere_in_the_history(world: World) -> None:
    address = world.post("print(1)")
    await world.do(address)
    async with get_client() as client:
        told = [run.model_dump_json() for run in await client.read_flow_runs()]
        told += [run.model_dump_json() for run in await client.read_task_runs()]
        told += [artifact.model_dump_json() for artifact in await client.read_artifacts()]
        told += [log.message for log in await client.read_logs(limit=200)]
    kept = [path.read_bytes() for path in world.folder.rglob("*") if path.is_file()]
    assert any(address in text for text in told)
    secret = world.ipfs.pinata_jwt
    assert not [text for text in told if secret in text]
    assert not [content for content in kept if secret.encode() in content]


NASTY = "\x1b[2J\u202e<b>[red]\r`|x"


@pytest.mark.parametrize("where", ["title and output", "code CID", "address"])
async def test_nothing_of_a_stranger_in_the_history_is_obeyed_by_a_terminal(world: World, where: str) -> None:
    """escaped_output, from the chain to what Prefect's API tells its UI and its command line."""
    if where == "address":
        address = f"../../{NASTY}\n{world.folder.name}"
    elif where == "code CID":
        address = world.owner.post("a job", NASTY)
    else:
        address = world.post(f"import sys\nprint({NASTY!r})\nsys.exit({NASTY!r})", title=NASTY)
    state = await world.do(address)
    assert state.name == ("Settled" if where == "title and output" else "Failed")
    shown = printable(address, 200)
    async with get_client() as client:
        (run,) = [run for run in await client.read_flow_runs() if run.name == shown]
        told = [run.name, run.state.message if run.state else ""]
        for task_run in await client.read_task_runs():
            if task_run.flow_run_id == run.id:
                told += [task_run.name, task_run.state.message if task_run.state else ""]
        for artifact in await client.read_artifacts():
            if artifact.flow_run_id == run.id:
                told += [artifact.key, artifact.description, str(artifact.data)]
        told += [log.message for log in await client.read_logs(limit=200) if log.flow_run_id == run.id]
    controls = [text for text in told if text and any(category(c) in {"Cc", "Cf"} for c in text.replace("\n", ""))]
    assert len(told) >= 4
    assert not controls
