"""What NEAR's nodes say, through the worker's own client."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import is_dataclass
from typing import Any

import httpx
from pydantic import BaseModel

from bench.fuzzing.decoder import DEEP_JSON, Bytes, Decoder, agree, event_loop, presentable, well_said
from bench.fuzzing.near import vectors
from bench.fuzzing.near_samples import CONTRACT, HASH, HEIGHT, REQUEST, event_log, header, outcome, receipt
from millrace.errors import Declined, MillraceError, Permanent, Transient, UnknownOutcome
from protocols.http_json import JsonServer
from protocols.near.answers import WaitUntil
from protocols.near.contract import ExecutionRequest
from protocols.near.events import SeenHeight
from protocols.near.keys import hash_bytes
from protocols.near.request_events import FoundRequests
from protocols.near.rpc import NearRpc
from protocols.near.rpc_errors import (
    ExecutionFailed,
    NotTaken,
    execution_failure,
    query_error,
    read_error,
    send_error,
)
from protocols.near.rpc_events import RpcSource
from protocols.near.transactions import SignedTransaction

_SIGNED = SignedTransaction.from_bytes(bytes.fromhex(vectors()[0]["signed"]))
_STATUSES = (200, 200, 200, 200, 200, 200, 204, 301, 400, 401, 404, 429, 500, 503)
_LARGEST = 1 << 128

Question = Callable[[NearRpc], Coroutine[Any, Any, object]]


class _Node:
    """Answers each request with the next of `bodies`, the last one again and again."""

    def __init__(self) -> None:
        self.status, self.header, self.bodies = 200, b"", [b""]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        headers = [(b"Location", self.header), (b"Retry-After", self.header)]
        return httpx.Response(self.status, headers=headers, stream=httpx.ByteStream(body))

    def say(self, source: Bytes, *, lines: bool = True) -> None:
        """What an input says: a status, the length of a header, the header, the bodies."""
        self.status = _STATUSES[source.byte() % len(_STATUSES)]
        self.header = source.take(source.byte() % 48).replace(b"\r", b"").replace(b"\n", b"")
        rest = source.rest()
        self.bodies = rest.split(b"\n") if lines else [rest]


def answered(server: JsonServer) -> None:
    """Have `NODE` answer in place of the server."""
    server._http = httpx.AsyncClient(transport=httpx.MockTransport(NODE), follow_redirects=False)


NODE = _Node()
_rpc = NearRpc(["http://node.invalid"])
answered(_rpc._endpoints[0]._server)

_QUESTIONS: tuple[Question, ...] = (
    lambda rpc: rpc.status(),
    lambda rpc: rpc.view_access_key("a.near", "ed25519:x"),
    lambda rpc: rpc.view_account("a.near"),
    lambda rpc: rpc.block(),
    lambda rpc: rpc.block(HEIGHT),
    lambda rpc: rpc.call_function(CONTRACT, "get_request"),
    lambda rpc: rpc.send_tx(_SIGNED),
    lambda rpc: rpc.tx(HASH, "a.near", WaitUntil.final),
    lambda rpc: rpc.receipt_origin(HASH),
    lambda rpc: RpcSource(rpc, CONTRACT).at(HEIGHT),
)
_SEND = 6


def check_node(given: bytes) -> None:
    """A byte says what is asked; what is answered, one answer a line, follows.

    After a transaction went out, no error may say that it can be made anew unless a node refused it.
    """
    source = Bytes(given)
    number = source.byte() % len(_QUESTIONS)
    NODE.say(source)
    try:
        answer = event_loop().run_until_complete(_QUESTIONS[number](_rpc))
    except MillraceError as error:
        well_said(error)
        agree(number != _SEND or _tells_what_became_of_it(error), f"{type(error).__name__} of a sent transaction")
        return
    check_numbers(answer)
    if isinstance(answer, SeenHeight):
        check_height(answer)


def _tells_what_became_of_it(error: MillraceError) -> bool:
    return not isinstance(error, Transient) or isinstance(error, NotTaken)


def check_numbers(answer: object) -> None:
    """Amounts, heights and nonces are unsigned; whatever stores or adds them counts on it."""
    if isinstance(answer, int):
        agree(0 <= answer < _LARGEST, f"a number with {answer.bit_length()} bits")
    elif isinstance(answer, BaseModel):
        check_numbers([value for name, value in answer if name not in ("permission", "failure")])
    elif is_dataclass(answer) and not isinstance(answer, type):
        check_numbers(list(vars(answer).values()))
    elif isinstance(answer, list | tuple):
        for item in answer:
            check_numbers(item)


def check_height(seen: SeenHeight) -> None:
    """What a block has in it is the contract's, and comes through a file as it is."""
    agree(seen.height == HEIGHT, "another height than was asked for")
    agree(seen.skipped or len(hash_bytes(seen.block_hash)) == len(hash_bytes(seen.prev_hash)), "a block without a hash")
    check_found(FoundRequests(tuple(one.request for one in seen.requests), seen.unreadable))
    for one in seen.requests:
        agree(one.context.contract_id == CONTRACT, "a request to somebody else")


def check_found(found: FoundRequests) -> None:
    """Requests come through a file as they are, and words are fit to be shown."""
    for words in found.unreadable:
        presentable(words)
    for request in found.requests:
        agree(ExecutionRequest.model_validate_json(request.model_dump_json()) == request, "another one once persisted")
        agree(len(bytes.fromhex(request.data_id)) == 32, "a data id of another length")
        check_numbers(request)


