"""Both transports against the local validator: what comes in, what counts as delivered, and what breaks a link."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

import pytest

from localnet.validator import ValidatorLocalnet
from millrace.errors import Permanent, Transient
from protocols.validator.link import Undeliverable, ValidatorLink, validator_label
from protocols.validator.messages import JobMessage, JobResult, Malformed, Unknown
from protocols.validator.polling import polling_link
from protocols.validator.websocket import websocket_link

TOKEN = "a-token-of-the-test"
PAYLOAD = {"kind": "matmul-i32-v1", "block_hash": "ab" * 32, "n": 8}
RESULT = JobResult(job_id="one", worker_address="cpc1us", result_hash="cd" * 32).model_dump_json()


@pytest.fixture
def validator() -> Iterator[ValidatorLocalnet]:
    with ValidatorLocalnet(token=TOKEN) as validator:
        yield validator


def link_to(
    validator: ValidatorLocalnet, transport: str, token: str = TOKEN
) -> AbstractAsyncContextManager[ValidatorLink]:
    if transport == "ws":
        return websocket_link(validator.url, token, ping_seconds=5)
    return polling_link(validator.http_url, token, worker_address="cpc1us", poll_seconds=0.01)


both = pytest.mark.parametrize("transport", ["ws", "http"])


@both
async def test_jobs_come_in_and_answers_go_out(validator: ValidatorLocalnet, transport: str) -> None:
    validator.push("one", PAYLOAD)
    async with link_to(validator, transport) as link:
        message = await anext(link.messages())
        assert isinstance(message, JobMessage)
        assert (message.job_id, message.task_id, message.payload) == ("one", "task-one", PAYLOAD)
        await link.deliver(RESULT)
        assert validator.answer("one", 0)["result_hash"] == "cd" * 32


@both
@pytest.mark.parametrize("token", ["", "another"])
async def test_a_wrong_token_is_for_a_person_to_mend_and_is_not_told(
    validator: ValidatorLocalnet, transport: str, token: str
) -> None:
    with pytest.raises(Permanent, match="does not let us in: status 401") as caught:
        async with link_to(validator, transport, token) as link:
            await anext(link.messages())
    assert "MILLRACE_VALIDATOR__TOKEN" in caught.value.hint
    assert token == "" or token not in str(caught.value)


@both
@pytest.mark.parametrize("status", [404, 429, 500, 503])
async def test_a_validator_that_is_ill_is_tried_again_later(
    validator: ValidatorLocalnet, transport: str, status: int
) -> None:
    validator.refuse(status)
    with pytest.raises(Transient):
        async with link_to(validator, transport) as link:
            await anext(link.messages())


@both
async def test_a_validator_that_is_gone_is_tried_again_later(transport: str) -> None:
    with ValidatorLocalnet() as gone:
        pass
    with pytest.raises(Transient, match="cannot be reached"):
        async with link_to(gone, transport) as link:
            await anext(link.messages())


async def test_a_connection_cut_without_a_word_ends_the_messages(validator: ValidatorLocalnet) -> None:
    async with link_to(validator, "ws") as link:
        waiting = asyncio.ensure_future(anext(link.messages()))
        await asyncio.to_thread(validator.desk.wait, lambda: validator.desk.connections, 10)
        validator.cut()
        with pytest.raises(Transient, match="broke"):
            await waiting


async def test_what_a_dying_connection_swallowed_does_not_count_as_delivered(validator: ValidatorLocalnet) -> None:
    """The bytes went out, and nobody read them: without the ping it would look as if they had been."""
    validator.swallow(1)
    async with link_to(validator, "ws") as link:
        with pytest.raises(Transient):
            await link.deliver(RESULT)
    assert validator.desk.answers_to("one") == []


async def test_over_http_a_refused_answer_is_refused_for_good(validator: ValidatorLocalnet) -> None:
    async with link_to(validator, "http") as link:
        with pytest.raises(Undeliverable, match="status 422"):
            await link.deliver('{"type":"job_result","job_id":"one"}')


async def test_unknown_and_malformed_messages_do_not_end_a_link(validator: ValidatorLocalnet) -> None:
    for said in ("{", b"\x00\x01", {"type": "hello"}, {"type": "job", "job_id": "bad"}):
        validator.say(said)
    validator.push("one", PAYLOAD)
    async with link_to(validator, "ws") as link:
        messages = link.messages()
        kinds = [type(await anext(messages)) for _ in range(5)]
    assert kinds == [Unknown, Unknown, Unknown, Malformed, JobMessage]


async def test_a_message_too_long_breaks_the_link_and_nothing_else(validator: ValidatorLocalnet) -> None:
    validator.say("x" * (2 << 20))
    with pytest.raises(Transient):
        async with link_to(validator, "ws") as link:
            await anext(link.messages())


async def test_a_redirect_is_not_followed(validator: ValidatorLocalnet) -> None:
    validator.refuse(302)
    with pytest.raises(Transient, match="status 302"):
        async with link_to(validator, "ws"):
            pass


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("wss://validator.example/worker?key=secret", "validator.example"),
        ("ws://user:secret@[::1]:8080/worker", "[::1]:8080"),
        ("https://validator.example:8443", "validator.example:8443"),
    ],
)
def test_the_label_has_no_secret(url: str, label: str) -> None:
    assert validator_label(url) == label


@pytest.mark.parametrize("url", ["", "nothing.example", "ftp://host/x", "ws://", "ws://host:port", "ws://[::1"])
def test_what_is_no_address_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(Permanent) as caught:
        validator_label(url)
    assert url == "" or url not in str(caught.value)
