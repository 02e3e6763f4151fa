"""CloudMesh jobs from chain to chain, with real processes that are really killed."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from uuid import UUID

import pytest
from acceptance_stack import Stack

from millrace.receipt import JobOutcome
from protocols.solana.job_account import JobStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

SLOW_PROGRAM = "import time\nprint('begun', flush=True)\ntime.sleep(4)\nprint('done')\n"


async def test_a_posted_job_is_found_done_and_settled_by_itself(stack: Stack) -> None:
    address = stack.post("found by the watcher", "print(6 * 7)")
    await stack.run("watch/watch-cloudmesh", network="cloudmesh", run_seconds=1)
    job = await asyncio.to_thread(stack.owner.wait, address, timeout_seconds=90, commitment="finalized")
    assert job.status is JobStatus.completed
    result = json.loads(await stack.read(job.result_cid))
    assert (result["stdout"], result["stderr"], result["returncode"]) == ("42\n", "", 0)
    receipt = await receipt_of(stack, address)
    assert receipt["outcome"] == JobOutcome.settled
    assert receipt["result_cid"] == job.result_cid
    assert len(stack.solana.chain.landed(address)) == 2  # posted, completed
    assert any(f"{address} fetch]" in line for line in await stack.logs_about(address)), "job and stage are in the log"


async def test_a_killed_flow_process_is_put_back_and_goes_on_where_it_was(stack: Stack) -> None:
    address = stack.post("killed while it runs", SLOW_PROGRAM)
    run_id = await stack.run("cloudmesh-job/cpu", job_address=address)
    await stack.running(run_id)
    await until_stage(stack, run_id, "execute")
    stack.flow_process(run_id).send_signal(signal.SIGKILL)
    crashed = await stack.ended(run_id)
    assert crashed.state_name == "Crashed"
    await stack.ended(await stack.run("reconcile/reconcile"))
    ended = await stack.ended(run_id)
    assert (ended.state_name, ended.run_count) == ("Settled", 2)
    states = await stack.task_states(run_id)
    assert "Cached" in states["fetch"], "what was done before the kill is not done again"
    assert states["execute"] == ["Crashed", "Completed"], "the history says what died"
    assert len(stack.solana.chain.landed(address)) == 2


async def test_a_killed_worker_is_replaced_and_its_job_done_once(stack: Stack) -> None:
    """The operator's machine: worker and flow process die together, the next start takes everything up."""
    address = stack.post("the worker dies", SLOW_PROGRAM)
    run_id = await stack.run("cloudmesh-job/cpu", job_address=address)
    await stack.running(run_id)
    await until_stage(stack, run_id, "execute")
    stack.kill_worker()
    stack.start_worker()
    ended = await stack.ended(run_id)
    assert ended.state_name == "Settled"
    assert len(stack.solana.chain.landed(address)) == 2
    assert stack.receipts.verify()[0] >= 1


async def test_a_cancelled_job_is_declined_with_the_reason(stack: Stack) -> None:
    address = stack.post("withdrawn", "print('never')")
    stack.owner.cancel(address)
    ended = await stack.ended(await stack.run("cloudmesh-job/cpu", job_address=address))
    assert ended.state is not None
    assert ended.state_name == "Declined"
    assert ended.state.message is not None
    assert ended.state.message.startswith("closed: ")
    assert len(stack.solana.chain.landed(address)) == 2  # posted, cancelled


async def test_a_job_whose_program_is_no_cid_fails_with_a_clear_word(stack: Stack) -> None:
    address = stack.owner.post("not a CID", "QmThisIsNotACid")
    ended = await stack.ended(await stack.run("cloudmesh-job/cpu", job_address=address))
    assert ended.state is not None
    assert ended.state_name == "Failed"
    assert address in str(ended.state.message)
    assert "fetch" in str(ended.state.message)
    assert len(stack.solana.chain.landed(address)) == 1  # posted; nothing was invented


async def test_single_stages_run_by_hand_without_a_chain(stack: Stack) -> None:
    cid = stack.ipfs.add(b"print('by hand')")
    runs = [
        await stack.run("execute/python", code_cid=cid),
        await stack.run("fetch/adhoc", cid=cid),
        await stack.run("upload/adhoc", text="by hand"),
    ]
    ended = [await stack.ended(run) for run in runs]
    assert [run.state_name for run in ended] == ["Completed"] * 3


async def receipt_of(stack: Stack, address: str) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while (receipt := stack.receipt(address)) is None:
        assert time.monotonic() < deadline, "no receipt"
        await asyncio.sleep(0.2)
    return receipt.model_dump()


async def until_stage(stack: Stack, run_id: UUID, stage: str) -> None:
    """Wait until the flow run is in this stage."""
    deadline = time.monotonic() + 60
    while not await stack.is_in(run_id, stage):
        assert time.monotonic() < deadline, f"never in stage {stage}"
        await asyncio.sleep(0.1)
