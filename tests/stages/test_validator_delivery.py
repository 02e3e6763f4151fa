"""What a validator is told gets there, whatever else it does not take and whatever the disk does."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest
from validator_world import ADDRESS, PAYLOAD, Side, answer

from localnet.validator import ValidatorLocalnet
from protocols.validator.messages import JobRefused
from stages.submit import validator as validator_answers
from stages.submit.validator import Answer


class Door:
    """A validator's HTTP side that answers every look, and after a while every result, as it is told to."""

    def __init__(self, *, jobs: bytes, results: bytes) -> None:
        self._jobs, self._results = jobs, results
        self.results_taken = 0

    @asynccontextmanager
    async def open(self, validator: ValidatorLocalnet) -> AsyncIterator[None]:
        """It stands in for `validator`'s inside."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        validator.http_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        if asked.startswith(b"POST"):
            self.results_taken += 1
            await asyncio.sleep(0.05)
        said = self._results if asked.startswith(b"POST") else self._jobs
        head, _, body = said.partition(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + head + b"\r\nConnection: close\r\n\r\n" + body)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()


@pytest.fixture
def strict() -> Iterator[ValidatorLocalnet]:
    """A validator that knows the network's documents and not our refusals: it hangs up on them."""
    with ValidatorLocalnet(knows_refusals=False) as validator:
        yield validator


@pytest.fixture
def validator() -> Iterator[ValidatorLocalnet]:
    with ValidatorLocalnet() as validator:
        yield validator


@pytest.mark.parametrize("transport", ["ws", "http"])
async def test_results_reach_a_validator_that_does_not_know_refusals(
    strict: ValidatorLocalnet, tmp_path: Path, transport: str
) -> None:
    """Over HTTP the refusal ended the link's flow run; over a WebSocket it was sent first on each new connection."""
    side = Side(tmp_path, strict, transport)
    strict.say({"type": "job", "job_id": "bad", "payload": 5})
    async with side.talking():
        await side.until(lambda: strict.desk.unheard)
        side.result("one")
        assert (await answer(strict, "one"))["type"] == "job_result"
        strict.push("two", PAYLOAD)
        await side.until(lambda: side.inbox.find("two"))


async def test_a_job_whose_refusal_the_validator_hangs_up_on_does_not_break_every_link(
    strict: ValidatorLocalnet, tmp_path: Path
) -> None:
    """The job is offered, and was refused, on each new connection: none lasted, and no later answer got through."""
    side = Side(tmp_path, strict)
    strict.say({"type": "job", "job_id": "bad", "payload": 5})
    strict.push("unknown", PAYLOAD)
    side.answers.put(JobRefused(job_id="unknown", worker_address=ADDRESS, reason="failed", message="no"), PAYLOAD)
    side.seconds += 1
    side.result("one")
    async with side.talking():
        await answer(strict, "one")
        await side.until(lambda: len(strict.desk.unheard) >= 3)
        await side.until_steady()
        heard = len(strict.desk.unheard)
        side.result("two")
        await answer(strict, "two")
    assert (len(side.waits), len(strict.desk.unheard)) == (heard, heard)
    assert heard < 10


async def test_an_answer_is_not_to_blame_for_an_outage(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    """Over HTTP each look that failed took an answer on its way for the reason: it was put off for up to an hour."""
    side = Side(tmp_path, validator, "http")
    side.result("one")
    validator.refuse(503)
    async with side.talking():
        await side.until(lambda: len(side.waits) >= 20)
        validator.refuse(None)
        back = side.seconds
        await answer(validator, "one")
        assert side.seconds - back <= 120


async def test_an_answer_is_not_to_blame_where_links_break_without_it(
    validator: ValidatorLocalnet, tmp_path: Path
) -> None:
    """What stands before a validator may take each link, and hang up: the answer was put off for up to an hour."""
    side = Side(tmp_path, validator)
    validator.swallow(1_000)
    side.result("one")
    async with side.talking():
        while len(side.waits) < 100:
            await asyncio.to_thread(validator.cut)
            await asyncio.sleep(0.01)
        validator.swallow(0)
        side.seconds += 120
        await answer(validator, "one")


@pytest.mark.parametrize("jobs", [b"404 Gone\r\nContent-Length: 0", b"200 OK\r\nContent-Length: 5\r\n\r\nhello"])
async def test_results_are_delivered_while_looks_for_jobs_fail(
    validator: ValidatorLocalnet, tmp_path: Path, jobs: bytes
) -> None:
    """Each look that failed ended the delivery under way: the validator took the result again and again."""
    side, door = Side(tmp_path, validator, "http"), Door(jobs=jobs, results=b"202 Accepted\r\nContent-Length: 0")
    async with door.open(validator):
        for job_id in ("one", "two"):
            side.result(job_id)
        async with side.talking():
            await side.until(lambda: side.answers.waiting() == [])
    assert door.results_taken == 2


async def test_what_was_taken_with_a_bad_body_was_taken(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    """The status said so, and the rest broke the link: the result was sent again and again."""
    bad = b"202 Accepted\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000
    side, door = Side(tmp_path, validator, "http"), Door(jobs=b"204 No Content", results=bad)
    async with door.open(validator):
        side.result("one")
        async with side.talking():
            await side.until(lambda: side.answers.waiting() == [])
    assert (door.results_taken, side.waits) == (1, [])


async def test_results_overtake_a_flood_of_refusals(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    side = Side(tmp_path, validator)
    validator.say([{"type": "job", "job_id": f"bad-{number}", "payload": 5} for number in range(900)])
    async with side.talking():
        await side.until(lambda: validator.desk.answers_to("bad-0"))
        side.result("one")
        await answer(validator, "one")
        assert validator.desk.answers_to("bad-899") == []
        await answer(validator, "bad-899")


async def test_a_disk_that_fails_for_a_while_ends_nothing(validator: ValidatorLocalnet, tmp_path: Path) -> None:
    """What was delivered could not be noted, and the link's flow run failed."""
    side = Side(tmp_path, validator)
    told = tmp_path / "answers" / "told"
    side.result("one")
    told.touch()  # no folder can be made there
    async with side.talking():
        await side.until(lambda: len(side.waits) > 2)
        told.unlink()
        await side.until(lambda: side.answers.waiting() == [])
    assert (told.is_dir(), side.answers.find("one") is not None) == (True, True)


async def test_a_job_that_the_disk_does_not_take_is_refused_and_taken_later(
    validator: ValidatorLocalnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was dropped together with the link, and the validator waited for an answer to it."""
    side = Side(tmp_path, validator)

    def full(_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    validator.push("one", PAYLOAD)
    with monkeypatch.context() as patch:
        patch.setattr(side.inbox, "keep", full)
        async with side.talking():
            assert (await answer(validator, "one"))["reason"] == "busy"
    assert side.waits == []
    async with side.talking():
        await side.until(lambda: side.inbox.find("one"))


def test_an_answer_is_found_while_others_move_it(
    validator: ValidatorLocalnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks, into one folder and then the other, it was moved back, and its job was done once more."""
    side = Side(tmp_path, validator)
    side.result("one")
    (standing,) = side.answers.waiting()
    side.answers.delivered(standing)
    other = threading.Thread(target=side.answers.again, args=[standing])
    read = validator_answers._read

    def read_then_let_the_other_move_it(path: Path) -> Answer | None:
        found = read(path)
        if other.ident is None:
            other.start()
            other.join(0.2)
        return found

    monkeypatch.setattr(validator_answers, "_read", read_then_let_the_other_move_it)
    found = side.answers.find("one")
    other.join()
    assert found == standing
