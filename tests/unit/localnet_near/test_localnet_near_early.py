"""The contract of October 2025: by data id, and a failure that takes itself back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from near_client import NEAR, SOURCE, FakeClock, NearClient

from localnet.near import CONTRACT, REQUESTER

USED = {"instructions": 3_000_000, "time_ms": 7}
COST = 10**22 + 3 * 10**15 + 7 * 10**18
FEES = 10 * 10**21
"""No request's gas comes to more in these tests."""


def response(**more: Any) -> dict[str, Any]:
    return {"success": True, "return_value": list(b"42"), "error": None, "resources_used": USED, **more}


def resolve(early: NearClient, entry: dict[str, Any], **more: Any) -> Any:
    return early.call("resolve_execution", {"data_id": entry["data_id"], "response": response(**more)})


def test_the_event_tells_the_request_as_json_in_a_string(early: NearClient) -> None:
    limits = {"max_instructions": None, "max_memory_mb": 64, "max_execution_seconds": 5}
    tx_hash, entry = early.request(resource_limits=limits)
    (line,) = early.logs(tx_hash)
    event = json.loads(line.removeprefix("EVENT_JSON:"))
    assert (event["standard"], event["version"], event["event"]) == ("near-offshore", "1.0.0", "execution_requested")
    assert len(entry["data_id"]) == 32
    request = json.loads(entry["request_data"])
    assert list(request) == [
        "request_id",
        "sender_id",
        "code_source",
        "resource_limits",
        "input_data",
        "payment",
        "timestamp",
    ]
    assert request["resource_limits"] == limits
    assert (request["input_data"], request["payment"], request["sender_id"]) == ("{}", str(NEAR), REQUESTER)
    assert request["code_source"] == SOURCE


def test_a_result_is_returned_as_json_and_the_rest_refunded(early: NearClient) -> None:
    before = early.net.chain.balance(REQUESTER)
    tx_hash, entry = early.request()
    assert early.net.chain.result_of(tx_hash) == "Started"
    assert "SuccessValue" in resolve(early, entry)
    assert early.value_of(tx_hash) == "42"
    assert early.view("get_request", request_id=0) is None
    assert early.view("get_stats") == [1, str(COST)]
    spent = before - early.net.chain.balance(REQUESTER)
    assert COST < spent < COST + FEES
    assert early.net.chain.balance(CONTRACT) == COST
    (done,) = early.events(tx_hash, "execution_completed")
    assert done["success"] is True
    assert "request_id" not in done


def test_a_result_that_is_no_text_is_null_and_charged(early: NearClient) -> None:
    tx_hash, entry = early.request()
    resolve(early, entry, return_value=[255])
    assert early.value_of(tx_hash) is None
    assert early.net.chain.balance(CONTRACT) == COST


def test_a_failure_panics_and_takes_everything_back_but_its_logs(early: NearClient) -> None:
    tx_hash, entry = early.request()
    assert "SuccessValue" in resolve(early, entry, success=False, return_value=None, error="trap")
    assert "Execution failed: trap" in early.words_of(early.net.chain.result_of(tx_hash))
    (done,) = early.events(tx_hash, "execution_completed")
    assert done["success"] is False
    assert early.view("get_request", request_id=0)["request_id"] == 0
    assert early.view("get_stats") == [0, "0"]
    assert early.net.chain.balance(CONTRACT) == NEAR
    assert "Unable to resume" in early.words_of(resolve(early, entry))


def test_a_stale_request_can_be_cancelled_by_its_sender(early: NearClient, clock: FakeClock) -> None:
    early.request()
    early.net.chain.cancel(0)
    early.blocks(3)
    assert early.net.chain.pending() == [0], "it is not 600 s old"
    clock.now += 601
    assert "Only the sender" in early.words_of(early.call("cancel_stale_execution", {"request_id": 0}))
    tx_hash = early.net.chain.cancel(0)
    early.blocks(3)
    assert "SuccessValue" in early.net.chain.result_of(tx_hash)
    assert early.net.chain.pending() == []
    assert early.net.chain.balance(CONTRACT) == 0


def test_a_yield_times_out_after_200_blocks_and_the_request_stays(early: NearClient) -> None:
    tx_hash, entry = early.request()
    early.blocks(199)
    assert early.net.chain.result_of(tx_hash) == "Started"
    early.blocks(1)
    assert "Execution promise failed" in early.words_of(early.net.chain.result_of(tx_hash))
    assert early.net.chain.pending() == [0]
    assert "Unable to resume" in early.words_of(resolve(early, entry))


@pytest.mark.parametrize("data_id", ["ab" * 32, [1] * 31, [256] * 32, None])
def test_a_data_id_has_to_be_32_numbers(early: NearClient, data_id: Any) -> None:
    status = early.call("resolve_execution", {"data_id": data_id, "response": response()})
    assert "expected an array of length 32" in early.words_of(status)


def test_an_unknown_data_id_cannot_be_resumed(early: NearClient) -> None:
    status = early.call("resolve_execution", {"data_id": [9] * 32, "response": response()})
    assert "Unable to resume" in early.words_of(status)


def test_a_response_of_more_than_1024_bytes_cannot_resume(early: NearClient) -> None:
    _, entry = early.request()
    words = early.words_of(resolve(early, entry, return_value=[255] * 240))
    assert "exceeds the 1024 byte limit" in words
    assert "SuccessValue" in resolve(early, entry, return_value=[255] * 230)


def test_a_resume_in_the_requests_own_block_is_refused(early: NearClient) -> None:
    _, entry = early.request()
    early.net.chain.refuse_resumes()
    assert "Unable to resume" in early.words_of(resolve(early, entry))
    assert "SuccessValue" in resolve(early, entry)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"resource_limits": {"max_instructions": 10**11 + 1}}, "exceeds hard limit of 100000000000"),
        ({"resource_limits": {"max_execution_seconds": 61}}, "exceeds hard limit of 60 seconds"),
        ({"resource_limits": {"max_instructions": -1}}, "expected u64"),
        ({"code_source": {"repo": "r"}}, "`commit`"),
        ({"input_data": "x" * 20_000}, "exceeds the limit 16384"),
    ],
)
def test_what_the_contract_refuses_costs_no_deposit(early: NearClient, more: dict[str, Any], why: str) -> None:
    before = early.net.chain.balance(REQUESTER)
    tx_hash = early.net.chain.request(early.request_args(**more))
    early.blocks(4)
    assert why in early.words_of(early.net.chain.result_of(tx_hash))
    assert before - early.net.chain.balance(REQUESTER) < FEES
    assert early.net.chain.balance(CONTRACT) == 0


def test_a_deposit_that_is_too_small_is_refused(early: NearClient) -> None:
    needed = int(early.view("estimate_execution_cost", resource_limits=None))
    assert needed == 70001000000000000000000
    short = early.net.chain.request(early.request_args(), deposit_yocto=needed - 1)
    enough = early.net.chain.request(early.request_args(), deposit_yocto=needed)
    early.blocks(3)
    assert "Insufficient payment" in early.words_of(early.net.chain.result_of(short))
    assert early.net.chain.result_of(enough) == "Started"


def test_only_the_operator_resolves(early: NearClient) -> None:
    _, entry = early.request()
    early.net.chain.contract.state.operator_id = "somebody.else"
    assert "Only operator" in early.words_of(resolve(early, entry))
