"""What can go wrong between us and a Solana RPC endpoint, in terms of the one error tree.

Transient
 ├─ EndpointBusy       429, 5xx, a time-out, no connection, an answer that is not JSON-RPC, a node that lags
UnknownOutcome
 └─ SendUnanswered     the same while sending: the bytes may be on their way
Permanent
 ├─ EndpointRefused    401, 403, 404, a method that this endpoint does not serve
 ├─ WrongChain         the endpoint serves another chain than the one we work for
 ├─ RequestRefused     the node says that our request is wrong
 └─ PreflightRefused   the node tried the transaction, it failed, and it was not sent
"""

from __future__ import annotations

from typing import Any

import httpx2
from pydantic import ValidationError
from solana.exceptions import SolanaRpcException
from solana.rpc.core import RPCException
from solana.rpc.jsonrpc import JsonRpcErrorCode, SolanaJsonRpcError
from solders.errors import SerdeJSONError
from solders.rpc import errors

from millrace.errors import MillraceError, Permanent, Transient, UnknownOutcome
from millrace.text import printable
from protocols.solana.answer_cap import LISTINGS, AnswerTooLarge

_RATE_LIMITED = -32429
"""Not Solana's; several RPC providers use it for 429."""

_BUSY_CODES = frozenset(
    {
        JsonRpcErrorCode.INTERNAL_ERROR,
        JsonRpcErrorCode.SERVER_ERROR_BLOCK_NOT_AVAILABLE,
        JsonRpcErrorCode.SERVER_ERROR_NODE_UNHEALTHY,
        JsonRpcErrorCode.SERVER_ERROR_NO_SNAPSHOT,
        JsonRpcErrorCode.SCAN_ERROR,
        JsonRpcErrorCode.SERVER_ERROR_BLOCK_STATUS_NOT_AVAILABLE_YET,
        JsonRpcErrorCode.SERVER_ERROR_MIN_CONTEXT_SLOT_NOT_REACHED,
        JsonRpcErrorCode.SERVER_ERROR_EPOCH_REWARDS_PERIOD_ACTIVE,
        JsonRpcErrorCode.SERVER_ERROR_LONG_TERM_STORAGE_UNREACHABLE,
        _RATE_LIMITED,
    }
)
_UNSERVED_CODES = frozenset(
    {
        JsonRpcErrorCode.METHOD_NOT_FOUND,
        JsonRpcErrorCode.SERVER_ERROR_KEY_EXCLUDED_FROM_SECONDARY_INDEX,
        JsonRpcErrorCode.SERVER_ERROR_TRANSACTION_HISTORY_NOT_AVAILABLE,
    }
)

_SOLDERS_CODES: dict[type, int] = {
    errors.InternalErrorMessage: JsonRpcErrorCode.INTERNAL_ERROR,
    errors.InvalidParamsMessage: JsonRpcErrorCode.INVALID_PARAMS,
    errors.InvalidRequestMessage: JsonRpcErrorCode.INVALID_REQUEST,
    errors.KeyExcludedFromSecondaryIndexMessage: JsonRpcErrorCode.SERVER_ERROR_KEY_EXCLUDED_FROM_SECONDARY_INDEX,
    errors.MethodNotFoundMessage: JsonRpcErrorCode.METHOD_NOT_FOUND,
    errors.MinContextSlotNotReachedMessage: JsonRpcErrorCode.SERVER_ERROR_MIN_CONTEXT_SLOT_NOT_REACHED,
    errors.NodeUnhealthyMessage: JsonRpcErrorCode.SERVER_ERROR_NODE_UNHEALTHY,
    errors.ParseErrorMessage: JsonRpcErrorCode.PARSE_ERROR,
    errors.ScanErrorMessage: JsonRpcErrorCode.SCAN_ERROR,
}


class EndpointBusy(Transient):
    """This endpoint cannot answer now; another may, and so may this one later."""


class SendUnanswered(UnknownOutcome):
    """No endpoint confirmed that it took the transaction; it may be on its way all the same."""


