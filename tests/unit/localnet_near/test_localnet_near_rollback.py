"""What others do to a worker's transactions: blocks that are taken back, a nonce that somebody else uses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from near_client import FakeClock, NearClient

from localnet.near import CONTRACT, OPERATOR, Dialect, NearLocalnet
from protocols.near.transactions import FunctionCall, SignedTransaction


@pytest.fixture
def forking() -> Iterator[NearClient]:
    """A chain whose two newest blocks are not final."""
    with (
        NearLocalnet(Dialect.head, clock=FakeClock(), wait_seconds=0.05, finality_lag=2) as net,
        httpx.Client(timeout=10) as http,
    ):
        net.chain.freeze()
        net.chain.make_block(5)
        yield NearClient(net, http)


def resolution(node: NearClient, request_id: int) -> SignedTransaction:
    response = {"success": True, "output": {"Text": "done"}, "error": None, "resources_used": USED}
    call = FunctionCall("resolve_execution", json.dumps({"request_id": request_id, "response": response}).encode())
    return node.net.chain.call(node.net.operator, OPERATOR, CONTRACT, (call,))


USED = {"instructions": 1_000_000, "time_ms": 10, "compile_time_ms": None}


def test_a_block_that_is_taken_back_has_not_happened_and_the_same_bytes_land_again(forking: NearClient) -> None:
    chain = forking.net.chain
    _, entry = forking.request()
    request_id = json.loads(entry["request_data"])["request_id"]
    chain.make_block(3)
    before, height = chain.balance(OPERATOR), chain.height()
    signed = resolution(forking, request_id)
    chain.make_block(2)
    assert chain.included(signed.hash) is not None
    assert chain.pending() == [request_id], "the callback has not run yet"
    assert chain.rollback(2) == height
    assert chain.faults.served["rolled_back"] == 1
    assert chain.included(signed.hash) is None
    assert chain.result_of(signed.hash) == "NotStarted"
    assert chain.balance(OPERATOR) == before
    assert chain.receive(signed) is None, "its nonce is free again"
    chain.make_block(4)
    assert chain.pending() == [], "the yield is there again as well, and was resumed"


def test_what_is_final_is_not_taken_back(forking: NearClient, head: NearClient) -> None:
    for node in (forking, head):
        with pytest.raises(ValueError, match="not final"):
            node.net.chain.rollback(3)


def test_what_was_final_stays_so_while_the_chain_is_shorter(forking: NearClient) -> None:
    chain = forking.net.chain
    chain.make_block(4)
    final = chain.final_block()
    chain.rollback(1)
    assert chain.final_block() == final
    chain.rollback(1)
    with pytest.raises(ValueError, match="0 are not final"):
        chain.rollback(1)
    chain.make_block(3)
    assert chain.final_block().height == final.height + 1


def test_a_stranger_with_the_key_makes_every_lower_nonce_worthless(head: NearClient) -> None:
    chain = head.net.chain
    _, entry = head.request()
    signed = resolution(head, json.loads(entry["request_data"])["request_id"])
    strangers = chain.take_nonce(signed.transaction.nonce + 5)
    chain.make_block(3)
    assert chain.faults.served["nonce_taken"] == 1
    assert "Failure" in chain.result_of(strangers)
    assert chain.included(signed.hash) is None
    assert "InvalidNonce" in str(chain.receive(signed))


def test_lost_and_refused_transactions_are_counted(head: NearClient) -> None:
    chain = head.net.chain
    _, entry = head.request()
    chain.drop_next()
    signed = resolution(head, json.loads(entry["request_data"])["request_id"])
    assert chain.faults.served == {"dropped": 1}
    chain.reject_next("Expired")
    assert chain.receive(signed) == "Expired"
    assert chain.faults.served == {"dropped": 1, "rejected": 1}
