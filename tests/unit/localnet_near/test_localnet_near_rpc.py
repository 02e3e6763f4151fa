"""The node's answers: their shapes, its errors, its blocks, and what tests can make of it."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from near_client import FakeClock, NearClient

from localnet.near import CONTRACT, OPERATOR, REQUESTER, Dialect, NearLocalnet
from localnet.near.controls import ACTIONS
from protocols.near.keys import NearKey
from protocols.near.transactions import FunctionCall

CALL = FunctionCall("cancel_stale_execution", b'{"request_id":0}', 10**13)


def send(node: NearClient) -> str:
    return node.net.chain.call(node.net.operator, OPERATOR, CONTRACT, (CALL,)).hash


def error_of(answer: dict[str, Any]) -> str:
    error = answer["error"]
    assert set(error) == {"name", "cause", "code", "message", "data"}
    name: str = error["cause"]["name"]
    return name


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("nothing", {}, "METHOD_NOT_FOUND"),
        ("query", [], "PARSE_ERROR"),
        ("query", {"finality": "final", "request_type": "?", "account_id": OPERATOR}, "PARSE_ERROR"),
        ("query", {"request_type": "view_account", "account_id": OPERATOR}, "PARSE_ERROR"),
        ("query", {"finality": "final", "request_type": "view_account", "account_id": "no.near"}, "UNKNOWN_ACCOUNT"),
        ("block", {"block_id": 5}, "UNKNOWN_BLOCK"),
        ("block", {"block_id": "1" * 32}, "UNKNOWN_BLOCK"),
        ("block", {"finality": "soon"}, "PARSE_ERROR"),
        ("tx", {"tx_hash": "1" * 32, "sender_account_id": OPERATOR}, "UNKNOWN_TRANSACTION"),
        ("send_tx", {"signed_tx_base64": "AAAA"}, "PARSE_ERROR"),
        ("send_tx", {"signed_tx_base64": "not base64"}, "PARSE_ERROR"),
        ("EXPERIMENTAL_receipt", {"receipt_id": "1" * 32}, "UNKNOWN_RECEIPT"),
        ("EXPERIMENTAL_light_client_proof", {"light_client_head": "1" * 32}, "UNKNOWN_BLOCK"),
    ],
)
def test_errors_are_named_as_nearcore_names_them(head: NearClient, method: str, params: Any, name: str) -> None:
    assert error_of(head.rpc(method, params)) == name


def test_a_broken_transaction_is_told_with_its_reason(head: NearClient) -> None:
    head.net.chain.reject_next("Expired")
    signed = head.net.chain
    with pytest.raises(ValueError, match="Expired"):
        signed.call(head.net.operator, OPERATOR, CONTRACT, (CALL,))


def test_a_refused_transaction_is_answered_in_the_nodes_form(head: NearClient) -> None:
    sent = head.net.chain.call(head.net.operator, OPERATOR, CONTRACT, (CALL,))
    head.blocks(1)
    answer = head.rpc("send_tx", {"signed_tx_base64": sent.to_base64(), "wait_until": "NONE"})
    assert error_of(answer) == "INVALID_TRANSACTION"
    invalid = answer["error"]["data"]["TxExecutionError"]["InvalidTxError"]["InvalidNonce"]
    assert invalid["tx_nonce"] == invalid["ak_nonce"] == sent.transaction.nonce
    assert error_of(head.rpc("broadcast_tx_commit", [sent.to_base64()])) == "INVALID_TRANSACTION"


def test_time_is_up_with_status_408(head: NearClient) -> None:
    tx_hash = send(head)
    body = {"jsonrpc": "2.0", "id": "t", "method": "tx", "params": [tx_hash, OPERATOR]}
    answer = head.http.post(head.net.url, json=body)
    assert answer.status_code == 408
    assert error_of(answer.json()) == "TIMEOUT_ERROR"


def test_a_transaction_passes_through_its_states(head: NearClient) -> None:
    tx_hash = send(head)
    named = {"tx_hash": tx_hash, "sender_account_id": OPERATOR, "wait_until": "NONE"}
    assert error_of(head.rpc("tx", named)) == "UNKNOWN_TRANSACTION"
    head.blocks(1)
    included = head.result("tx", named)
    assert (included["final_execution_status"], included["status"]) == ("INCLUDED_FINAL", "Started")
    head.blocks(1)
    done = head.result("EXPERIMENTAL_tx_status", named)
    assert done["final_execution_status"] == "FINAL"
    assert "Failure" in done["status"]
    assert done["receipts"][0]["receiver_id"] == CONTRACT


def test_blocks_follow_each_other_and_heights_can_be_skipped(head: NearClient) -> None:
    head.blocks(2)
    head.net.chain.skip_heights(2)
    head.blocks(1)
    last = head.result("block", {"finality": "final"})["header"]
    before = head.result("block", {"block_id": last["prev_hash"]})["header"]
    assert (last["height"], last["prev_height"], before["height"]) == (1005, 1002, 1002)
    assert head.http.get(f"{head.net.url}/v0/block/1004").json() is None
    assert head.http.get(f"{head.net.url}/v0/block/1006").status_code == 404
    assert head.http.get(f"{head.net.url}/v0/block/1005").json()["block"]["header"] == last


def test_a_whole_block_has_receipts_logs_and_hashes(node: NearClient) -> None:
    tx_hash, _ = node.request()
    block = node.http.get(f"{node.net.url}/v0/block/1002").json()
    (shard,) = block["shards"]
    (executed,) = shard["receipt_execution_outcomes"]
    assert executed["tx_hash"] == tx_hash
    assert executed["receipt"]["receiver_id"] == CONTRACT
    assert executed["execution_outcome"]["outcome"]["logs"][0].startswith("EVENT_JSON:")
    assert block["shards"][0]["chunk"]["receipts"] == [executed["receipt"]]
    before = node.http.get(f"{node.net.url}/v0/block/1001").json()
    assert before["shards"][0]["chunk"]["transactions"][0]["transaction"]["hash"] == tx_hash


def test_blocks_come_by_the_clock(clock: FakeClock) -> None:
    with NearLocalnet(Dialect.head, clock=clock, block_seconds=2.0) as net:
        clock.now += 5
        assert net.chain.height() == 1002
        net.chain.freeze()
        clock.now += 100
        assert net.chain.height() == 1002
        net.chain.thaw()
        clock.now += 2
        assert net.chain.height() == 1003


def test_many_keys_of_one_account_have_a_nonce_each(head: NearClient) -> None:
    lanes = [NearKey(bytes([number]) * 32) for number in range(10, 14)]
    for lane in lanes:
        head.net.chain.add_key(OPERATOR, lane.public_key)
        head.net.chain.call(lane, OPERATOR, CONTRACT, (CALL,))
    head.blocks(1)
    question = {"request_type": "view_access_key_list", "finality": "final", "account_id": OPERATOR}
    keys = {key["public_key"]: key["access_key"]["nonce"] for key in head.result("query", question)["keys"]}
    assert len(keys) == 5
    assert [keys[lane.public_key] for lane in lanes] == [1000 * 10**6 + 1] * 4
    head.net.chain.delete_key(OPERATOR, lanes[0].public_key)
    with pytest.raises(KeyError):
        head.net.chain.call(lanes[0], OPERATOR, CONTRACT, (CALL,))


def test_a_tampered_transaction_is_refused(head: NearClient) -> None:
    sent = head.net.chain.call(head.net.operator, OPERATOR, CONTRACT, (CALL,))
    head.net.chain.restart()
    content = bytearray(base64.b64decode(sent.to_base64()))
    content[-1] ^= 1
    answer = head.rpc("send_tx", {"signed_tx_base64": base64.b64encode(content).decode()})
    assert answer["error"]["data"]["TxExecutionError"]["InvalidTxError"] == "InvalidSignature"


def test_controls_work_from_another_process(head: NearClient) -> None:
    def do(**document: Any) -> Any:
        return head.http.post(f"{head.net.url}/_localnet", json=document).json()

    assert do(action="make_block", count=2)["result"] == 1002
    tx_hash = do(action="request", args=head.request_args())["result"]
    do(action="make_block", count=2)
    assert do(action="pending")["result"] == [0]
    assert do(action="result_of", transaction_hash=tx_hash)["result"] == "Started"
    do(action="fail", call="status")
    assert head.http.get(f"{head.net.url}/status").status_code == 503
    assert head.http.get(f"{head.net.url}/status").json()["chain_id"] == "localnet"
    assert do(action="calls")["result"]["status"] == 2
    assert "no such action" in do(action="nothing")["error"]
    assert "no call is named" in do(action="fail", call="nothing")["error"]
    assert len(set(ACTIONS)) == len(ACTIONS)


def test_what_is_final_lags_behind(clock: FakeClock) -> None:
    """A nonce read at the final block may be the one that the last transaction has used."""
    with NearLocalnet(Dialect.head, clock=clock, finality_lag=2, wait_seconds=0.05) as net, httpx.Client() as http:
        net.chain.freeze()
        net.chain.make_block(3)
        node = NearClient(net, http)
        tx_hash = net.chain.request(node.request_args())
        key = {"request_type": "view_access_key", "account_id": REQUESTER, "public_key": net.requester.public_key}
        named = {"tx_hash": tx_hash, "sender_account_id": REQUESTER, "wait_until": "NONE"}

        def nonce(finality: str) -> int:
            found: int = node.result("query", {**key, "finality": finality})["nonce"]
            return found - 1000 * 10**6

        seen = []
        for _ in range(4):
            net.chain.make_block()
            seen.append((nonce("optimistic"), nonce("final"), len(node.view("get_pending_request_ids"))))
        assert seen == [(1, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]
        assert node.result("tx", named)["final_execution_status"] == "INCLUDED_FINAL"
        head = net.chain.height()
        assert node.result("block", {"finality": "final"})["header"]["height"] == head - 2
        assert http.get(f"{net.url}/v0/block/{head - 2}").json()["block"]["header"]["height"] == head - 2
        assert http.get(f"{net.url}/v0/block/{head - 1}").status_code == 404


def test_each_level_of_waiting_is_reached_in_its_turn(clock: FakeClock) -> None:
    with NearLocalnet(Dialect.head, clock=clock, finality_lag=3, wait_seconds=0.05) as net, httpx.Client() as http:
        net.chain.freeze()
        net.chain.make_block(3)
        node = NearClient(net, http)
        tx_hash = send(node)
        named = {"tx_hash": tx_hash, "sender_account_id": OPERATOR, "wait_until": "NONE"}
        levels = []
        for _ in range(5):
            net.chain.make_block()
            levels.append(node.result("tx", named)["final_execution_status"])
        assert levels == ["INCLUDED", "EXECUTED_OPTIMISTIC", "EXECUTED_OPTIMISTIC", "EXECUTED", "FINAL"]
