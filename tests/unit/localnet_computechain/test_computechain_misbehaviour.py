"""The bad days of a node, on request: in this process and over HTTP from another."""

from __future__ import annotations

import json
import time

import httpx
import pytest
from node_client import FakeClock, NodeClient, hash_of, payment, result_of, signed

from localnet.computechain import ComputeChainLocalnet
from localnet.computechain.chain import CALLS
from localnet.computechain.routes import ROUTES
from protocols.computechain.keys import ComputeKey

PATHS = {
    "status": "/status",
    "block": "/block/0",
    "balance": "/balance/cpc1a",
    "nonce": "/nonce/cpc1a",
    "receipt": "/tx/ab/receipt",
    "events": "/events/stream",
    "validators": "/validators",
    "metrics": "/metrics",
}


# ---- transactions ----


def test_the_next_sends_are_rejected_with_given_words_and_leave_no_trace(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    net.chain.reject_next("mempool_full", 2)
    net.chain.reject_next("sender_limit_exceeded")
    document = signed(worker)
    reasons = [node.rejected(document) for _ in range(3)]
    assert reasons == ["mempool_full", "mempool_full", "sender_limit_exceeded"]
    assert node.nonce(worker.address) == 0
    node.send(document)


def test_the_next_transactions_are_accepted_and_dropped_by_the_proposer(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """Like a malformed one, but well-formed: the same bytes sent again do land."""
    document = signed(worker)
    net.chain.drop_next()
    tx_hash = node.send(document)
    assert node.nonce(worker.address) == 1
    net.chain.make_block()
    assert net.chain.faults.served == {"dropped": 1}
    assert (node.tip()["txs"], node.nonce(worker.address)) == ([], 0)
    assert node.receipt(tx_hash)["status"] == "pending"
    node.send(document)
    net.chain.make_block()
    assert net.chain.landed(worker.address) == [tx_hash]


def test_a_stranger_with_the_key_takes_the_nonce_before_the_pool_is_looked_at(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """Ours was accepted and waits; the block brings another transaction of the same sender and nonce."""
    ours = node.send(signed(worker, gas_price=9_000))
    theirs = net.chain.take_nonce(worker.private_bytes.hex())
    assert node.nonce(worker.address) == 1
    net.chain.make_block()
    (included,) = node.tip()["txs"]
    assert (included["from_address"], included["nonce"], hash_of(included)) == (worker.address, 0, theirs)
    assert node.receipt(ours)["status"] == "pending"
    assert node.read("/status")["mempool_size"] == 0
    assert node.rejected(signed(worker, gas_price=9_000)) == "nonce_too_low"
    assert net.chain.landed(worker.address) == [theirs]


def test_a_stranger_that_comes_too_late_takes_nothing(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    node.send(signed(worker))
    net.chain.make_block()
    net.chain.take_nonce(worker.private_bytes.hex(), nonce=0)
    net.chain.make_block()
    assert node.tip()["txs"] == []
    assert node.nonce(worker.address) == 1


# ---- receipts ----


def test_receipts_can_stick_at_pending_while_the_chain_goes_on(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    net.chain.stick_receipts()
    tx_hash = node.send(signed(worker))
    net.chain.make_block(3)
    receipt = node.receipt(tx_hash)
    assert (receipt["status"], receipt["block_height"]) == ("pending", None)
    assert "confirmations" not in receipt
    assert node.nonce(worker.address, pending=False) == 1
    net.chain.stick_receipts(False)
    assert node.receipt(tx_hash)["status"] == "confirmed"


def test_a_receipt_can_lie(net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey) -> None:
    tx_hash = node.send(signed(worker))
    net.chain.forge_receipt(tx_hash, "failed", error="out of gas", block_height=9)
    net.chain.make_block()
    receipt = node.receipt(tx_hash)
    assert (receipt["status"], receipt["error"], receipt["block_height"]) == ("failed", "out of gas", 9)
    assert net.chain.landed(worker.address) == [tx_hash]


# ---- blocks ----


def test_a_rollback_takes_blocks_nonces_and_balances_back(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, rival: ComputeKey
) -> None:
    before = {key.address: node.balance(key.address) for key in (worker, rival)}
    first = node.send(signed(worker, 0))
    net.chain.make_block()
    after_first = node.balance(worker.address)
    root = node.tip()["header"]["state_root"]
    node.send(payment(worker, rival.address, 5, nonce=1))
    net.chain.make_block(2)
    assert net.chain.rollback(2) == 1
    assert (node.height(), node.tip()["header"]["state_root"]) == (1, root)
    assert node.get("/block/2").status_code == 404
    assert node.nonce(worker.address) == 1
    assert node.balance(worker.address) == after_first
    assert node.balance(rival.address) == before[rival.address]
    assert net.chain.rollback() == 0
    assert node.balance(worker.address) == before[worker.address]
    assert node.receipt(first)["status"] == "pending"
    net.chain.make_block(2)
    assert net.chain.landed(worker.address) == [], "rolled back into nowhere"


def test_a_rollback_can_put_transactions_back_into_the_mempool(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, rival: ComputeKey
) -> None:
    hashes = []
    for nonce in range(3):
        hashes.append(node.send(signed(worker, nonce)))
        net.chain.make_block()
    waiting = node.send(signed(worker, 3))
    net.chain.rollback(2, keep_transactions=True)
    assert (node.nonce(worker.address), node.nonce(worker.address, pending=False)) == (4, 1)
    net.chain.make_block()
    assert net.chain.landed(worker.address) == [*hashes, waiting]


def test_blocks_after_a_rollback_are_other_blocks(net: ComputeChainLocalnet, node: NodeClient) -> None:
    """A fork that came back with the same hashes would be noticed by nobody."""
    net.chain.make_block(2)
    seen = {node.read("/status")["last_hash"]}
    for _ in range(4):
        net.chain.rollback(2)
        net.chain.make_block(2)
        seen.add(node.read("/status")["last_hash"])
    assert len(seen) == 5
    assert [node.block(height)["header"]["round"] for height in range(3)] == [0, 4, 4]


def test_what_the_faucet_gave_outside_of_blocks_survives_a_rollback(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    net.chain.make_block()
    net.chain.fund(worker.address, 7)
    net.chain.rollback()
    assert node.balance(worker.address) == 10**18 + 7


@pytest.mark.parametrize("blocks", [0, -1, 2])
def test_no_more_blocks_than_there_are_can_be_taken_back(net: ComputeChainLocalnet, blocks: int) -> None:
    with pytest.raises(ValueError, match="cannot take"):
        net.chain.rollback(blocks)
    assert net.chain.rollback(1) == -1


def test_the_state_can_be_ahead_of_the_blocks(
    net: ComputeChainLocalnet, node: NodeClient, clock: FakeClock, worker: ComputeKey
) -> None:
    """Between the node's two steps the nonce has moved and the block with the transaction cannot be read."""
    net.chain.delay_storage(2.0)
    tx_hash = node.send(signed(worker))
    clock.now += 10
    net.chain.make_block()
    assert node.nonce(worker.address, pending=False) == 1
    assert node.height() == 0
    assert node.get("/block/1").status_code == 404
    assert node.receipt(tx_hash)["status"] == "pending"
    clock.now += 2.1
    assert node.height() == 1
    assert hash_of(node.block(1)["txs"][0]) == tx_hash
    assert node.receipt(tx_hash)["status"] == "confirmed"


# ---- HTTP ----


def test_every_call_can_fail_and_only_the_one_that_was_named(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    assert {route.name for route in ROUTES} == {*PATHS, "send"} == set(CALLS)
    for name, path in PATHS.items():
        net.chain.fail(name, status=500)
        assert node.get("/balance/x" if name == "status" else "/status").status_code == 200
        assert node.get(path).status_code == 500
    net.chain.fail("send", status=502)
    assert node.post(signed(worker)).status_code == 502
    node.send(signed(worker))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_status_is_answered_so_many_times_and_then_no_more(
    net: ComputeChainLocalnet, node: NodeClient, status: int
) -> None:
    net.chain.fail("status", 2, status=status, retry_after_seconds=3)
    net.chain.fail("*", 1, status=504)
    answers = [node.get("/status") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [status, status, 504, 200]
    assert answers[0].headers["retry-after"] == "3"


def test_a_reset_comes_before_the_call_and_a_lost_reply_after_it(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """Alike for the sender, and only one of them is in the pool."""
    for kind, in_pool in (("reset", 0), ("lost_reply", 1)):
        net.chain.fail("send", kind=kind)
        with pytest.raises(httpx.TransportError):
            node.post(signed(worker))
        assert node.nonce(worker.address) == in_pool


def test_an_answer_can_be_cut_malformed_or_something_else(net: ComputeChainLocalnet, node: NodeClient) -> None:
    net.chain.fail("block", kind="cut")
    with pytest.raises(httpx.RemoteProtocolError):
        node.get("/block/0")
    net.chain.fail("block", kind="malformed")
    with pytest.raises(json.JSONDecodeError):
        node.get("/block/0").json()
    net.chain.fail("block", kind="other_json")
    assert isinstance(node.get("/block/0").json(), list)
    assert node.block(0)["header"]["height"] == 0


def test_a_call_can_hang_or_be_slow_and_holds_up_nobody_else(net: ComputeChainLocalnet, node: NodeClient) -> None:
    net.chain.fail("status", kind="hang", seconds=60)
    with httpx.Client(timeout=0.2) as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.get(f"{net.url}/status")
    net.chain.fail("status", kind="slow", seconds=0.1)
    started = time.monotonic()
    assert node.height() == 0
    assert time.monotonic() - started >= 0.1


def test_an_answer_without_end_can_be_left(net: ComputeChainLocalnet, node: NodeClient) -> None:
    net.chain.fail("block", kind="endless")
    read_bytes = 0
    with node.http.stream("GET", f"{net.url}/block/0") as response:
        for piece in response.iter_raw():
            read_bytes += len(piece)
            if read_bytes > 1_000_000:
                break
    assert node.height() == 0


def test_a_fault_of_an_unknown_kind_or_call_is_refused(net: ComputeChainLocalnet) -> None:
    """A typing error would else be a test that tests nothing."""
    with pytest.raises(ValueError, match="no call is named 'stauts'; known: status, block"):
        net.chain.fail("stauts")
    with pytest.raises(ValueError, match="no fault is called 'hiccup'"):
        net.chain.fail("status", kind="hiccup")


def test_faults_can_be_forgotten(
    net: ComputeChainLocalnet, node: NodeClient, clock: FakeClock, worker: ComputeKey
) -> None:
    net.chain.fail("*", 9)
    net.chain.reject_next("mempool_full", 9)
    net.chain.drop_next(9)
    net.chain.stick_receipts()
    net.chain.delay_storage(60)
    net.chain.clear_faults()
    tx_hash = node.send(signed(worker))
    net.chain.make_block()
    assert node.receipt(tx_hash)["status"] == "confirmed"


def test_every_call_is_counted_also_those_that_fail(net: ComputeChainLocalnet, node: NodeClient) -> None:
    net.chain.fail("status")
    node.get("/status")
    node.get("/status")
    node.get("/block/latest")
    node.get("/nothing")
    assert net.chain.calls == {"status": 2, "block": 1}


# ---- from another process ----


def test_another_process_has_the_same_controls(
    net: ComputeChainLocalnet, node: NodeClient, clock: FakeClock, worker: ComputeKey
) -> None:
    secret = worker.private_bytes.hex()
    assert node.control("fund", address="cpc1a", wei=10**19) == 10**19
    assert node.control("make_block", count=2) == node.control("height") == 2
    payment_hash = node.control("transfer", to_address="cpc1a", wei=1)
    node.control("drop_next")
    node.send(signed(worker))
    stolen = node.control("take_nonce", private_key=secret)
    assert node.control("make_block", missed_rounds=1) == 3
    assert node.control("landed", address=net.faucet.address) == [payment_hash]
    assert node.control("landed", address=worker.address) == [stolen]
    assert node.control("rollback", blocks=1, keep_transactions=True) == 2
    assert node.control("served") == {"nonce_taken": 1, "rolled_back": 2}
    node.control("restart")
    assert node.nonce(worker.address) == 0
    node.control("stick_receipts", stuck=True)
    node.control("delay_storage", seconds=1.5)
    node.control("silence_events", silent=True)
    node.control("clear_faults")
    node.control("reject_next", error="mempool_full")
    assert node.rejected(signed(worker)) == "mempool_full"
    node.control("forge_receipt", tx_hash="ab", status="confirmed", block_height=7)
    assert node.receipt("ab")["block_height"] == 7
    node.control("fail", call="status", times=1, status=429)
    assert node.get("/status").status_code == 429
    node.control("set_block_seconds", seconds=1.0)
    assert node.control("thaw") == 2
    clock.now += 3.5
    assert node.control("freeze") == 5
    assert node.control("calls")["send"] == 2


@pytest.mark.parametrize(
    "document",
    [
        {"action": "halt"},
        {"action": "lock"},
        {"action": "rollback", "blocks": 99},
        {"action": "rollback", "blocks": "many"},
        {"action": "fund", "address": "cpc1a"},
        {"action": "set_block_seconds", "seconds": 0},
        {"action": "set_block_seconds", "seconds": "soon"},
        {"action": "take_nonce", "private_key": "zz"},
        {"action": "take_nonce", "private_key": "00"},
        {"action": "transfer", "to_address": "cpc1a", "wei": 10**60},
        {"action": "fail", "call": "status", "kind": "hiccup"},
        [],
    ],
)
def test_a_control_that_makes_no_sense_is_refused_with_a_reason(node: NodeClient, document: object) -> None:
    answer = node.http.post(f"{node.url}/_localnet", json=document)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert node.height() == 0


def test_a_control_that_is_no_json_is_refused(node: NodeClient) -> None:
    assert node.http.post(f"{node.url}/_localnet", content=b"{").status_code == 400


def test_a_malformed_result_is_still_dropped_after_all_faults_are_cleared(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """The silent drop is a rule of the node and no fault that somebody asked for."""
    net.chain.clear_faults()
    node.send(signed(worker, payload=result_of(worker.address, proof=None)))
    net.chain.make_block()
    assert node.tip()["txs"] == []
