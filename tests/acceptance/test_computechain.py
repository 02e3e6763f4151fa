"""ComputeChain jobs from block to block, with real processes that are really killed."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from acceptance_stack import KEY_NAME, Stack

from millrace.receipt import Receipt
from protocols.computechain.keystore import Keystore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]


def landed(stack: Stack) -> list[str]:
    """The worker's transactions in blocks."""
    return stack.compute.chain.landed(Keystore(stack.folder / "keys").load(KEY_NAME).address)


async def receipt_of(stack: Stack, job_id: str, seconds: float = 60) -> Receipt:
    deadline = time.monotonic() + seconds
    while (found := stack.receipts.find(f"computechain/{stack.compute.chain_id}/{job_id}")) is None:
        log = stack.processes.log_tail("worker-gpu", 40)
        assert time.monotonic() < deadline, f"no receipt\n{log}"
        await asyncio.sleep(0.2)
    return found


async def test_a_block_is_found_solved_and_settled_by_itself(gpu_stack: Stack) -> None:
    """The first wanted block that the watch sees is block 0; the chain makes the others with no challenge of ours."""
    first = gpu_stack.compute.chain.block(0)
    assert first is not None
    await gpu_stack.run("watch/watch-computechain", network="computechain", run_seconds=1)
    receipt = await receipt_of(gpu_stack, f"0-{first.header.hash}")
    assert receipt.inclusion is not None
    assert landed(gpu_stack) == [receipt.transaction_id]


async def test_killed_while_it_confirms_a_job_is_taken_up_and_lands_once(gpu_stack: Stack) -> None:
    """The signed bytes are on disk, perhaps sent: a new signature would be a second answer."""
    before = landed(gpu_stack)
    chain = gpu_stack.compute.chain
    height = chain.freeze()
    block = chain.block(height)
    assert block is not None
    run_id = await gpu_stack.run("computechain-job/gpu", job_id=f"{height}-{block.header.hash}")
    deadline = time.monotonic() + 60
    while not await gpu_stack.is_in(run_id, "confirm"):
        assert time.monotonic() < deadline, "never in stage confirm"
        await asyncio.sleep(0.1)
    gpu_stack.flow_process(run_id).send_signal(signal.SIGKILL)
    assert (await gpu_stack.ended(run_id)).state_name == "Crashed"
    chain.restart()  # the node as well: what waited in its mempool is lost
    chain.thaw()
    await gpu_stack.ended(await gpu_stack.run("reconcile/reconcile"))
    ended = await gpu_stack.ended(run_id)
    assert (ended.state_name, ended.run_count) == ("Settled", 2)
    receipt = await receipt_of(gpu_stack, f"{height}-{block.header.hash}")
    assert landed(gpu_stack) == [*before, receipt.transaction_id]


async def test_a_challenge_is_solved_by_hand(gpu_stack: Stack) -> None:
    run = await gpu_stack.run("execute/gpu", block_hash="00" * 32, worker_address="anybody", n=64)
    assert (await gpu_stack.ended(run)).state_name == "Completed"