def check_error(given: bytes) -> None:
    """An error's meaning for a question, for a sent transaction, and the failure of one that was carried out."""
    try:
        body = json.loads(given)
    except (ValueError, RecursionError):
        return
    error = read_error(body)
    says_so = isinstance(body, dict) and isinstance(body.get("error"), dict)
    agree((error is not None) == says_so, "an error that is overlooked, or made up")
    failed = execution_failure(body)
    well_said(failed)
    agree(not isinstance(failed, Transient) or isinstance(failed, NotTaken), "a failure that goes away by itself")
    if isinstance(failed, ExecutionFailed):
        agree(isinstance(failed.words, str), "words that are none")
    if error is None:
        return
    asked, sent = query_error(error, "query", "a node"), send_error(error, "a node")
    well_said(asked)
    well_said(sent)
    agree(isinstance(asked, Transient | Permanent), "a question whose outcome is unknown")
    agree(_tells_what_became_of_it(sent), "a sent transaction that may be made anew")
    agree(isinstance(sent, UnknownOutcome | NotTaken | Permanent | Declined), "a sent transaction of no fate")


def _answers() -> Iterator[bytes]:
    sync = {"latest_block_height": 9, "latest_block_hash": HASH, "syncing": False}
    where = {"block_height": 9, "block_hash": HASH}
    origin = {"transaction_hash": HASH, "sender_account_id": "a.near"}
    block = {"header": {**header(), "height": 9}}
    executed = {"receipts_outcome": [outcome({"SuccessValue": "NDI="}, ["x"])]}
    done = {"final_execution_status": "FINAL", "status": {"SuccessValue": ""}, **executed}
    cause = {"type": "receipt_processing", "receipt_hash": HASH}
    logs = [event_log({"request_data": json.dumps(REQUEST), "data_id": [7] * 32})]
    proof = {"outcome_proof": outcome({"SuccessValue": ""}, logs)}
    answers: tuple[list[object], ...] = (
        [{"chain_id": "testnet", "sync_info": sync}],
        [{"nonce": 4, "permission": "FullAccess", **where}],
        [{"amount": "1" + "0" * 24, "locked": "0", **where}],
        [block],
        [{"header": header()}],
        [{"result": [110, 117, 108, 108], "logs": [], **where}],
        [{**done, "transaction_outcome": outcome({"SuccessReceiptId": HASH}, [])}],
        [done],
        [origin],
        [block, {"header": header()}, {"block_hash": HASH, "changes": [{"cause": cause}]}, proof, receipt(), origin],
    )
    for number, results in enumerate(answers):
        yield _asked(number, *({"result": result} for result in results))
        yield bytes([number, 0, 0]) + DEEP_JSON
        yield bytes([number, 0, 0]) + b'{"result":null}'
    yield _asked(_SEND, {"result": {"final_execution_status": "EXECUTED", "status": {"Failure": _FAILURES[0]}}})
    yield _asked(5, {"result": {"error": "access key x does not exist while viewing"}})
    for error in _ERRORS:
        yield _asked(_SEND, {"error": error})
        yield _asked(7, {"error": error})


def _asked(question: int, *answers: dict[str, object]) -> bytes:
    return bytes([question, 0, 0]) + b"\n".join(json.dumps({"jsonrpc": "2.0", **one}).encode() for one in answers)


_FAILURES: tuple[dict[str, Any], ...] = (
    {"ActionError": {"index": 0, "kind": {"FunctionCallError": {"ExecutionError": "Smart contract panicked: no"}}}},
    {"InvalidTxError": {"InvalidNonce": {"tx_nonce": 1, "ak_nonce": 2}}},
    {"InvalidTxError": {"NotEnoughBalance": {"signer_id": "a.near", "balance": "1", "cost": "2"}}},
    {"InvalidTxError": {"InvalidAccessKeyError": {"NotEnoughAllowance": {}}}},
    {"InvalidTxError": "Expired"},
)
_ERRORS: tuple[dict[str, Any], ...] = (
    *(
        {
            "name": "HANDLER_ERROR",
            "cause": {"name": "INVALID_TRANSACTION", "info": {}},
            "data": {"TxExecutionError": one},
        }
        for one in _FAILURES
    ),
    {"cause": {"name": "TIMEOUT_ERROR"}, "code": -32000, "message": "Server error", "data": "Timeout"},
    {"cause": {"name": "UNKNOWN_TRANSACTION", "info": {"requested_transaction_hash": HASH}}},
    {"code": -32700, "message": "Parse error"},
    {"code": -32601, "message": "Method not found"},
    {"code": -32000, "data": "Transaction X doesn't exist"},
    {"cause": {"name": "INVALID_TRANSACTION", "info": {"context": {"ShardCongested": {"shard_id": 1}}}}},
)


def _errors() -> Iterator[bytes]:
    yield from (json.dumps({"error": error}).encode() for error in _ERRORS)
    yield from (json.dumps(failure).encode() for failure in _FAILURES)
    yield b'{"error":{"cause":{"name":"\\ud800"},"message":"\\u001b[1m"}}'
    yield b'{"error":' * 300


DECODERS = (
    Decoder("near rpc", check_node, _answers, 4_096),
    Decoder("near rpc error", check_error, _errors, 2_800),
)
