"""What can go wrong between us and a NEAR RPC node, in terms of the one error tree.

Transient
 ├─ NodeBusy           a time-out, no connection, a node that lags, does not track a shard or faults inside
 │   ├─ UnknownBlock        the node has no such block: not yet, not any more, or there never was one
 │   └─ UnknownTransaction  the node has no such transaction (now): no proof that it will never land
 ├─ NotTaken           the network is too busy for the transaction now; the node did not take it
UnknownOutcome
 ├─ SendUnanswered     no node said what became of the bytes; they may be on their way
 └─ LookFirst          the nonce is used or the block hash too old: maybe by this very transaction, landed before
Permanent
 ├─ EndpointRefused    401, 403, a method not served, a block garbage-collected: this endpoint never will, another may
 ├─ RequestRefused     our request is wrong, any node would say so
 │   └─ UnknownAccessKey    the account has no such key
 ├─ ContractRefused    a view call failed inside the contract
 ├─ TransactionRefused the transaction can never land
 └─ ExecutionFailed    the transaction landed and its execution failed
Declined(too_poor)     the account's balance, or the key's allowance, does not cover it

Names are those of nearcore's JSON-RPC (`cause.name`), read from the models of near-jsonrpc-client 1.0.102.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from millrace.errors import Declined, DeclineReason, MillraceError, Permanent, Transient, UnknownOutcome
from millrace.text import printable


class NodeBusy(Transient):
    """This node cannot answer now; another may, and so may this one later."""


class UnknownBlock(NodeBusy):
    """This node has no such block."""


class UnknownTransaction(NodeBusy):
    """This node has no such transaction."""


class NotTaken(Transient):
    """The network is too busy for the transaction; it was not taken, and may be sent again."""


class SendUnanswered(UnknownOutcome):
    """No node said what became of the transaction, though one may have it."""


class LookFirst(UnknownOutcome):
    """The transaction can not land any more, or not again: the chain knows whether it did. `reason` is its word."""

    def __init__(self, message: str, *, reason: str = "", **where: str) -> None:
        super().__init__(message, **where)
        self.reason = reason


class EndpointRefused(Permanent):
    """This endpoint will not answer, now or later; another may."""


class RequestRefused(Permanent):
    """Our request is wrong; any node would say so."""


class UnknownAccessKey(RequestRefused):
    """The account has no such access key, or there is no such account."""


class ContractRefused(Permanent):
    """A view call failed inside the contract."""


class TransactionRefused(Permanent):
    """The transaction can never land. `reason` is the chain's word for why."""

    def __init__(self, message: str, *, reason: str = "", **where: str) -> None:
        super().__init__(message, **where)
        self.reason = reason


class ExecutionFailed(Permanent):
    """The transaction landed, cost its gas, and its execution failed. `words` are the contract's or the chain's."""

    def __init__(self, message: str, *, words: str = "", **where: str) -> None:
        super().__init__(message, **where)
        self.words = words


@dataclass(frozen=True)
class NodeError:
    """A JSON-RPC error: `name` is the cause's, `data` and `info` whatever came with it."""

    name: str
    message: str
    info: Any = None
    data: Any = None


_HINT_NODE = "is it a NEAR RPC node?"
_HINT_ARCHIVE = "the block is too old for this node: put an archival node into MILLRACE_NEAR__RPC_URLS"
_HINT_DEFECT = "a defect of Millrace, please report it"
_HINT_KEY = "is the key in NEAR_PRIVATE_KEY (or the credentials file) an access key of this account, on this network?"
_HINT_MONEY = "send NEAR to the worker's account, or give its access key a larger allowance"
_HINT_METHOD = "use an RPC node that serves this method"