class EndpointRefused(Permanent):
    """This endpoint will not answer, now or later; another may."""


class WrongChain(EndpointRefused):
    """This endpoint serves another chain."""


class RequestRefused(Permanent):
    """The node says that our request is wrong; any node would."""


class PreflightRefused(Permanent):
    """The node tried the transaction before sending it, and it failed; it was not sent.

    `error` is the TransactionError as the RPC encodes it; see `protocols.solana.program_errors.explain`.
    """

    def __init__(self, message: str, *, error: Any = None, **where: str) -> None:
        super().__init__(message, **where)
        self.error = error


def as_millrace_error(error: BaseException, method: str, label: str) -> MillraceError | None:
    """The error of our tree for one that solana-py, its parser or its HTTP client raised; None for any other.

    `label` names the endpoint without its secrets. Nothing of an HTTP error's own text is used: it quotes the URL,
    and providers put their keys there.
    """
    if isinstance(error, SolanaJsonRpcError):
        return _from_node(error.code, error.message, error.data, method, label)
    if isinstance(error, RPCException):
        code, message = _parsed(error.args[0])
        return _from_node(code, message, None, method, label)
    if isinstance(error, SolanaRpcException):
        return _from_http(error.__cause__, method, label)
    if isinstance(error, TimeoutError):
        return EndpointBusy(f"{label} did not answer {method} in time")
    if isinstance(error, httpx2.InvalidURL):
        return EndpointRefused(f"the URL of {label} cannot be used", hint="check SOLANA_RPC_URL")
    if isinstance(error, ValidationError | SerdeJSONError) or _is_panic(error):
        return EndpointBusy(f"{label} answered {method} with something that is not Solana's JSON-RPC")
    return None


def _is_panic(error: BaseException) -> bool:
    """True if Rust code gave up, as solders does over an error answer whose `data` it misses; the class has no name."""
    return type(error).__module__ == "pyo3_runtime"


def _from_http(cause: BaseException | None, method: str, label: str) -> MillraceError:
    if isinstance(cause, AnswerTooLarge):
        # A listing is no shorter the next time, and another node may have a filter for it. No other answer is ever so
        # long: the node was broken when it gave it.
        kind = EndpointRefused if method in LISTINGS else EndpointBusy
        return kind(f"{label} answered {method} at more length than is read: {cause}", hint="use another endpoint")
    if not isinstance(cause, httpx2.HTTPStatusError):
        return EndpointBusy(f"{label} could not be asked for {method}: {type(cause).__name__}")
    status = cause.response.status_code
    if status in (408, 425, 429) or status >= 500:
        return EndpointBusy(
            f"{label} answered {method} with HTTP {status}", retry_after_seconds=_retry_after(cause.response)
        )
    return EndpointRefused(
        f"{label} answered {method} with HTTP {status}", hint="check the URL and its key in SOLANA_RPC_URL"
    )


def _retry_after(response: httpx2.Response) -> float | None:
    wish = response.headers.get("retry-after", "")
    return float(wish) if wish.isascii() and wish.isdigit() and len(wish) < 6 else None


def _parsed(said: object) -> tuple[int, str]:
    """Code and message of what solders made of an error: an object of its own, or the bare code if it has none."""
    if isinstance(said, int):
        return said, ""
    return _SOLDERS_CODES.get(type(said), 0), str(getattr(said, "message", said))


def _from_node(code: int, message: str, details: Any, method: str, label: str) -> MillraceError:
    said = f"{label} answered {method} with error {code}: {printable(message, 300)}"
    if code == JsonRpcErrorCode.SERVER_ERROR_SEND_TRANSACTION_PREFLIGHT_FAILURE:
        return PreflightRefused(said, error=details.get("err") if isinstance(details, dict) else None)
    if code in _BUSY_CODES:
        return EndpointBusy(said)
    if code in _UNSERVED_CODES:
        return EndpointRefused(said, hint="use an endpoint that serves this method")
    return RequestRefused(said)
