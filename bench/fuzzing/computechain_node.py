"""A ComputeChain node's HTTP answers, through the worker's own client; and results, on their way to a node."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from itertools import zip_longest
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from bench.fuzzing.computechain import check_whole_block, example_block
from bench.fuzzing.decoder import DEEP_JSON, Bytes, Decoder, agree, event_loop, well_said
from millrace.errors import MillraceError
from protocols.computechain.block import Block
from protocols.computechain.events import Event
from protocols.computechain.keys import ComputeKey
from protocols.computechain.rpc import ComputeChainRpc
from protocols.computechain.transaction import ComputeResult, Transaction, submit_result

_KEY = ComputeKey(b"\x01" * 32)
_RESULT = ComputeResult(
    task_id="550e8400-e29b-41d4-a716-446655440000",
    worker_address=_KEY.address,
    result_hash="ab" * 32,
    proof='{"v":1}',
    nonce=7,
    signature="",
)
_STATUSES = (200, 200, 200, 200, 200, 200, 301, 400, 404, 422, 429, 500, 503)
_HEIGHT = 5
_RESULT_FIELDS = ("task_id", "result_hash", "proof", "signature", "nonce")

Question = Callable[[ComputeChainRpc], Coroutine[Any, Any, object]]


async def _events(rpc: ComputeChainRpc) -> list[Event]:
    async with aclosing(rpc.events()) as events:
        return [event async for event in events]


_QUESTIONS: tuple[Question, ...] = (
    lambda rpc: rpc.status(),
    lambda rpc: rpc.block(_HEIGHT),
    lambda rpc: rpc.balance(_KEY.address),
    lambda rpc: rpc.nonce(_KEY.address, pending=True),
    lambda rpc: rpc.receipt("ab" * 32),
    lambda rpc: rpc.send(submit_result(_KEY, _RESULT, nonce=3, gas_price=1_000)),
    _events,
)


class _Node:
    """Answers every request with `status`, one header and `body`."""

    def __init__(self) -> None:
        self.status, self.header, self.body = 200, b"", b""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        headers = [(b"Retry-After", self.header), (b"Location", self.header)]
        return httpx.Response(self.status, headers=headers, stream=httpx.ByteStream(self.body))


_node = _Node()
_rpc = ComputeChainRpc(["http://node.invalid"])
_rpc._endpoints[0]._http = httpx.AsyncClient(
    transport=httpx.MockTransport(_node), base_url="http://node.invalid", follow_redirects=False
)


def check_node(given: bytes) -> None:
    """Three bytes say what is asked, the status and how long a header is; the header and the body follow."""
    source = Bytes(given)
    question = _QUESTIONS[source.byte() % len(_QUESTIONS)]
    _node.status = _STATUSES[source.byte() % len(_STATUSES)]
    _node.header = source.take(source.byte() % 32).replace(b"\r", b"").replace(b"\n", b"")
    _node.body = source.rest()
    try:
        answer = event_loop().run_until_complete(question(_rpc))
    except MillraceError as error:
        well_said(error)
        return
    _check_numbers(answer)
    if isinstance(answer, Block):
        check_whole_block(answer)


def _check_numbers(answer: object) -> None:
    """Heights and nonces are what loops count to, and amounts what is paid with."""
    if isinstance(answer, int):
        agree(0 <= answer < 1 << 256, f"a number with {answer.bit_length()} bits")
    elif isinstance(answer, BaseModel) and not isinstance(answer, Block):
        height = getattr(answer, "height", getattr(answer, "block_height", None))
        agree(height is None or -1 <= height < 1 << 63, f"a height of {height}")


def check_result(given: bytes) -> None:
    """A result that can be made can be signed, and is the same one when a node has parsed it.

    Its fields are what is between zeros: bytes that are no UTF-8 become surrogates, a field that is missing is null.
    """
    texts = [field.decode("utf-8", "surrogateescape") for field in given.split(b"\0")]
    fields = dict(zip_longest(_RESULT_FIELDS, texts[: len(_RESULT_FIELDS)]))
    try:
        ours = ComputeResult.model_validate({**fields, "worker_address": _KEY.address})
    except ValidationError:
        return
    sent = submit_result(_KEY, ours, nonce=3, gas_price=1_000)
    received = Transaction.model_validate(json.loads(sent.model_dump_json()))
    agree(received.hash == sent.hash, "another hash after the way to a node and back")
    agree(ComputeResult.model_validate(received.payload).leaf() == ours.leaf(), "another leaf at the node")


def _node_seeds() -> Iterator[bytes]:
    tx_hash = "ab" * 32
    answers: tuple[list[object], ...] = (
        [{"height": 7, "last_hash": tx_hash, "network": "devnet", "mempool_size": 0, "epoch": 0}],
        [example_block(0), example_block(1), {"detail": "Block not found"}],
        [{"address": _KEY.address, "balance": "1" + "0" * 27, "nonce": 4}],
        [{"address": _KEY.address, "nonce": 4, "pending": True}],
        [{"tx_hash": tx_hash, "status": "confirmed", "block_height": 7, "timestamp": 1, "error": None}],
        [{"status": "received"}, *({"status": "rejected", "error": words} for words in _WORDS)],
        [],
    )
    for number, bodies in enumerate(answers):
        for body in bodies:
            yield bytes([number, 0, 0]) + json.dumps(body).encode()
        yield bytes([number, 0, 0]) + DEEP_JSON
        yield bytes([number, 8, 0]) + b'{"detail": "not there"}'
        yield bytes([number, 10, 3]) + b"120"
        yield bytes([number, 6, 8]) + b"mailto:x"
    event = json.dumps({"type": "tx_confirmed", "tx_hash": tx_hash, "block_height": 7})
    yield bytes([len(_QUESTIONS) - 1, 0, 0]) + f": ping\n\ndata: {event}\n\ndata: {{\n".encode()


_WORDS = ("already_in_pool", "gas_price 1 < min 1000", "mempool_full", "nonce_too_low", "insufficient_balance")


def _results() -> Iterator[bytes]:
    for texts in (("t", "ab" * 32, "", "", "7"), ("ö", "", '{"v":1}', "\\", "-1"), ("t", "", "", "", "1.5"), ("t",)):
        yield "\0".join(texts).encode()
    yield b"\xed\xa0\x80\0\0\0\0000"


DECODERS = (
    Decoder("computechain rpc", check_node, _node_seeds, 4096),
    Decoder("computechain result", check_result, _results),
)