_BY_NAME: dict[str, tuple[type[MillraceError], str]] = {
    "TIMEOUT_ERROR": (NodeBusy, ""),
    "INTERNAL_ERROR": (NodeBusy, ""),
    "NO_SYNCED_BLOCKS": (NodeBusy, ""),
    "NOT_SYNCED_YET": (NodeBusy, ""),
    "NO_SYNC_INFO": (NodeBusy, ""),
    "NODE_IS_SYNCING": (NodeBusy, ""),
    "NO_NEW_BLOCKS": (NodeBusy, ""),
    "EPOCH_OUT_OF_BOUNDS": (NodeBusy, ""),
    "UNAVAILABLE_SHARD": (NodeBusy, ""),
    "DOES_NOT_TRACK_SHARD": (NodeBusy, ""),
    "SHARD_NOT_TRACKED": (NodeBusy, ""),
    "SHARD_NOT_APPLIED": (NodeBusy, ""),
    "REQUEST_ROUTED": (NodeBusy, ""),
    "INCONSISTENT_STATE": (NodeBusy, ""),
    "NOT_CONFIRMED": (NodeBusy, ""),
    "LIGHT_CLIENT_HEAD_TOO_OLD": (NodeBusy, ""),
    "STATE_NOT_AVAILABLE": (NodeBusy, ""),
    "CHUNK_NOT_CERTIFIED": (NodeBusy, ""),
    "UNKNOWN_CHUNK": (NodeBusy, ""),
    "UNKNOWN_RECEIPT": (NodeBusy, ""),
    "UNKNOWN_TRANSACTION_OR_RECEIPT": (NodeBusy, ""),
    "BUDGET_EXCEEDED": (NodeBusy, ""),
    "DEPTH_EXCEEDED": (NodeBusy, ""),
    "UNKNOWN_BLOCK": (UnknownBlock, ""),
    "UNKNOWN_TRANSACTION": (UnknownTransaction, ""),
    "GARBAGE_COLLECTED_BLOCK": (EndpointRefused, _HINT_ARCHIVE),
    "OUTCOMES_NOT_STORED": (EndpointRefused, _HINT_METHOD),
    "METHOD_NOT_FOUND": (EndpointRefused, _HINT_METHOD),
    "UNSUPPORTED": (EndpointRefused, _HINT_METHOD),
    "UNKNOWN_ACCESS_KEY": (UnknownAccessKey, _HINT_KEY),
    "UNKNOWN_GAS_KEY": (UnknownAccessKey, _HINT_KEY),
    "UNKNOWN_ACCOUNT": (UnknownAccessKey, "is the account spelled rightly, and on this network?"),
    "INVALID_ACCOUNT": (RequestRefused, "an account's name is like worker.testnet"),
    "NO_CONTRACT_CODE": (RequestRefused, "is OFFCHAINVM_CONTRACT_ID the contract's account, on this network?"),
    "NO_GLOBAL_CONTRACT_CODE": (RequestRefused, "is OFFCHAINVM_CONTRACT_ID the contract's account?"),
    "TOO_LARGE_CONTRACT_STATE": (RequestRefused, _HINT_DEFECT),
    "TOO_MANY_ACCESS_KEYS": (RequestRefused, _HINT_DEFECT),
    "CONTRACT_EXECUTION_ERROR": (ContractRefused, ""),
    "INVALID_SHARD_ID": (RequestRefused, _HINT_DEFECT),
    "TARGET_SHARD_MISMATCH": (RequestRefused, _HINT_DEFECT),
    "WINDOW_TOO_LARGE": (RequestRefused, _HINT_DEFECT),
    "MALFORMED_HINT": (RequestRefused, _HINT_DEFECT),
    "PARSE_ERROR": (RequestRefused, _HINT_DEFECT),
}
"""What an error means when nothing was sent that could have an effect."""

_BUSY_NETWORK = frozenset({"ShardCongested", "ShardStuck", "StorageError"})
_LOOK_FIRST = frozenset({"InvalidNonce", "Expired"})
_TOO_POOR = frozenset(
    {
        "NotEnoughBalance",
        "LackBalanceForState",
        "NotEnoughAllowance",
        "NotEnoughGasKeyBalance",
        "NotEnoughBalanceForDeposit",
    }
)
_KEY_TROUBLE = frozenset({"InvalidAccessKeyError", "InvalidSignature", "SignerDoesNotExist", "InvalidSignerId"})


