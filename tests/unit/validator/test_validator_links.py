"""Both transports against the local validator: what comes in, what counts as delivered, and what breaks a link."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

import pytest
from websockets.utils import accept_key

from localnet.validator import ValidatorLocalnet
from millrace.errors import Permanent, Transient
from protocols.validator import websocket
from protocols.validator.link import NotNow, Undeliverable, ValidatorLink, validator_label
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
        # A ping is answered when the message has arrived, which can be a moment before it is taken up.
        assert validator.answer("one", 10)["result_hash"] == "cd" * 32


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


@pytest.mark.parametrize("status", [401, 403, 404, 409])
async def test_over_http_an_answer_that_is_not_taken_yet_ends_nothing(
    validator: ValidatorLocalnet, status: int
) -> None:
    """A proxy that forbids one answer ended each run of the link, before the other answers were sent."""
    async with link_to(validator, "http") as link:
        validator.refuse(status)
        with pytest.raises(NotNow, match=str(status)):
            await link.deliver(RESULT)


async def test_unknown_and_malformed_messages_do_not_end_a_link(validator: ValidatorLocalnet) -> None:
    for said in ("{", b"\x00\x01", {"type": "hello"}, {"type": "job", "job_id": "bad"}):
        validator.say(said)
    validator.push("one", PAYLOAD)
    async with link_to(validator, "ws") as link:
        messages = link.messages()
        kinds = [type(await anext(messages)) for _ in range(5)]
    assert kinds == [Unknown, Unknown, Unknown, Malformed, JobMessage]


async def test_the_local_validator_says_and_hears_anything_over_http(validator: ValidatorLocalnet) -> None:
    """An id that was a list, and a worker's message nested too deep, broke each connection to it without a word."""
    validator.say({"type": "job", "job_id": ["one"], "payload": {}})
    async with link_to(validator, "http") as link:
        assert isinstance(await anext(link.messages()), Malformed)
        with pytest.raises(Undeliverable, match="status 422"):
            await link.deliver('{"type":["job_result"]}')
    assert validator.desk.heard(b"[" * 100_000)


async def test_a_message_too_long_breaks_the_link_and_nothing_else(validator: ValidatorLocalnet) -> None:
    validator.say("x" * (2 << 20))
    with pytest.raises(Transient):
        async with link_to(validator, "ws") as link:
            await anext(link.messages())


async def test_a_message_in_a_few_pieces_is_read_as_a_whole(hostile: socket.socket) -> None:
    text = json.dumps({"type": "job", "job_id": "one", "payload": {"of": "\u00e9"}}, ensure_ascii=False).encode()
    pieces = [text[at : at + 1] for at in range(len(text))]  # some end within a character
    frames = [bytes([0x01 if at == 0 else 0x00, len(piece)]) + piece for at, piece in enumerate(pieces)]
    shaking = asyncio.ensure_future(shake_hands(hostile))
    async with websocket_link(f"ws://127.0.0.1:{hostile.getsockname()[1]}/worker") as link:
        with await shaking as connection:
            connection.sendall(b"".join(frames) + b"\x80\x00")
            message = await anext(link.messages())
    assert isinstance(message, JobMessage)
    assert message.payload == {"of": "\u00e9"}


async def test_a_message_that_never_ends_breaks_the_link(hostile: socket.socket) -> None:
    """Empty pieces have no bytes that a limit could count: each took memory until the process was killed for it."""
    shaking = asyncio.ensure_future(shake_hands(hostile))
    async with websocket_link(f"ws://127.0.0.1:{hostile.getsockname()[1]}/worker") as link:
        with await shaking as connection:
            connection.sendall(b"\x01\x00" + b"\x00\x00" * 10_000)
            async with asyncio.timeout(10):
                with pytest.raises(Transient, match="more than 4096 pieces"):
                    await anext(link.messages())


async def test_a_redirect_is_not_followed(validator: ValidatorLocalnet) -> None:
    validator.refuse(302)
    with pytest.raises(Transient, match="status 302"):
        async with link_to(validator, "ws"):
            pass


