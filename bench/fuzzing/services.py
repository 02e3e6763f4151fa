"""What services answer over HTTP: gateways, Pinata, a kubo daemon. Each read by the client that the worker uses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
from ipfshttpclient.client.base import ResponseBase
from ipfshttpclient.encoding import get_encoding
from ipfshttpclient.http_common import stream_decode_full
from pydantic import SecretStr

from bench.fuzzing.content import FILES, LIMITS
from bench.fuzzing.decoder import DEEP_JSON, Bytes, Decoder, agree, event_loop, presentable, well_said
from protocols.ipfs.cid import CID
from protocols.ipfs.errors import (
    ContentRefused,
    ContentUnavailable,
    InvalidBlock,
    InvalidDag,
    LimitExceeded,
    PublishFailed,
    PublishRefused,
    UnsupportedContent,
)
from protocols.ipfs.gateway import Gateway
from protocols.ipfs.http_limits import retry_after_seconds
from protocols.ipfs.importer import import_file
from protocols.ipfs.kubo_answers import imported_root, pinned, version_in
from protocols.ipfs.kubo_client import DaemonRefused, as_our_errors
from protocols.ipfs.pin_polling import PinPolling
from protocols.ipfs.pinata import Pinata
from protocols.ipfs.uploads import Upload, UploadRecords, UploadState

_NOW = 1_800_000_000.0
_SECONDS = 60.0
_STATUSES = (200, 200, 200, 200, 201, 204, 206, 302, 400, 401, 403, 404, 406, 410, 429, 500, 503, 504)
_TYPES = ("application/vnd.ipld.raw", "application/vnd.ipld.car; version=1", "text/html", "application/json", "")
_HEADERS = ("Content-Length", "Content-Encoding", "Location", "Retry-After", "X-RateLimit-Reset", "Content-Type")
_CONTENT = b"a result\n"
_CID = import_file(_CONTENT).cid
_LARGE = bytes(300_000)
_LARGE_CID = import_file(_LARGE).cid

_answer = httpx.Response(200)


def answered(source: Bytes) -> httpx.Response:
    """The response that an input describes: status, type, one more header, and the rest is the body."""
    status, kind = _STATUSES[source.byte() % len(_STATUSES)], _TYPES[source.byte() % len(_TYPES)]
    extra = source.byte()
    headers = [(b"Content-Type", kind.encode())]
    if extra & 0x80:
        value = source.take(source.byte() % 48).replace(b"\r", b"").replace(b"\n", b"")
        headers.append((_HEADERS[extra % len(_HEADERS)].encode(), value))
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(source.rest()))


def client_answered_by_the_input() -> httpx.AsyncClient:
    """A client whose every request is answered with the response set last."""
    return httpx.AsyncClient(transport=httpx.MockTransport(_again), follow_redirects=False)


def _again(_: httpx.Request) -> httpx.Response:
    # A response can be read once, and a client may ask several times.
    return httpx.Response(_answer.status_code, headers=_answer.headers.raw, stream=_answer.stream)


def wait_for(call: Callable[[], Coroutine[Any, Any, Any]], answer: httpx.Response) -> Any:
    """What `call` returns when its requests are answered with `answer`."""
    global _answer
    _answer = answer
    return event_loop().run_until_complete(call())


_client = client_answered_by_the_input()


def check_gateway(given: bytes) -> None:
    source = Bytes(given)
    root = list(FILES)[source.byte() % len(FILES)]
    gateway = Gateway("http://gateway.invalid", _client, allow_private=True, clock=lambda: _NOW)
    try:
        verified = wait_for(lambda: gateway.fetch(root, LIMITS, _SECONDS), answered(source))
    except (
        ContentUnavailable,
        ContentRefused,
        InvalidBlock,
        LimitExceeded,
        UnsupportedContent,
        InvalidDag,
    ) as error:
        well_said(error)
        return
    agree(verified.content == FILES[root][0], "another file than the one that was asked for")


def check_pinata(given: bytes) -> None:
    source = Bytes(given)
    cid, content = ((_CID, _CONTENT), (_LARGE_CID, _LARGE))[source.byte() & 1 & (source.byte() == 0)]
    try:
        published = wait_for(lambda: _pinata.publish(cid, content, "result"), answered(source))
    except (PublishFailed, PublishRefused) as error:
        well_said(error)
        return
    agree(CID.parse(published.cid).names_same_as(cid), "published under another CID")


class _NoRecords(UploadRecords):
    """Nothing is kept from one input to the next."""

    def find(self, cid: CID, service: str) -> Upload | None:
        return None

    def note(self, upload: Upload, state: UploadState, requestid: str = "") -> None:
        pass


_pinata = Pinata(
    SecretStr("not.a.token"),
    _client,
    records=_NoRecords(Path()),
    polling=PinPolling(deadline_seconds=0.0),
    clock=lambda: _NOW,
)


def check_kubo(given: bytes) -> None:
    """The first byte says which answer it is, the second where the body is cut in two."""
    source = Bytes(given)
    read = _KUBO[source.byte() % len(_KUBO)]
    cut = source.byte()
    pieces = iter([source.take(cut), source.rest()])
    try:
        with as_our_errors("/ip4/127.0.0.1/tcp/5001"):
            answers: list[Any] = stream_decode_full([], (piece for piece in pieces), get_encoding("json"))
            if len(answers) != 1:
                raise AssertionError("what the library does about it")
            read(ResponseBase(answers[0]))
    except (DaemonRefused, ContentUnavailable, PublishFailed, PublishRefused) as error:
        well_said(error)


_KUBO: tuple[Callable[[Any], object], ...] = (
    lambda answer: presentable(version_in(answer)),
    imported_root,
    pinned,
)


def check_waiting(given: bytes) -> None:
    name, _, value = given.partition(b"\0")
    header = (b"Retry-After", b"X-RateLimit-Reset")[len(name) % 2]
    wait = retry_after_seconds(httpx.Headers([(header, value)]), lambda: _NOW)
    agree(wait is None or (math.isfinite(wait) and 0 <= wait <= 3600), f"a wait of {wait} seconds")


def _gateway_seeds() -> Iterator[bytes]:
    for number, (content, car) in enumerate(FILES.values()):
        yield bytes([number, 0, 0, 0]) + content
        yield bytes([number, 0, 1, 0]) + car
        yield bytes([number, 14, 0, 0x83, 4]) + b"120 "
    yield bytes([0, 7, 0, 0x80, 8]) + b"mailto:x"


def _pinata_seeds() -> Iterator[bytes]:
    yield b"\0\0\0\3\0" + json.dumps({"IpfsHash": str(_CID), "PinSize": 9, "isDuplicate": True}).encode()
    yield b"\1\0\0\3\0" + json.dumps({"data": {"cid": str(_LARGE_CID), "id": "x"}}).encode()
    yield b"\0\0\0\3\0" + DEEP_JSON
    yield bytes([0, 0, 7, 3, 0x80, 8]) + b"mailto:x"
    yield b"\0\0\11\3\0" + json.dumps({"error": {"reason": "INVALID_CREDENTIALS", "details": "token"}}).encode()


def _kubo_seeds() -> Iterator[bytes]:
    yield b"\0\xff" + DEEP_JSON
    answers = (
        {"Version": "0.38.0", "Commit": "", "Repo": "18"},
        {"Root": {"Cid": {"/": str(_CID)}, "PinErrorMsg": ""}},
        {"Root": {"Cid": {"/": str(_CID)}, "PinErrorMsg": "disk full"}},
        {"Keys": {str(_CID): {"Type": "recursive"}}},
        {"Message": "no", "Code": 0, "Type": "error"},
    )
    for answer in answers:
        for number in range(len(_KUBO)):
            yield bytes([number, 200]) + json.dumps(answer).encode()


DECODERS = (
    Decoder("gateway", check_gateway, _gateway_seeds, 2048),
    Decoder("pinata", check_pinata, _pinata_seeds, 2048),
    Decoder("kubo", check_kubo, _kubo_seeds, 2048),
    Decoder(
        "retry-after",
        check_waiting,
        lambda: (b"\x00120", b"x\x001800000100", b"\0Fri, 15 Jan 2027 08:00:30 GMT", b"\0Fri, 15 Jan 2027 08:00 +9999"),
        64,
    ),
)
