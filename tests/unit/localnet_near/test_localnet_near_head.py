"""Today's contract: by request id, refunds, large outputs by way of its storage."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from near_client import NEAR, SOURCE, NearClient

from localnet.near import CONTRACT, OPERATOR, RELAY, REQUESTER
from protocols.near.contract_head import charged_yocto
from protocols.near.transactions import FunctionCall

USED = {"instructions": 3_000_000, "time_ms": 7, "compile_time_ms": 11}
COST = 10**21 + 3 * 10**14 + 7 * 10**17 + 11 * 10**17


def response(**more: Any) -> dict[str, Any]:
    return {"success": True, "output": {"Text": "42"}, "error": None, "resources_used": USED, **more}


def resolve(head: NearClient, request_id: int = 0, **more: Any) -> Any:
    return head.call("resolve_execution", {"request_id": request_id, "response": response(**more)})


def test_the_event_names_signer_and_caller(head: NearClient) -> None:
    tx_hash = head.net.chain.request(head.request_args(), relayed=True)
    head.blocks(3)
    (entry,) = head.events(tx_hash, "execution_requested")
    request = json.loads(entry["request_data"])
    assert (request["sender_id"], request["predecessor_id"]) == (REQUESTER, RELAY)
    assert request["code_source"] == {"GitHub": SOURCE}
    stored = head.view("get_request", request_id=0)
    assert (stored["sender_id"], stored["payer_account_id"]) == (RELAY, RELAY)
    assert stored["resolved_source"] == {"GitHub": SOURCE}


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ({"Bytes": [0, 255]}, base64.b64encode(b"\x00\xff").decode()),
        ({"Text": "é"}, "é"),
        ({"Json": {"a": [1, None]}}, {"a": [1, None]}),
        (None, None),
    ],
)
def test_what_the_requester_gets(head: NearClient, output: Any, value: Any) -> None:
    tx_hash, _ = head.request()
    assert "SuccessValue" in resolve(head, output=output)
    assert head.value_of(tx_hash) == value
    assert charged_yocto(head.logs(tx_hash)) == COST
    assert head.net.chain.balance(CONTRACT) == COST
    assert head.view("get_request", request_id=0) is None


def test_a_failure_returns_null_charges_the_base_fee_and_removes_the_request(head: NearClient) -> None:
    tx_hash, _ = head.request()
    resolve(head, success=False, output=None, error="trap")
    assert head.value_of(tx_hash) is None
    assert charged_yocto(head.logs(tx_hash)) == 10**21 == head.net.chain.balance(CONTRACT)
    (done,) = head.events(tx_hash, "execution_completed")
    assert (done["error_message"], done["payment_refunded"]) == ("trap", str(NEAR - 10**21))
    assert head.net.chain.pending() == []


def test_the_workers_own_outcome_says_nothing_of_the_charge(head: NearClient) -> None:
    """The public worker reads it there, and books the wrong amount for a failure."""
    head.request()
    call = FunctionCall("resolve_execution", json.dumps({"request_id": 0, "response": response()}).encode(), 10**14)
    sent = head.net.chain.call(head.net.operator, OPERATOR, CONTRACT, (call,))
    head.blocks(4)
    assert charged_yocto(head.logs(sent.hash)) is None


def test_a_time_out_returns_null_and_refunds(head: NearClient) -> None:
    tx_hash, _ = head.request()
    head.blocks(200)
    head.blocks(1)
    assert head.value_of(tx_hash) is None
    assert head.net.chain.balance(CONTRACT) == 10**21
    assert head.events(tx_hash, "execution_completed") == []
    assert "not found" in head.words_of(resolve(head))


def test_a_large_output_goes_by_way_of_storage(head: NearClient) -> None:
    tx_hash, _ = head.request()
    text = "y" * 10_000
    assert "exceeds the 1024 byte limit" in head.words_of(resolve(head, output={"Text": text}))
    args = {"request_id": 0, "output": {"Text": text}, "success": True, "error": None, "resources_used": USED}
    assert "SuccessValue" in head.call("submit_execution_output_and_resolve", args)
    assert head.value_of(tx_hash) == text


def test_a_stored_output_that_cannot_be_resumed_with_is_taken_back(head: NearClient) -> None:
    head.request()
    args = {"request_id": 0, "output": {"Text": "x"}, "success": True, "resources_used": USED}
    head.net.chain.refuse_resumes()
    assert "Unable to resume" in head.words_of(head.call("submit_execution_output_and_resolve", args))
    assert head.view("get_request", request_id=0)["output_submitted"] is False


def test_two_calls_of_one_transaction_happen_together_or_not_at_all(head: NearClient) -> None:
    head.request()
    store = FunctionCall("submit_execution_output", b'{"request_id":0,"output":{"Text":"x"}}', 10**14)
    broken = FunctionCall("resolve_execution", b'{"request_id":9,"response":{}}', 10**14)
    head.net.chain.call(head.net.operator, OPERATOR, CONTRACT, (store, broken))
    head.blocks(2)
    assert head.view("get_request", request_id=0)["output_submitted"] is False


def test_a_resume_in_the_requests_own_block_is_refused(head: NearClient) -> None:
    """Both receipts run in one block: the chain does not find the yield yet (nearcore #14926)."""
    head.net.chain.request(head.request_args())
    args = json.dumps({"request_id": 0, "response": response()}).encode()
    sent = head.net.chain.call(
        head.net.operator, OPERATOR, CONTRACT, (FunctionCall("resolve_execution", args, 10**14),)
    )
    head.blocks(2)
    assert "Unable to resume" in head.words_of(head.net.chain.result_of(sent.hash))
    assert head.net.chain.pending() == [0]
    assert "SuccessValue" in resolve(head)


def test_a_large_input_is_in_the_state_and_not_in_the_event(head: NearClient) -> None:
    _, entry = head.request(input_data="z" * 10_000)
    request = json.loads(entry["request_data"])
    assert (request["input_data"], request["input_data_in_state"]) == ("", True)
    assert head.view("get_request", request_id=0)["input_data"] == "z" * 10_000


def test_without_limits_it_is_compiled_only(head: NearClient) -> None:
    _, entry = head.request(resource_limits=None)
    assert json.loads(entry["request_data"])["compile_only"] is True


def test_a_project_is_what_it_was_registered_as(head: NearClient) -> None:
    source = {"Project": {"project_id": "alice.near/app", "version_key": None}}
    unknown = head.net.chain.request(head.request_args(source=source))
    head.blocks(2)
    assert "Project not found" in head.words_of(head.net.chain.result_of(unknown))
    module = {"WasmUrl": {"url": "https://x/m.wasm", "hash": "ab", "build_target": None}}
    head.net.chain.add_project("alice.near/app", module)
    _, entry = head.request(source=source)
    request = json.loads(entry["request_data"])
    assert (request["code_source"], request["project_id"]) == (module, "alice.near/app")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"resource_limits": {"max_instructions": 5 * 10**11 + 1}}, "exceeds hard limit"),
        ({"resource_limits": {"max_execution_seconds": 181}}, "exceeds hard limit"),
        ({"response_format": "Xml"}, "unknown variant"),
        ({"source": {"Git": {}}}, "unknown variant"),
        ({"source": SOURCE}, "`source`"),
    ],
)
def test_what_the_contract_refuses(head: NearClient, more: dict[str, Any], why: str) -> None:
    tx_hash = head.net.chain.request(head.request_args(**more))
    head.blocks(2)
    assert why in head.words_of(head.net.chain.result_of(tx_hash))
    assert head.net.chain.pending() == []
