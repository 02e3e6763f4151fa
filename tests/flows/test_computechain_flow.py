"""The life of a ComputeChain job as a flow in this process, against the local chain and IPFS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from redis_server import needs_redis, serving

from flows import tasks
from flows.adhoc import solve_by_hand
from flows.computechain import computechain_job
from flows.watch import watch
from localnet.computechain import ComputeChainLocalnet
from localnet.ipfs import Faults, IpfsLocalnet
from millrace.network import Result
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from millrace.settings import load_settings
from protocols.computechain.keystore import Keystore
from protocols.ipfs.cid import CID
from stages.execute.matmul.solution import Solution
from stages.submit.computechain_inclusion import included_result
from stages.submit.computechain_opening import open_network
from stages.submit.outbox import Outbox
from stages.submit.outbox_opening import open_outbox
from stages.submit.sign import sign_submission

pytestmark = pytest.mark.usefixtures("no_history_left")

FEE_WEI = 80_000_000


class World:
    """A chain, an IPFS and a worker's data folder."""

    def __init__(self, net: ComputeChainLocalnet, ipfs: IpfsLocalnet, folder: Path, address: str) -> None:
        self.net, self.chain, self.ipfs, self.folder, self.address = net, net.chain, ipfs, folder, address
        self.outbox = Outbox(folder / "outbox")
        self.receipts = ReceiptLog(folder / "receipts")

    def newest_job_id(self) -> str:
        block = self.chain.block(self.chain.height())
        assert block is not None
        return f"{block.header.height}-{block.header.hash}"

    async def do(self, job_id: str) -> State[Any]:
        state: State[Any] = await computechain_job(job_id, return_state=True)
        return state

    def receipt(self, job_id: str) -> Receipt | None:
        return self.receipts.find(f"computechain/{self.net.chain_id}/{job_id}")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    for stage in (tasks.admit_challenge, tasks.publish, tasks.settle):
        monkeypatch.setattr(stage.task, "retry_delay_seconds", [0.0] * 5)
    address = Keystore(tmp_path / "keys").add("worker").address
    with (
        ComputeChainLocalnet(block_seconds=0.3) as net,
        IpfsLocalnet(tmp_path / "ipfs") as ipfs,
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}),
    ):
        net.chain.fund(address, 10**18)
        for name, value in {
            "MILLRACE_COMPUTECHAIN__RPC_URLS": net.url,
            "MILLRACE_COMPUTECHAIN__CHAIN_ID": net.chain_id,
            "MILLRACE_COMPUTECHAIN__KEYSTORE": str(tmp_path / "keys"),
            "MILLRACE_COMPUTECHAIN__KEY_NAME": "worker",
            "MILLRACE_COMPUTECHAIN__SIZE": "64",
            "MILLRACE_COMPUTECHAIN__DEVICE": "cpu",
            "MILLRACE_COMPUTECHAIN__CONFIRMATIONS": "2",
            "MILLRACE_DATA_DIR": str(tmp_path),
            "MILLRACE_IPFS__GATEWAYS": ipfs.gateway_url,
            "MILLRACE_IPFS__ALLOW_PRIVATE_GATEWAYS": "true",
            "MILLRACE_IPFS__PINATA_API": ipfs.pinata_url,
            "PINATA_JWT": ipfs.pinata_jwt,
        }.items():
            monkeypatch.setenv(name, value)
        yield World(net, ipfs, tmp_path, address)


async def test_a_challenge_is_solved_and_its_receipt_says_everything(world: World) -> None:
    job_id = world.newest_job_id()
    state = await world.do(job_id)
    assert state.name == "Settled", state.message
    receipt = world.receipt(job_id)
    assert receipt is not None
    assert (receipt.outcome, receipt.worker, receipt.fee) == (JobOutcome.settled, world.address, FEE_WEI)
    assert receipt.solved is not None
    assert f"{receipt.solved.block_height}-{receipt.solved.block_hash}" == job_id
    assert receipt.solved.size == 64
    assert receipt.solved.device
    assert receipt.solved.seconds
    assert receipt.inclusion is not None
    answer = included_result(receipt.inclusion)
    assert (answer.result_hash, answer.worker_address) == (receipt.solved.root, world.address)
    assert receipt.solved.bundle_cid in answer.proof
    assert json.loads(world.ipfs.store.read(CID.parse(receipt.solved.bundle_cid)))
    assert world.chain.landed(world.address) == [receipt.transaction_id]
    assert world.outbox.unsettled() == []
    assert world.receipts.verify()[0] == 1


async def test_the_receipt_is_shown_with_challenge_device_and_proof(world: World) -> None:
    job_id = world.newest_job_id()
    await world.do(job_id)
    receipt = world.receipt(job_id)
    assert receipt is not None
    assert receipt.solved is not None
    assert receipt.inclusion is not None
    async with get_client() as client:
        shown = [str(a.data) for a in await client.read_artifacts() if receipt.solved.root in str(a.data)]
    assert len(shown) == 1
    for wanted in (receipt.solved.device, receipt.solved.block_hash, "80,000,000 wei", receipt.inclusion.block_hash):
        assert wanted in shown[0]


async def test_doing_a_done_job_again_changes_nothing(world: World) -> None:
    job_id = world.newest_job_id()
    assert (await world.do(job_id)).name == "Settled"
    landed = world.chain.landed(world.address)
    assert (await world.do(job_id)).name == "Settled"
    assert world.chain.landed(world.address) == landed
    assert world.receipts.verify()[0] == 1


