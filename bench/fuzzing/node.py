"""A Solana node's JSON-RPC answers, through the worker's own client: solana-py, its HTTP client, our models."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import is_dataclass
from typing import Any

import httpx2
from pydantic import BaseModel
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from bench.fuzzing.chain import ERRORS, PROGRAM, example_job
from bench.fuzzing.decoder import DEEP_JSON, Bytes, Decoder, agree, event_loop, presentable, well_said
from millrace.errors import MillraceError
from millrace.network import Outcome
from protocols.solana import queries
from protocols.solana.fees import PriorityFeePolicy
from protocols.solana.instructions import cancel_job
from protocols.solana.job_account import ACCOUNT_BYTES, DISCRIMINATOR_BASE58, JobStatus, encode_job_account
from protocols.solana.job_reading import fetch_job_account
from protocols.solana.rpc import SolanaRpc
from protocols.solana.transactions import sign_transaction, transaction_outcome

_PAYER = Keypair.from_seed(bytes(32))
_JOB = example_job(JobStatus.pending)
_GENESIS = str(Pubkey.from_bytes(bytes(reversed(range(32)))))
_SIGNATURE = "1" * 64
_MOST = (1 << 64) - 1
_STATUSES = (200, 200, 200, 200, 200, 200, 301, 400, 401, 404, 413, 429, 500, 503)
_TYPES = (b"application/json", b"application/json; charset=utf-8", b"text/html; charset=latin-1", b"")

Question = Callable[[SolanaRpc], Coroutine[Any, Any, object]]
_QUESTIONS: tuple[Question, ...] = (
    lambda rpc: fetch_job_account(rpc, _JOB.address, PROGRAM, "confirmed"),
    lambda rpc: queries.accounts(rpc, [PROGRAM], "finalized"),
    lambda rpc: queries.program_addresses(
        rpc, PROGRAM, account_bytes=ACCOUNT_BYTES, starts=[(0, DISCRIMINATOR_BASE58)]
    ),
    lambda rpc: transaction_outcome(rpc, _SIGNATURE, 100),
    lambda rpc: sign_transaction(rpc, _PAYER, cancel_job(PROGRAM, PROGRAM, _PAYER.pubkey()), PriorityFeePolicy()),
    lambda rpc: queries.transaction_fee(rpc, _SIGNATURE),
    lambda rpc: queries.balance(rpc, PROGRAM),
    queries.block_height,
    lambda rpc: rpc.send("AAAA", preflight=True),
    lambda rpc: _endpoint(rpc).ensure_serves("", 10.0),
)


class _Node:
    """Answers each request with the next of `bodies`, the last one again and again."""

    def __init__(self) -> None:
        self.status, self.kind, self.bodies = 200, b"", [b""]

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        return httpx2.Response(self.status, headers=[(b"Content-Type", self.kind)], content=body)


def _endpoint(rpc: SolanaRpc) -> Any:
    return rpc._endpoints[0]


_node = _Node()
_rpc = SolanaRpc(["http://node.invalid"], genesis_hash=_GENESIS, clock=lambda: 0.0)
# solana-py takes no transport, so its HTTP client is replaced by one of the same kind that has the node inside.
_endpoint(_rpc)._client._provider.session = httpx2.AsyncClient(transport=httpx2.MockTransport(_node))


def check_node(given: bytes) -> None:
    """Three bytes say what is asked, the status and the type; the rest is one answer a line."""
    source = Bytes(given)
    number = source.byte() % len(_QUESTIONS)
    _node.status, _node.kind = _STATUSES[source.byte() % len(_STATUSES)], _TYPES[source.byte() % len(_TYPES)]
    _node.bodies = source.rest().split(b"\n")
    # What the last input left behind must not decide about this one.
    _endpoint(_rpc).serves_genesis_hash = "" if number == len(_QUESTIONS) - 1 else _GENESIS
    try:
        answer = event_loop().run_until_complete(_QUESTIONS[number](_rpc))
    except MillraceError as error:
        well_said(error)
        return
    _check_numbers(answer)
    if isinstance(answer, Outcome):
        presentable(answer.reason)


def _check_numbers(answer: object) -> None:
    """Amounts, slots and heights are unsigned and have 64 bits; whatever stores or adds them counts on it."""
    if isinstance(answer, int):
        agree(0 <= answer <= _MOST, f"a number with {answer.bit_length()} bits")
    elif isinstance(answer, BaseModel):
        _check_numbers({name: value for name, value in answer if name != "err"})
    elif is_dataclass(answer) and not isinstance(answer, type):
        _check_numbers([value for name, value in vars(answer).items() if not name.endswith("_time")])
    elif isinstance(answer, dict):
        _check_numbers(list(answer.values()))
    elif isinstance(answer, list | tuple):
        for item in answer:
            _check_numbers(item)


def _seeds() -> Iterator[bytes]:
    account = {
        "lamports": 3_034_560,
        "owner": str(PROGRAM),
        "data": [base64.b64encode(encode_job_account(_JOB)).decode(), "base64"],
        "executable": False,
        "rentEpoch": _MOST,
        "space": ACCOUNT_BYTES,
    }
    status = {"slot": 7, "err": None, "confirmationStatus": "finalized", "confirmations": None}
    head = {"absoluteSlot": 120, "blockHeight": 110, "epoch": 0, "slotIndex": 1, "slotsInEpoch": 2}
    newest = {"blockhash": _GENESIS, "lastValidBlockHeight": 250}
    simulated = {"err": None, "logs": ["Program log: ok"], "unitsConsumed": 4_000}
    answers: list[list[object]] = [
        [_at(account)],
        [_at([account])],
        [[{"pubkey": str(PROGRAM), "account": account}]],
        [_at([status])],
        [_at(newest), _at(simulated), [{"slot": 1, "prioritizationFee": 10}]],
        [{"slot": 7, "meta": {"fee": 5000, "err": None}}],
        [_at(1_000_000)],
        [110],
        [_SIGNATURE],
        [_GENESIS],
    ]
    for number, results in enumerate(answers):
        yield _asked(number, *({"result": result} for result in results))
    yield _asked(3, {"result": _at([None])}, {"result": head}, {"result": _at([None])})
    for error in ERRORS:
        yield _asked(3, {"result": _at([{**status, "err": error}])})
        yield _asked(4, {"result": _at(newest)}, {"result": _at({**simulated, "err": error})})
        yield _asked(8, {"error": {"code": -32002, "message": "simulation failed", "data": {"err": error}}})
    yield from (bytes([number, 0, 0]) + DEEP_JSON for number in range(len(_QUESTIONS)))
    for code in (-32005, -32016, -32601, -32602):
        yield _asked(2, {"error": {"code": code, "message": "no"}})


def _at(value: object) -> dict[str, object]:
    return {"context": {"slot": 100, "apiVersion": "3.0.0"}, "value": value}


def _asked(question: int, *answers: dict[str, object]) -> bytes:
    lines = (json.dumps({"jsonrpc": "2.0", "id": "1", **answer}).encode() for answer in answers)
    return bytes([question, 0, 0]) + b"\n".join(lines)


DECODERS = (Decoder("solana rpc", check_node, _seeds, 2048),)