@both
async def test_a_token_is_in_no_log_however_much_is_logged(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    """The library for WebSockets logs every header; a token this short is not masked elsewhere either."""
    caplog.set_level(logging.DEBUG)
    with ValidatorLocalnet(token="toki") as validator:
        validator.push("one", PAYLOAD)
        async with link_to(validator, transport, "toki") as link:
            await anext(link.messages())
    logged = [record for record in caplog.records if "toki" in record.getMessage()]
    assert {record.name for record in logged} <= {"websockets.server"}, "the validator's own log, in this process"


@both
@pytest.mark.parametrize("token", ["read-from-a-file\n", "two words", "t\u00f6ken", "a\r\nX-Other: 1"])
async def test_a_token_that_no_header_can_carry_is_refused_without_quoting_it(
    validator: ValidatorLocalnet, transport: str, token: str
) -> None:
    """The first was tried for ever, others ended the link's flow run with an error that nobody expected."""
    with pytest.raises(Permanent, match="MILLRACE_VALIDATOR__TOKEN") as caught:
        async with link_to(validator, transport, token) as link:
            await anext(link.messages())
    assert token not in str(caught.value)


@pytest.mark.parametrize("rest", ["?key=secret", "#secret"])
async def test_over_http_an_address_with_a_query_is_refused(validator: ValidatorLocalnet, rest: str) -> None:
    """The path was put after the query."""
    with pytest.raises(Permanent, match="query") as caught:
        async with polling_link(validator.http_url + rest, worker_address="cpc1us", poll_seconds=1):
            pass
    assert "secret" not in str(caught.value)


@pytest.fixture
def hostile() -> Iterator[socket.socket]:
    """A socket that listens and takes little at once."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(20)
        yield listening


async def shake_hands(listening: socket.socket) -> socket.socket:
    """Take a WebSocket, and do nothing with it."""

    def shake() -> socket.socket:
        connection, _ = listening.accept()
        asked = connection.recv(65_536).decode()
        (key,) = re.findall(r"Sec-WebSocket-Key: (\S+)", asked)
        connection.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode()
        )
        return connection

    return await asyncio.to_thread(shake)


@pytest.mark.parametrize("sending", [True, False])
async def test_a_validator_that_reads_nothing_is_left(
    hostile: socket.socket, monkeypatch: pytest.MonkeyPatch, sending: bool
) -> None:
    """Neither sending nor closing ended, and the library's own pings could not get out to notice."""
    monkeypatch.setattr(websocket, "_CLOSE_SECONDS", 0.1)
    url = f"ws://127.0.0.1:{hostile.getsockname()[1]}/worker"
    shaking = asyncio.ensure_future(shake_hands(hostile))
    async with asyncio.timeout(30):
        with pytest.raises(Transient, match="has not answered a ping"):
            async with websocket_link(url, ping_seconds=0.3) as link:
                await (link.deliver("x" * (16 << 20)) if sending else anext(link.messages()))
    (await shaking).close()


async def test_a_validator_with_much_to_say_is_not_taken_for_silent(
    validator: ValidatorLocalnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer to a ping waits behind all of it: under a flood of jobs no link lasted and no result got through."""
    monkeypatch.setattr(websocket, "_CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(websocket, "_MOST_PATIENCE", 1_000)
    for number in range(1_000):
        validator.push(f"job-{number}", {"padding": "x" * 500})
    async with websocket_link(validator.url, TOKEN, ping_seconds=0.2) as link:

        async def take_slowly() -> None:
            async for _ in link.messages():
                await asyncio.sleep(0.0005)

        taking = asyncio.ensure_future(take_slowly())
        try:
            await link.deliver(RESULT)
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
    assert validator.desk.answers_to("one")


async def test_a_validator_that_hangs_up_at_once_is_tried_again_later(hostile: socket.socket) -> None:
    url = f"ws://127.0.0.1:{hostile.getsockname()[1]}/worker"

    def reset(times: int) -> None:
        for _ in range(times):
            connection, _ = hostile.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    resetting = asyncio.ensure_future(asyncio.to_thread(reset, 50))
    for _ in range(50):
        with pytest.raises(Transient):
            async with websocket_link(url):
                pass
    await resetting


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


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nothing.example",
        "ftp://host/x",
        "ws://",
        "ws://host:port",
        "ws://[::1",
        "ws://a..example/x",
        f"ws://{'a' * 64}.example/x",
    ],
)
def test_what_is_no_address_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(Permanent) as caught:
        validator_label(url)
    assert url == "" or url not in str(caught.value)