async def test_two_flow_runs_of_one_job_at_once_land_one_answer(world: World) -> None:
    job_id = world.newest_job_id()
    states = await asyncio.gather(world.do(job_id), world.do(job_id))
    assert {state.name for state in states} == {"Settled"}
    assert len(world.chain.landed(world.address)) == 1


async def test_several_challenges_at_once_all_settle(world: World) -> None:
    job_ids = []
    for _ in range(4):
        world.chain.make_block()
        job_ids.append(world.newest_job_id())
    states = await asyncio.gather(*[world.do(job_id) for job_id in job_ids])
    assert [state.name for state in states] == ["Settled"] * 4, [state.message for state in states]
    assert len(world.chain.landed(world.address)) == 4


async def test_a_block_that_was_taken_back_is_declined(world: World) -> None:
    world.chain.freeze()
    world.chain.make_block()
    job_id = world.newest_job_id()
    world.chain.rollback(1)
    world.chain.make_block()
    state = await world.do(job_id)
    assert state.name == "Declined"
    assert (state.message or "").startswith("closed: ")
    assert world.chain.landed(world.address) == []


async def test_a_worker_without_money_declines_and_names_the_address_to_fund(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = Keystore(world.folder / "keys").add("poor").address
    monkeypatch.setenv("MILLRACE_COMPUTECHAIN__KEY_NAME", "poor")
    state = await world.do(world.newest_job_id())
    assert state.name == "Declined"
    assert (state.message or "").startswith("too_poor: ")
    assert poor in (state.message or "")


async def test_without_a_sandbox_challenges_are_solved_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stranger's program is run: a GPU machine need not have bubblewrap."""
    monkeypatch.setenv("MILLRACE_SANDBOX__PYTHON", str(world.folder / "no-such-python"))
    assert (await world.do(world.newest_job_id())).name == "Settled"


async def test_a_device_that_is_not_there_declines_before_anything_is_spent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_COMPUTECHAIN__DEVICE", "cuda:63")
    state = await world.do(world.newest_job_id())
    assert state.name == "Declined"
    assert (state.message or "").startswith("unsupported: ")
    assert world.chain.landed(world.address) == []


async def test_without_an_upload_there_is_no_answer_on_the_chain(world: World) -> None:
    """The proof names the bundle's CID: without the bundle nobody could check it."""
    world.ipfs.misbehave("pinata", Faults(status=500))
    job_id = world.newest_job_id()
    state = await world.do(job_id)
    assert state.is_failed()
    assert "upload" in (state.message or "")
    assert world.chain.landed(world.address) == []
    world.ipfs.misbehave("pinata")
    assert (await world.do(job_id)).name == "Settled"


async def test_the_watch_starts_a_flow_run_for_each_new_block_and_counts_none_twice(world: World) -> None:
    world.chain.freeze()
    async with get_client() as client:
        await client.create_deployment(await client.create_flow(computechain_job), "gpu")
        assert (await looked()).name == "Started 1"
        assert (await looked()).name == "Nothing new"
        world.chain.make_block(2)
        assert (await looked()).name == "Started 2"
        runs = await client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["computechain-job"])))
        begun = [str(run.parameters["job_id"]) for run in runs if run.deployment_id is not None]
    assert len(begun) == len(set(begun)) == 3
    assert world.newest_job_id() in begun


async def looked() -> State[Any]:
    return cast("State[Any]", await watch("computechain", run_seconds=0, return_state=True))


async def test_the_watch_pauses_while_the_balance_is_below_the_floor(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_COMPUTECHAIN__BALANCE_FLOOR_WEI", str(10**18))
    async with get_client() as client:
        await client.create_deployment(await client.create_flow(computechain_job), "gpu")
    state = await looked()
    assert state.name == "Paused"
    assert world.address in (state.message or "")


async def test_a_network_without_settings_is_not_watched_and_that_is_no_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every minute a failed flow run, for a network that the operator does not serve."""
    monkeypatch.delenv("MILLRACE_COMPUTECHAIN__RPC_URLS")
    state = await looked()
    assert (state.name, state.is_completed()) == ("Not configured", True)
    assert "MILLRACE_COMPUTECHAIN__RPC_URLS" in (state.message or "")


async def test_a_challenge_is_solved_by_hand_without_a_chain(world: World) -> None:
    solution: Solution = await solve_by_hand("00" * 32, world.address, 32)
    again: Solution = await solve_by_hand("00" * 32, world.address, 32)
    assert solution.root == again.root
    assert solution.n == 32
    assert world.chain.landed(world.address) == []


@needs_redis
async def test_what_a_lost_machine_of_the_fleet_has_signed_is_what_the_next_one_sends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two have a key and the fleet's outbox in common, and no file: with a folder each, both would sign."""
    job_id = world.newest_job_id()
    with serving(world.folder) as (url, _):
        monkeypatch.setenv("MILLRACE_FLEET_URL", url)
        lost = load_settings().model_copy(update={"data_dir": world.folder / "lost machine"})
        async with open_network(lost) as network:
            job = await network.find(job_id)
            result = Result(result_cid="bafy", result_hash="5f" * 32, proof="{}")
            with open_outbox(lost) as outbox:
                signed = await sign_submission(job, result, 0, network=network, outbox=outbox)
        assert world.chain.landed(world.address) == []
        state = await world.do(job_id)
        assert state.name == "Settled", state.message
        assert world.chain.landed(world.address) == [signed.transaction_id]
        with open_outbox(load_settings()) as outbox:
            assert outbox.unsettled() == []
            assert outbox.history(job.key)[0].submission == signed
