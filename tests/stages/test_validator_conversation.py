"""The conversation with a validator, on files and on the wire: nothing a validator said or is owed gets lost."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from validator_world import ADDRESS, PAYLOAD, Side, answer

from localnet.validator import ValidatorLocalnet
from millrace.errors import Declined, Permanent
from millrace.network import Result
from millrace.receipt import Receipt
from millrace.receipt_log import ReceiptLog
from protocols.validator.job import PocJob
from protocols.validator.messages import JobMessage, JobRefused, JobResult
from stages.discover.validator import Received
from stages.submit.validator import answer_job


@pytest.fixture
def validator() -> Iterator[ValidatorLocalnet]:
    with ValidatorLocalnet() as validator:
        yield validator


both = pytest.mark.parametrize("transport", ["ws", "http"])


@both
async def test_a_job_is_kept_and_its_answer_delivered(
    validator: ValidatorLocalnet, tmp_path: Path, transport: str
) -> None:
    side = Side(tmp_path, validator, transport)
    validator.push("one", PAYLOAD)
    async with side.talking():
        await side.until(lambda: side.inbox.find("one"))
        job = side.inbox.find("one")
        assert job is not None
        assert (job.key, job.task_id, job.payload) == ("validator/here/one", "task-one", PAYLOAD)
        side.result("one")
        assert (await answer(validator, "one"))["result_hash"] == "cd" * 32
        await side.until(lambda: side.answers.waiting() == [])
    assert side.inbox.open() == []


@both
async def test_answers_made_while_the_validator_is_away_are_delivered_when_it_is_back(
    validator: ValidatorLocalnet, tmp_path: Path, transport: str
) -> None:
    side = Side(tmp_path, validator, transport)
    validator.refuse(503)
    async with side.talking():
        await side.until(lambda: side.waits)
        side.result("one")
        side.result("two")
        await side.until(lambda: len(side.waits) > 3)
        assert validator.desk.answers_to("one") == []
        validator.refuse(None)
        await answer(validator, "one")
        await answer(validator, "two")


async def test_an_answer_that_a_dying_connection_swallowed_is_delivered_over_the_next(
    validator: ValidatorLocalnet, tmp_path: Path
) -> None:
    side = Side(tmp_path, validator)
    validator.swallow(3)
    side.result("one")
    async with side.talking():
        await answer(validator, "one")
        await side.until(lambda: side.answers.waiting() == [])
    assert validator.desk.swallowing == 0
    assert len(validator.desk.answers_to("one")) == 1


async def test_a_killed_process_loses_neither_jobs_nor_answers(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    first = Side(tmp_path, validator)
    validator.push("one", PAYLOAD)
    async with first.talking():
        await first.until(lambda: first.inbox.find("one"))
    first.result("two")
    second = Side(tmp_path, validator)
    assert [received.job.job_id for received in second.inbox.open()] == ["one"]
    async with second.talking():
        await answer(validator, "two")
        second.result("one")
        await answer(validator, "one")


async def test_a_job_that_is_offered_again_gets_the_same_answer_and_is_not_done_again(
    validator: ValidatorLocalnet, tmp_path: Path
) -> None:
    side = Side(tmp_path, validator)
    validator.push("one", PAYLOAD)
    async with side.talking():
        await side.until(lambda: side.inbox.find("one"))
        side.result("one")
        first = await answer(validator, "one")
        await side.until(lambda: side.answers.waiting() == [])
        validator.push("one", PAYLOAD)
        await side.until(lambda: len(validator.desk.answers_to("one")) == 2)
    assert validator.desk.answers_to("one") == [first, first]
    assert side.inbox.open() == []


async def test_of_two_payloads_under_one_id_the_first_counts(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    side = Side(tmp_path, validator)
    validator.push("one", PAYLOAD)
    validator.push("one", {**PAYLOAD, "n": 9})
    validator.push("two", PAYLOAD)
    async with side.talking():
        await side.until(lambda: side.inbox.find("two"))
    job = side.inbox.find("one")
    assert job is not None
    assert job.payload == PAYLOAD


async def test_a_malformed_job_is_refused_with_its_fault(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    side = Side(tmp_path, validator)
    validator.say({"type": "job", "job_id": "bad", "payload": 5})
    async with side.talking():
        refusal = await answer(validator, "bad")
    assert (refusal["type"], refusal["reason"]) == ("job_refused", "malformed")
    assert "payload" in refusal["message"]
    assert side.inbox.open() == []


async def test_a_job_too_many_is_refused_and_taken_when_it_is_offered_later(
    validator: ValidatorLocalnet, tmp_path: Path
) -> None:
    side = Side(tmp_path, validator, backlog=1)
    validator.push("one", PAYLOAD)
    validator.push("two", PAYLOAD)
    async with side.talking():
        assert (await answer(validator, "two"))["reason"] == "busy"
        side.result("one")
        validator.push("two", PAYLOAD)
        await side.until(lambda: side.inbox.find("two"))


async def test_a_job_that_was_taken_after_all_is_not_refused_any_more(
    validator: ValidatorLocalnet, tmp_path: Path
) -> None:
    """The refusal that no link took went out over the next one, for a job that had been accepted meanwhile."""
    side = Side(tmp_path, validator)
    take = side.conversation._take  # what a link hears before it breaks
    side.drains = True
    take(JobMessage(type="job", job_id="one", payload=PAYLOAD))
    take(JobMessage(type="job", job_id="two", payload=PAYLOAD))
    side.drains = False
    take(JobMessage(type="job", job_id="one", payload=PAYLOAD))
    async with side.talking():
        assert (await answer(validator, "two"))["reason"] == "draining"
        side.result("one")
        assert (await answer(validator, "one"))["type"] == "job_result"


async def test_a_draining_worker_refuses_new_jobs_and_takes_them_when_they_are_offered_later(
    validator: ValidatorLocalnet, tmp_path: Path
) -> None:
    side = Side(tmp_path, validator)
    side.drains = True
    validator.push("one", PAYLOAD)
    async with side.talking():
        assert (await answer(validator, "one"))["reason"] == "draining"
        assert side.inbox.open() == []
        side.drains = False
        validator.push("one", PAYLOAD)
        await side.until(lambda: side.inbox.find("one"))


async def test_waits_grow_up_to_a_minute_and_start_anew_after_a_steady_link(
    validator: ValidatorLocalnet, tmp_path: Path
) -> None:
    side = Side(tmp_path, validator)
    validator.refuse(500)
    async with side.talking():
        await side.until(lambda: len(side.waits) >= 9)
        assert side.waits[:9] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        validator.refuse(None)
        await asyncio.to_thread(validator.desk.wait, lambda: validator.desk.connections, 10)
        side.waits.clear()
        side.seconds += 31
        validator.cut()
        await side.until(lambda: side.waits)
    assert side.waits[0] == 1


async def test_being_turned_away_ends_the_conversation(tmp_path: Path) -> None:
    with ValidatorLocalnet(token="needed") as validator, pytest.raises(Permanent, match="401"):
        await Side(tmp_path, validator).conversation.hold()


async def test_nonsense_is_survived_and_told_a_bounded_number_of_times(
    validator: ValidatorLocalnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    side = Side(tmp_path, validator)
    for number in range(100):
        validator.say(f"\x1b[2Jnonsense {number}")
    validator.push("one", PAYLOAD)
    with caplog.at_level(logging.WARNING):
        async with side.talking():
            await side.until(lambda: side.inbox.find("one"))
    told = [record.getMessage() for record in caplog.records if "not understood" in record.getMessage()]
    assert len(told) == 20
    assert not any("\x1b" in text for text in told)


def test_a_job_without_an_answer_is_refused_in_the_end(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    side = Side(tmp_path, validator)
    job = PocJob(chain_id="here", job_id="one", task_id="", payload=PAYLOAD, worker_address=ADDRESS)
    side.inbox.keep(Received(job=job, received_at=side.seconds))
    side.conversation.refuse_overdue(60)
    assert side.answers.waiting() == []
    side.seconds += 61
    side.conversation.refuse_overdue(60)
    (refusal,) = side.answers.waiting()
    assert isinstance(refusal.message, JobRefused)
    assert refusal.message.reason == "failed"
    assert side.inbox.open() == []


@pytest.mark.parametrize("step", [-86_400.0, 86_400.0 * 365])
def test_a_clock_that_is_set_meanwhile_neither_gives_jobs_up_nor_keeps_them_for_ever(
    validator: ValidatorLocalnet, tmp_path: Path, step: float
) -> None:
    side = Side(tmp_path, validator)
    job = PocJob(chain_id="here", job_id="one", task_id="", payload=PAYLOAD, worker_address=ADDRESS)
    side.inbox.keep(Received(job=job, received_at=side.seconds))
    side.conversation.refuse_overdue(60)
    side.clock_is_off_by = step
    side.seconds += 59
    side.conversation.refuse_overdue(60)
    assert side.answers.waiting() == []
    side.seconds += 2
    side.conversation.refuse_overdue(60)
    assert len(side.answers.waiting()) == 1


def test_a_job_that_lacks_only_its_receipt_is_not_overdue(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    """A process killed between answer and receipt: giving the job up closed it, and the receipt was never written."""
    side = Side(tmp_path, validator)
    job = PocJob(chain_id="here", job_id="one", task_id="", payload=PAYLOAD, worker_address=ADDRESS)
    side.inbox.keep(Received(job=job, received_at=side.seconds))
    side.answers.put(JobResult(job_id="one", worker_address=ADDRESS, result_hash="cd" * 32), PAYLOAD)
    side.seconds += 61
    side.conversation.refuse_overdue(60)
    assert side.inbox.find("one") == job


def test_the_first_answer_to_a_job_counts(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    side = Side(tmp_path, validator)
    first = side.result("one")
    late = JobRefused(job_id="one", worker_address=ADDRESS, reason="failed", message="late")
    assert side.answers.put(late, PAYLOAD).message == first
    assert [each.message for each in side.answers.waiting()] == [first]
    side.answers.delivered(side.answers.waiting()[0])
    assert side.answers.put(late, PAYLOAD).message == first
    assert side.answers.waiting() == []


def test_a_damaged_file_is_set_aside_and_stops_nobody(
    validator: ValidatorLocalnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    side = Side(tmp_path, validator)
    for job_id in ("one", "two"):
        job = PocJob(chain_id="here", job_id=job_id, task_id="", payload=PAYLOAD, worker_address=ADDRESS)
        side.inbox.keep(Received(job=job, received_at=1.0))
    damaged = next(file for file in (tmp_path / "inbox").iterdir() if '"one"' in file.read_text())
    damaged.write_text("{")
    assert [received.job.job_id for received in side.inbox.open()] == ["two"]
    assert damaged.with_suffix(".damaged").read_text() == "{"
    assert "is damaged" in caplog.text
    assert side.inbox.count() == 1


async def test_no_message_ends_the_link_or_leaves_what_cannot_be_read(
    validator: ValidatorLocalnet, tmp_path: Path
) -> None:
    """Each of these ended the conversation, or left a file that stopped every later one."""
    side = Side(tmp_path, validator)
    deep: Any = {}
    for _ in range(220):
        deep = {"in": deep}
    for payload in (deep, {"text": "\ud800"}, {"text": "x" * 70_000}):
        validator.push("bad", payload)
    validator.say(json.dumps({"type": "job", "job_id": "\ud800", "payload": {}}))
    validator.push("good", PAYLOAD)
    async with side.talking():
        await side.until(lambda: side.inbox.find("good"))
        await side.until(lambda: len(validator.desk.answers_to("bad")) == 3)
    assert [refusal["reason"] for refusal in validator.desk.answers_to("bad")] == ["malformed"] * 3
    assert [received.job.job_id for received in side.inbox.open()] == ["good"]


async def test_what_was_malformed_is_taken_when_it_comes_in_order(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    side = Side(tmp_path, validator)
    validator.say({"type": "job", "job_id": "one", "payload": 5})
    async with side.talking():
        assert (await answer(validator, "one"))["reason"] == "malformed"
        validator.push("one", PAYLOAD)
        await side.until(lambda: side.inbox.find("one"))


async def test_an_id_used_for_another_payload_is_refused_and_keeps_its_first_answer(
    validator: ValidatorLocalnet, tmp_path: Path
) -> None:
    side = Side(tmp_path, validator)
    side.result("one")
    async with side.talking():
        await answer(validator, "one")
        validator.push("one", {**PAYLOAD, "n": 9})
        await side.until(lambda: len(validator.desk.answers_to("one")) == 2)
    assert [each["type"] for each in validator.desk.answers_to("one")] == ["job_result", "job_refused"]
    assert side.inbox.open() == []


def test_a_job_that_is_worked_on_is_not_overdue(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    side = Side(tmp_path, validator)
    job = PocJob(chain_id="here", job_id="one", task_id="", payload=PAYLOAD, worker_address=ADDRESS)
    side.inbox.keep(Received(job=job, received_at=side.seconds))
    side.seconds += 61
    with side.inbox.at_work("one"):
        side.conversation.refuse_overdue(60)
        assert side.answers.waiting() == []
    side.conversation.refuse_overdue(60)
    assert len(side.answers.waiting()) == 1


def test_a_result_after_a_refusal_gets_no_receipt(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    side = Side(tmp_path, validator)
    job = PocJob(chain_id="here", job_id="one", task_id="", payload=PAYLOAD, worker_address=ADDRESS)
    side.inbox.keep(Received(job=job, received_at=side.seconds))
    side.conversation.give_up(job, "cancelled")
    receipts = ReceiptLog(tmp_path / "receipts")
    draft = Receipt(job_key=job.key, network="validator", outcome="answered", settled_at="2026-01-01T00:00:00Z")
    with pytest.raises(Declined, match="refused before it was done: cancelled"):
        answer_job(
            job,
            Result(result_cid="", result_hash="cd" * 32),
            draft,
            inbox=side.inbox,
            answers=side.answers,
            receipts=receipts,
            clock=lambda: side.seconds,
        )
    assert receipts.find(job.key) is None


def test_answers_are_delivered_while_others_are_asked_for_again(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    """Each delivery looked at files that another thread moved."""
    side = Side(tmp_path, validator)
    for number in range(200):
        side.result(str(number))
    told = side.answers.waiting()
    for each in told:
        side.answers.delivered(each)
    ended = threading.Event()

    def ask_again() -> None:
        while not ended.is_set():
            for each in told:
                side.answers.again(each)

    with ThreadPoolExecutor(1) as other:
        asking = other.submit(ask_again)
        try:
            for _ in range(3):
                for each in told:
                    side.answers.delivered(each)
        finally:
            ended.set()
        asking.result()
    assert len(side.answers.waiting()) + sum(1 for _ in (tmp_path / "answers" / "told").iterdir()) == 200
