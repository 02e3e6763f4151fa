"""The RPC's paths, and what the node answers there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from localnet.computechain.chain import Chain
from localnet.computechain.proposer import VALIDATOR_ADDRESSES, VALIDATOR_KEYS
from protocols.computechain.block import NO_HASH
from protocols.computechain.transaction import Transaction

_Value = TypeVar("_Value")
_POWER = 10**24  # in wei, and past what a float holds exactly
_HEIGHT: TypeAdapter[int] = TypeAdapter(int)
_FLAG: TypeAdapter[bool] = TypeAdapter(bool)


class HttpError(Exception):
    """An answer other than 200; `detail` is text, or a list of pydantic's errors."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(str(detail))
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class Request:
    """What a call is made of: the path's variable part, the query and the body."""

    argument: str
    query: Mapping[str, str]
    body: bytes = b""


def status(chain: Chain, request: Request) -> dict[str, Any]:
    """The tip, and how much waits for the next block."""
    height = chain.height()
    tip = chain.block(height)
    return {
        "height": height,
        "last_hash": tip.header.hash if tip else NO_HASH,
        "network": chain.network.name,
        "mempool_size": len(chain.mempool),
        "epoch": _epoch(chain, height),
    }


def block(chain: Chain, request: Request) -> dict[str, Any]:
    """A block by its height, which is the only way to ask for one."""
    found = chain.block(_parsed(_HEIGHT, request.argument, "path", "height"))
    if found is None:
        raise HttpError(404, "Block not found")
    return found.as_json()


def balance(chain: Chain, request: Request) -> dict[str, Any]:
    """Balance and nonce of any text; only here is an amount a string."""
    account = chain.account(request.argument)
    return {"address": request.argument, "balance": str(account.balance_wei), "nonce": account.nonce}


def nonce(chain: Chain, request: Request) -> dict[str, Any]:
    """The next nonce with the pool counted, or without it."""
    pending = _parsed(_FLAG, request.query.get("pending", "true"), "query", "pending")
    found = chain.next_nonce(request.argument) if pending else chain.account(request.argument).nonce
    return {"address": request.argument, "nonce": found, "pending": pending}


def send(chain: Chain, request: Request) -> dict[str, Any]:
    """Take or reject a transaction; a rejection is an answer like any other, not an HTTP error."""
    transaction = _transaction(request.body)
    try:
        error = chain.receive(transaction)
        tx_hash = transaction.hash
    except (UnicodeEncodeError, RecursionError) as problem:
        raise HttpError(400, str(problem)) from problem
    if error is not None:
        return {"tx_hash": tx_hash, "status": "rejected", "error": error}
    return {"tx_hash": tx_hash, "status": "received"}


def receipt(chain: Chain, request: Request) -> dict[str, Any]:
    """What the node believes became of a transaction."""
    found = chain.receipt(request.argument)
    if found is None:
        raise HttpError(404, "Transaction not found")
    return found


def validators(chain: Chain, request: Request) -> dict[str, Any]:
    """Who makes the blocks."""
    listed = [
        {"address": address, "pq_pub_key": key.public_key, "power": _POWER, "is_active": True}
        for address, key in zip(VALIDATOR_ADDRESSES, VALIDATOR_KEYS, strict=True)
    ]
    return {"epoch": _epoch(chain, chain.height()), "validators": listed}


def metrics(chain: Chain, request: Request) -> str:
    """Height and mempool in Prometheus' text format."""
    gauges = {"computechain_block_height": chain.height(), "computechain_mempool_size": len(chain.mempool)}
    return "".join(f"# TYPE {name} gauge\n{name} {value}\n" for name, value in gauges.items())


@dataclass(frozen=True)
class Route:
    """One call: its name for faults and counters, its path with `*` for the variable part, and what answers."""

    name: str
    method: str
    path: tuple[str, ...]
    answer: Callable[[Chain, Request], dict[str, Any] | str] | None  # None: the stream of events

    def matches(self, method: str, path: tuple[str, ...]) -> bool:
        """Whether a request is this call's."""
        fits = all(mine in ("*", theirs) for mine, theirs in zip(self.path, path, strict=False))
        return fits and method == self.method and len(path) == len(self.path)


ROUTES = (
    Route("status", "GET", ("status",), status),
    Route("block", "GET", ("block", "*"), block),
    Route("balance", "GET", ("balance", "*"), balance),
    Route("nonce", "GET", ("nonce", "*"), nonce),
    Route("send", "POST", ("tx", "send"), send),
    Route("receipt", "GET", ("tx", "*", "receipt"), receipt),
    Route("events", "GET", ("events", "stream"), None),
    Route("validators", "GET", ("validators",), validators),
    Route("metrics", "GET", ("metrics",), metrics),
)


def _epoch(chain: Chain, height: int) -> int:
    return max(height, 0) // chain.network.epoch_blocks


def _parsed(adapter: TypeAdapter[_Value], text: str, place: str, name: str) -> _Value:
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        raise HttpError(422, _schema_errors(error, place, name)) from error


def _transaction(body: bytes) -> Transaction:
    """Raises HttpError 422 with pydantic's list for what is no transaction, 400 for what cannot be read at all."""
    try:
        return Transaction.model_validate(json.loads(body))
    except ValidationError as error:
        raise HttpError(422, _schema_errors(error, "body")) from error
    except json.JSONDecodeError as error:
        problem = {"type": "json_invalid", "loc": ["body", error.pos], "msg": "JSON decode error", "input": {}}
        raise HttpError(422, [{**problem, "ctx": {"error": error.msg}}]) from error
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "There was an error parsing the body") from error


def _schema_errors(error: ValidationError, *where: str) -> list[dict[str, Any]]:
    return [{**each, "loc": [*where, *each["loc"]]} for each in error.errors(include_url=False)]
