"""Every name that a NEAR node gives an error, and what it means for whoever asked or sent."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.errors import Declined, Permanent, Transient, UnknownOutcome
from protocols.near.rpc_errors import (
    ContractRefused,
    EndpointRefused,
    ExecutionFailed,
    LookFirst,
    NodeBusy,
    NodeError,
    NotTaken,
    RequestRefused,
    SendUnanswered,
    TransactionRefused,
    UnknownAccessKey,
    UnknownBlock,
    UnknownTransaction,
    execution_failure,
    query_error,
    read_error,
    send_error,
)


def body(name: str | None, *, data: Any = None, info: Any = None, code: int = -32000) -> dict[str, Any]:
    cause = {} if name is None else {"cause": {"name": name, "info": {} if info is None else info}}
    return {"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": "Server error", "data": data, **cause}}


def error(name: str | None, **more: Any) -> NodeError:
    found = read_error(body(name, **more))
    assert found is not None
    return found


QUESTIONS = {
    "TIMEOUT_ERROR": NodeBusy,
    "INTERNAL_ERROR": NodeBusy,
    "NO_SYNCED_BLOCKS": NodeBusy,
    "NOT_SYNCED_YET": NodeBusy,
    "UNAVAILABLE_SHARD": NodeBusy,
    "DOES_NOT_TRACK_SHARD": NodeBusy,
    "SHARD_NOT_TRACKED": NodeBusy,
    "SHARD_NOT_APPLIED": NodeBusy,
    "REQUEST_ROUTED": NodeBusy,
    "NOT_CONFIRMED": NodeBusy,
    "LIGHT_CLIENT_HEAD_TOO_OLD": NodeBusy,
    "UNKNOWN_RECEIPT": NodeBusy,
    "UNKNOWN_TRANSACTION_OR_RECEIPT": NodeBusy,
    "UNKNOWN_BLOCK": UnknownBlock,
    "UNKNOWN_TRANSACTION": UnknownTransaction,
    "GARBAGE_COLLECTED_BLOCK": EndpointRefused,
    "METHOD_NOT_FOUND": EndpointRefused,
    "UNSUPPORTED": EndpointRefused,
    "UNKNOWN_ACCESS_KEY": UnknownAccessKey,
    "UNKNOWN_ACCOUNT": UnknownAccessKey,
    "INVALID_ACCOUNT": RequestRefused,
    "NO_CONTRACT_CODE": RequestRefused,
    "TOO_LARGE_CONTRACT_STATE": RequestRefused,
    "PARSE_ERROR": RequestRefused,
    "CONTRACT_EXECUTION_ERROR": ContractRefused,
    "SOMETHING_NEW": NodeBusy,
}


@pytest.mark.parametrize(("name", "kind"), QUESTIONS.items())
def test_what_a_node_says_to_a_question(name: str, kind: type[Exception]) -> None:
    found = query_error(error(name), "query", "http://node")
    assert type(found) is kind
    assert name in str(found)


@pytest.mark.parametrize(
    "name",
    ["TIMEOUT_ERROR", "INTERNAL_ERROR", "REQUEST_ROUTED", "UNKNOWN_TRANSACTION", "DOES_NOT_TRACK_SHARD", "NEW_ONE"],
)
def test_what_leaves_open_whether_a_transaction_was_taken_is_an_unknown_outcome(name: str) -> None:
    """A time-out counted as a failure lets a worker sign and pay twice."""
    assert type(send_error(error(name), "http://node")) is SendUnanswered


@pytest.mark.parametrize(("name", "kind"), [("PARSE_ERROR", RequestRefused), ("METHOD_NOT_FOUND", EndpointRefused)])
def test_a_request_that_cannot_be_read_was_not_taken(name: str, kind: type[Exception]) -> None:
    assert type(send_error(error(name), "http://node")) is kind


INVALID: list[tuple[Any, type[Exception]]] = [
    ({"InvalidNonce": {"tx_nonce": 1, "ak_nonce": 2}}, LookFirst),
    ("Expired", LookFirst),
    ({"ShardCongested": {"shard_id": 0, "congestion_level": 1.0}}, NotTaken),
    ({"ShardStuck": {"shard_id": 0, "missed_chunks": 5}}, NotTaken),
    ({"StorageError": "StorageInternalError"}, NotTaken),
    ({"NotEnoughBalance": {"signer_id": "a.near", "balance": "1", "cost": "2"}}, Declined),
    ({"LackBalanceForState": {"signer_id": "a.near", "amount": "1"}}, Declined),
    ({"NotEnoughGasKeyBalance": {"signer_id": "a.near"}}, Declined),
    ({"InvalidAccessKeyError": {"NotEnoughAllowance": {"allowance": "1", "cost": "2"}}}, Declined),
    ({"InvalidAccessKeyError": {"AccessKeyNotFound": {"account_id": "a.near"}}}, TransactionRefused),
    ({"InvalidAccessKeyError": "RequiresFullAccess"}, TransactionRefused),
    ({"SignerDoesNotExist": {"signer_id": "a.near"}}, TransactionRefused),
    ({"NonceTooLarge": {"tx_nonce": 9, "upper_bound": 8}}, TransactionRefused),
    ({"ActionsValidation": {"TotalPrepaidGasExceeded": {}}}, TransactionRefused),
    ({"TransactionSizeExceeded": {"size": 9, "limit": 8}}, TransactionRefused),
    ({"InvalidReceiverId": {"receiver_id": "?"}}, TransactionRefused),
    ("InvalidSignature", TransactionRefused),
    ("InvalidChain", TransactionRefused),
    ("CostOverflow", TransactionRefused),
    ("InvalidTransactionVersion", TransactionRefused),
    ({"NewIn2027\x1b[31m": {}}, TransactionRefused),
]


@pytest.mark.parametrize(("invalid", "kind"), INVALID)
@pytest.mark.parametrize("place", ["data", "info", "bare_info", "nameless"])
def test_why_a_transaction_is_refused_wherever_the_node_says_it(
    invalid: Any, kind: type[Exception], place: str
) -> None:
    wrapped = {"TxExecutionError": {"InvalidTxError": invalid}}
    said = {
        "data": error("INVALID_TRANSACTION", data=wrapped),
        "info": error("INVALID_TRANSACTION", info={"context": invalid}),
        "bare_info": error("INVALID_TRANSACTION", info={"InvalidTxError": invalid}),
        "nameless": error(None, data=wrapped),
    }[place]
    found = send_error(said, "http://node")
    assert type(found) is kind
    assert "\x1b" not in str(found)
    if isinstance(found, LookFirst | TransactionRefused):
        assert found.reason


def test_a_refusal_without_a_reason_is_one_all_the_same() -> None:
    assert type(send_error(error("INVALID_TRANSACTION"), "http://node")) is TransactionRefused


@pytest.mark.parametrize(
    ("code", "data", "name"),
    [
        (-32700, None, "PARSE_ERROR"),
        (-32602, None, "PARSE_ERROR"),
        (-32601, None, "METHOD_NOT_FOUND"),
        (-32000, "Timeout", "TIMEOUT_ERROR"),
        (-32000, "Transaction abc doesn't exist", "UNKNOWN_TRANSACTION"),
        (-32000, {"x": 1}, ""),
        (None, None, ""),
    ],
)
def test_errors_without_a_name_are_told_by_what_old_nodes_put_in_its_place(code: int, data: Any, name: str) -> None:
    assert error(None, data=data, code=code).name == name


@pytest.mark.parametrize("answer", [None, [], "x", {}, {"error": None}, {"error": "words"}, {"result": 1}])
def test_answers_without_an_error_have_none(answer: Any) -> None:
    assert read_error(answer) is None


def test_the_contracts_words_are_kept_in_an_execution_failure() -> None:
    words = "Smart contract panicked: Unable to resume execution promise"
    found = execution_failure({"ActionError": {"index": 0, "kind": {"FunctionCallError": {"ExecutionError": words}}}})
    assert isinstance(found, ExecutionFailed)
    assert found.words == words


def test_a_failure_that_is_a_refusal_is_the_refusal() -> None:
    assert isinstance(execution_failure({"InvalidTxError": "Expired"}), LookFirst)
    assert isinstance(execution_failure({"ActionError": {"kind": {"AccountDoesNotExist": {}}}}), ExecutionFailed)


@pytest.mark.parametrize("failure", [None, [], "x", {}, {"ActionError": None}, {"a": {"b": {"c": {"d": {}}}}}])
def test_a_failure_of_any_form_is_one(failure: Any) -> None:
    assert isinstance(execution_failure(failure), ExecutionFailed)


def test_the_axes_are_those_of_the_retry_policy() -> None:
    assert issubclass(NodeBusy, Transient)
    assert issubclass(NotTaken, Transient)
    assert issubclass(SendUnanswered, UnknownOutcome)
    assert issubclass(LookFirst, UnknownOutcome)
    assert issubclass(ExecutionFailed, Permanent)