def read_error(body: Any) -> NodeError | None:
    """The error in a JSON-RPC answer; None if the answer holds none."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return None
    cause = error.get("cause") if isinstance(error.get("cause"), dict) else {}
    assert isinstance(cause, dict)
    name = cause.get("name")
    data, message = error.get("data"), str(error.get("message", ""))
    if not isinstance(name, str):
        name = _old_name(error.get("code"), data)
    return NodeError(name, message, cause.get("info"), data)


def query_error(error: NodeError, method: str, label: str) -> MillraceError:
    """The error of ours for what a node says to a question; a name that is not known counts as a fault of the node."""
    kind, hint = _BY_NAME.get(error.name, (NodeBusy, ""))
    return kind(f"{label} answers {method} with {_words(error)}", hint=hint)


def send_error(error: NodeError, label: str) -> MillraceError:
    """The error of ours for what a node says to a sent transaction.

    UnknownOutcome for everything that leaves open whether the node took it: only a refusal of the transaction itself,
    or of the request as such, is one.
    """
    invalid = invalid_transaction(error)
    if invalid is not None:
        return refusal(invalid, f"{label} refuses the transaction")
    known = _BY_NAME.get(error.name, (NodeBusy, ""))
    if error.name in ("PARSE_ERROR", "METHOD_NOT_FOUND", "UNSUPPORTED"):
        return query_error(error, "send_tx", label)
    told = f"{label} answers send_tx with {_words(error)}"
    return SendUnanswered(told, hint=known[1] or "look the transaction up before anything else")


def invalid_transaction(error: NodeError) -> Any:
    """The InvalidTxError that an error carries, wherever this node's version puts it; None if there is none."""
    if error.name not in ("INVALID_TRANSACTION", ""):
        return None
    for place in (error.data, error.info):
        found = _find(place, "InvalidTxError", 4)
        if found is None and isinstance(place, dict) and error.name:
            found = place.get("context")
        if found is not None:
            return found
    return "InvalidTransaction" if error.name else None


def refusal(invalid: Any, told: str) -> MillraceError:
    """The error of ours for an InvalidTxError (`told` says who said so)."""
    names = _names(invalid)
    told = f"{told}: {shown(invalid)}"
    if _LOOK_FIRST.intersection(names):
        return LookFirst(told, reason=names[0], hint="look the transaction up: it may have landed before")
    if _BUSY_NETWORK.intersection(names):
        return NotTaken(told)
    if _TOO_POOR.intersection(names):
        return Declined(told, reason=DeclineReason.too_poor, hint=_HINT_MONEY)
    hint = _HINT_KEY if _KEY_TROUBLE.intersection(names) else _HINT_DEFECT
    if "InvalidChain" in names:
        hint = "do all RPC nodes serve the same network?"
    return TransactionRefused(told, reason=names[0] if names else "", hint=hint)


def execution_failure(failure: Any) -> MillraceError:
    """The error of ours for the `Failure` of an execution status."""
    invalid = failure.get("InvalidTxError") if isinstance(failure, dict) else None
    if invalid is not None:
        return refusal(invalid, "the chain refused the transaction")
    words = _find(failure, "ExecutionError", 6)
    said = words if isinstance(words, str) else shown(failure, 600)
    hint = "the contract's words say why"
    return ExecutionFailed(f"the transaction failed on chain: {shown(said, 600)}", words=said, hint=hint)


def shown(value: Any, longest: int = 300) -> str:
    """What a stranger sent, fit to be printed: text as it is, anything else as JSON."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    except (RecursionError, ValueError):
        text = "something that is nested too deeply"
    return printable(text, longest)


def _words(error: NodeError) -> str:
    rest = next((part for part in (error.info, error.data) if part), error.message)
    return f"{printable(error.name or 'an error', 60)}: {shown(rest)}"


def _old_name(code: Any, data: Any) -> str:
    """The name of an error from a node, or a proxy before it, which gives none."""
    text = data if isinstance(data, str) else ""
    if code in (-32700, -32600, -32602):
        return "PARSE_ERROR"
    if code == -32601:
        return "METHOD_NOT_FOUND"
    if text == "Timeout":
        return "TIMEOUT_ERROR"
    if "doesn't exist" in text and text.startswith("Transaction"):
        return "UNKNOWN_TRANSACTION"
    return ""


def _find(value: Any, key: str, depth: int) -> Any:
    """The member called `key`, not deeper than `depth` objects."""
    if not isinstance(value, dict) or depth == 0:
        return None
    if key in value:
        return value[key]
    return next((found for part in value.values() if (found := _find(part, key, depth - 1)) is not None), None)


def _names(invalid: Any) -> list[str]:
    """The variant's name, and that of the variant inside it: a string, or an object with one member."""
    names: list[str] = []
    while isinstance(invalid, dict) and invalid and len(names) < 3:
        name, invalid = next(iter(invalid.items()))
        names.append(str(name))
    return [*names, invalid] if isinstance(invalid, str) else names
