"""What a draining machine leaves for later, and what it has promised and does."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from endless_end import end_by_sigterm, until_it_listens

from flows.draining import left_for_later, unfinished
from flows.endless import first_of, stoppable, told_to_stop
from millrace.network import SignedSubmission
from millrace.settings import Settings
from protocols.coordinator.tasks import ExecuteTask
from protocols.validator.job import PocJob
from stages.discover.coordinator import desk_of
from stages.discover.validator import Inbox, Received
from stages.discover.validator_opening import folder_of
from stages.drain import DrainMark
from stages.submit.outbox import Outbox


def settings(folder: Path) -> Settings:
    return Settings(
        data_dir=folder,
        validator={"url": "ws://127.0.0.1:1", "worker_address": "cpc1xyz"},
        coordinator={"url": "http://127.0.0.1:2"},
    )


def sign(folder: Path, job_id: str) -> None:
    Outbox(folder / "outbox").record(
        SignedSubmission(
            job_key=f"cloudmesh/chain/{job_id}",
            network="cloudmesh",
            transaction_id="tx",
            payload="AA==",
            sender="us",
            result_cid="bafy",
            price=1,
        )
    )


def accept(own: Settings, job_id: str) -> None:
    job = PocJob(chain_id="here", job_id=job_id, task_id="", payload={}, worker_address="cpc1xyz")
    Inbox(folder_of(own) / "inbox").keep(Received(job=job, received_at=1.0))


WATCH = {"network": "cloudmesh", "run_seconds": 50.0}


def test_new_jobs_are_left_and_what_was_begun_or_promised_is_not(tmp_path: Path) -> None:
    own = settings(tmp_path)
    sign(tmp_path, "signed")
    accept(own, "accepted")
    runs = [
        {"job_address": "new"},
        {"job_id": "12-ab"},
        {"job_address": "signed"},
        {"job_id": "accepted"},
        WATCH,
        {},
        {"code_cid": "bafy"},
    ]
    assert left_for_later(own, runs) == [False] * len(runs)
    DrainMark(tmp_path).set()
    assert left_for_later(own, runs) == [True, True, False, False, False, False, False]
    DrainMark(tmp_path).end()
    assert left_for_later(own, runs) == [False] * len(runs)


def test_what_a_coordinator_handed_out_is_done_for_it_asks_for_nothing_back(tmp_path: Path) -> None:
    own = settings(tmp_path)
    task = ExecuteTask.model_validate(
        {
            "type": "Execute",
            "request_id": 7,
            "data_id": "ab" * 32,
            "wasm_checksum": "cd" * 32,
            "resource_limits": {},
            "input_data": "",
        }
    )
    assert desk_of(own).take(task)
    DrainMark(tmp_path).set()
    (handed,) = desk_of(own).open()
    assert left_for_later(own, [{"job_id": handed.job_id}, {"job_id": f"8-{'ab' * 32}"}]) == [False, True]
    assert unfinished(own) == [f"coordinator: job {handed.job_id} was taken and has not ended"]


def test_a_machine_with_a_promise_is_not_empty(tmp_path: Path) -> None:
    own = settings(tmp_path)
    assert unfinished(own) == []
    accept(own, "accepted")
    sign(tmp_path, "signed")
    assert unfinished(own) == [
        "cloudmesh/chain/signed: transaction tx has no final answer",
        "validator: job accepted was accepted and has no answer",
    ]


@pytest.mark.parametrize("tells_early", [False, True])
@pytest.mark.parametrize("most_seconds", [None, 60.0])
async def test_work_without_end_ends_well_on_sigterm(most_seconds: float | None, tells_early: bool) -> None:
    """A worker that was told to stop waited up to a minute for each watch."""

    async def work() -> None:
        async with stoppable() as told:
            if tells_early:
                os.kill(os.getpid(), signal.SIGTERM)  # while its tools are being opened
                await asyncio.sleep(0)
            await first_of(asyncio.sleep(60, None), told_to_stop(told, most_seconds))

    ended = asyncio.ensure_future(work())
    await until_it_listens(ended)
    before = asyncio.get_running_loop().time()
    await end_by_sigterm(ended)
    assert asyncio.get_running_loop().time() - before < 5
