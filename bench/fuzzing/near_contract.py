"""Blocks, events and views of the contract on NEAR, whoever tells them: through the worker's own readers."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from bench.fuzzing.decoder import DEEP_JSON, Bytes, Decoder, agree, event_loop, well_said
from bench.fuzzing.near_node import NODE, answered, check_found, check_height, check_numbers
from bench.fuzzing.near_samples import (
    CONTRACT,
    HASH,
    HEIGHT,
    REQUEST,
    event_log,
    header,
    outcome,
    receipt,
    request_texts,
)
from millrace.errors import MillraceError, Permanent, Transient
from protocols.near.answers import ViewResult
from protocols.near.contract import Dialect
from protocols.near.contract_views import Contract, StoredRequest, dialect_of
from protocols.near.neardata import NeardataSource
from protocols.near.request_events import FoundRequests, requests_in
from protocols.near.rpc import NearRpc

_blocks = NeardataSource("http://data.invalid", CONTRACT)
answered(_blocks._server)


def check_block(given: bytes) -> None:
    """A whole block, or whatever else a block server sends."""
    NODE.say(Bytes(given), lines=False)
    try:
        seen = event_loop().run_until_complete(_blocks.at(HEIGHT))
    except MillraceError as error:
        agree(isinstance(error, Transient), "a height that is never read again")
        well_said(error)
        return
    if seen is None:
        agree(NODE.status == 404, "a chain that has not come so far")
        return
    if seen.skipped:
        agree(NODE.status == 204 or json.loads(NODE.bodies[0]) is None, "a height that is skipped for no reason")
        return
    check_numbers(seen)
    check_height(seen)
    known = _logs(json.loads(NODE.bodies[0]))
    found = FoundRequests(tuple(one.request for one in seen.requests), seen.unreadable)
    agree(requests_in(known) == found, "other requests than the logs of the contract's receipts have")


def _logs(body: Any) -> list[str]:
    """Of the receipts that the contract ran without failing."""
    found: list[str] = []
    for shard in body["shards"]:
        for executed in shard["receipt_execution_outcomes"]:
            outcome, receipt = executed["execution_outcome"]["outcome"], executed.get("receipt")
            status = outcome["status"]
            good = isinstance(status, dict) and status.keys() <= {"SuccessValue", "SuccessReceiptId"}
            if good and outcome["executor_id"] == CONTRACT and receipt and receipt["receiver_id"] == CONTRACT:
                found += outcome["logs"]
    return found


def check_events(given: bytes) -> None:
    """If the first byte is odd, logs by line; else what follows is the text inside an event's only entry."""
    text = given[1:].decode("utf-8", "surrogateescape")
    inside = not given or not given[0] & 1
    found = requests_in([event_log({"request_data": text, "data_id": [7] * 32})] if inside else text.split("\n"))
    check_found(found)
    if inside:
        agree(len(found.requests) + len(found.unreadable) == 1, "an entry that is lost, or two of one")


class _Views(NearRpc):
    """A node whose contract returns what it is told to."""

    said = b""

    async def call_function(
        self, contract_id: str, method: str, args: dict[str, Any] | None = None, *, at: int | str | None = None
    ) -> ViewResult:
        return ViewResult(result=list(self.said), block_height=HEIGHT, block_hash=HASH)


_views = _Views(["http://node.invalid"])
_contract = Contract(_views, CONTRACT, Dialect.head)
_VIEWS: tuple[Callable[[], Coroutine[Any, Any, object]], ...] = (
    lambda: _contract.get_request(7),
    _contract.get_pricing,
    _contract.get_max_limits,
    _contract.is_paused,
    _contract.get_config,
    _contract.estimate_cost,
    lambda: dialect_of(_views, CONTRACT),
)


def check_view(given: bytes) -> None:
    """A byte says what the contract is asked; what its method returns follows."""
    source = Bytes(given)
    number = source.byte() % len(_VIEWS)
    _views.said = source.rest()
    try:
        answer = event_loop().run_until_complete(_VIEWS[number]())
    except Permanent as error:
        well_said(error)
        return
    check_numbers(answer)
    if isinstance(answer, StoredRequest):
        again = StoredRequest.model_validate_json(answer.model_dump_json())
        agree(again == answer, "another request once persisted")


def _events() -> Iterator[bytes]:
    for text in request_texts():
        yield b"\0" + text.encode()
        yield b"\1" + event_log({"request_data": text, "data_id": list(range(32))}).encode()
    yield b"\1a log\n" + event_log({"data_id": []}, 5, standard="near-offshore").encode() + b"\nEVENT_JSON:{}"
    yield b"\0" + DEEP_JSON
    yield b"\1EVENT_JSON:" + DEEP_JSON


def _whole_blocks() -> Iterator[bytes]:
    logs = [event_log({"request_data": json.dumps(REQUEST), "data_id": [7] * 32})]
    statuses: tuple[object, ...] = ({"SuccessValue": ""}, {"SuccessReceiptId": HASH}, {"Failure": {}}, "Unknown")
    for status in statuses:
        executed = {"execution_outcome": outcome(status, logs), "receipt": receipt(), "tx_hash": HASH}
        block = {"block": {"header": header()}, "shards": [{"receipt_execution_outcomes": [executed]}]}
        yield b"\0\0" + json.dumps(block, separators=(",", ":")).encode()
    yield b"\0\0null"
    yield b"\0\0" + DEEP_JSON
    yield b"\7\x13http://old.data.invalid/x"
    yield b"\7\x08mailto:x"
    yield b"\12\0{}"


def _returned() -> Iterator[bytes]:
    returned: tuple[object, ...] = (
        {**REQUEST, "output_submitted": False},
        ["1" + "0" * 22, "1" + "0" * 15, "1" + "0" * 18],
        [10**11, 60],
        False,
        ["owner.near", "operator.near"],
        "70001000000000000000000",
        ["1", "2", "3", "4"],
    )
    for number, one in enumerate(returned):
        yield bytes([number]) + json.dumps(one).encode()
        yield bytes([number]) + b"null"
        yield bytes([number]) + DEEP_JSON


DECODERS = (
    Decoder("near block", check_block, _whole_blocks, 4_096),
    Decoder("near events", check_events, _events, 2_048),
    Decoder("near view", check_view, _returned, 2_048),
)
