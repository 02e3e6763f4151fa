"""Draining and stopping, with real processes: what runs is finished, nothing new is begun, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time

import pytest
from acceptance_stack import Stack

from deployments.enlisted import Workers
from protocols.solana.job_account import JobStatus
from stages.drain import DrainMark

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.asyncio(loop_scope="module")]

SLOW_PROGRAM = "import time\ntime.sleep(5)\nprint('done')\n"


def millrace(stack: Stack, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **stack.environment, "MILLRACE_ATTEMPT_COOLDOWN_SECONDS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "deployments", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


async def told(command: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str]:
    output, _ = await asyncio.to_thread(command.communicate, timeout=seconds)
    return command.returncode, output


async def until_it_lives(stack: Stack, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not Workers(stack.folder).living():
        assert time.monotonic() < deadline, stack.processes.log_tail("worker", 40)
        await asyncio.sleep(0.2)


async def test_a_drain_finishes_what_runs_and_takes_nothing_new(stack: Stack) -> None:
    await until_it_lives(stack)
    first = stack.post("runs when the drain begins", SLOW_PROGRAM)
    run = await stack.run("cloudmesh-job/cpu", job_address=first)
    await stack.running(run)
    draining = millrace(stack, "drain", "--timeout", "90")
    while not DrainMark(stack.folder).is_set():  # noqa: ASYNC110  (another process sets it)
        await asyncio.sleep(0.05)
    later = stack.post("posted while it drains", "print('later')")
    by_hand = await stack.run("cloudmesh-job/cpu", job_address=later)
    watching = await stack.ended(await stack.run("watch/watch-cloudmesh", network="cloudmesh", run_seconds=1))
    assert watching.state_name == "Draining"
    code, output = await told(draining)
    assert code == 0, output
    assert f"cloudmesh-job {first}" in output
    assert "empty" in output
    assert (await stack.ended(run, 5)).state_name == "Settled"
    async with stack.client() as client:
        assert (await client.read_flow_run(by_hand)).state_name in ("Scheduled", "Late")
    assert len(stack.solana.chain.landed(later)) == 1  # posted
    code, output = await told(millrace(stack, "health"))
    assert json.loads(output)["draining"] is not None
    assert code == 0, output

    assert (await told(millrace(stack, "drain", "--end")))[0] == 0
    assert (await stack.ended(by_hand)).state_name == "Settled"
    job = await asyncio.to_thread(stack.owner.wait, later, timeout_seconds=60, commitment="finalized")
    assert job.status is JobStatus.completed


async def test_a_worker_told_to_stop_ends_watches_at_once_finishes_jobs_and_a_new_one_resumes(stack: Stack) -> None:
    await until_it_lives(stack)
    address = stack.post("told to stop", SLOW_PROGRAM)
    run = await stack.run("cloudmesh-job/cpu", job_address=address)
    watching = await stack.run("watch/watch-cloudmesh", network="cloudmesh", run_seconds=600)
    await stack.running(run)
    await stack.running(watching)
    worker = stack.processes.process("worker")
    worker.terminate()
    began = time.monotonic()
    queued = await stack.run("cloudmesh-job/cpu", job_address=stack.post("too late", "print(1)"))
    await asyncio.to_thread(worker.wait, 60)
    assert time.monotonic() - began < 45
    assert (await stack.ended(run, 5)).state_name == "Settled"
    watched = await stack.ended(watching, 5)
    assert watched.state is not None
    assert watched.state.is_completed(), watched.state
    async with stack.client() as client:
        assert (await client.read_flow_run(queued)).state_name in ("Scheduled", "Late")
    assert Workers(stack.folder).living() == []
    stack.processes.stop("worker")

    DrainMark(stack.folder).set()  # what the operator forgot to end
    stack.start_worker()
    assert (await stack.ended(queued)).state_name == "Settled"
    assert not DrainMark(stack.folder).is_set()
