"""The mempool: which nonce is next, what is parked, and how long anything waits."""

from __future__ import annotations

import pytest
from node_client import FakeClock, NodeClient, payment, signed

from localnet.computechain import ComputeChainLocalnet
from protocols.computechain.keys import ComputeKey


def test_the_pending_nonce_counts_the_pool_and_the_confirmed_one_does_not(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    for nonce in range(3):
        node.send(signed(worker, nonce))
    assert (node.nonce(worker.address), node.nonce(worker.address, pending=False)) == (3, 0)
    assert node.read(f"/balance/{worker.address}")["nonce"] == 0
    net.chain.make_block()
    assert (node.nonce(worker.address), node.nonce(worker.address, pending=False)) == (3, 3)
    assert node.read(f"/balance/{worker.address}")["nonce"] == 3


def test_a_nonce_below_the_expected_one_is_too_low_before_and_after_its_block(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """There is no replacing by a higher fee, and an included transaction is no longer known as such."""
    first = signed(worker)
    node.send(first)
    assert node.rejected(signed(worker, gas_price=9_000)) == "nonce_too_low"
    net.chain.make_block()
    assert node.rejected(first) == "nonce_too_low"


def test_two_submissions_from_the_confirmed_nonce_collide(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """The trap: within one block the confirmed nonce has not moved."""
    confirmed = node.nonce(worker.address, pending=False)
    node.send(signed(worker, confirmed))
    assert node.nonce(worker.address, pending=False) == confirmed
    assert node.rejected(signed(worker, confirmed, gas_price=2_000)) == "nonce_too_low"


def test_a_nonce_above_the_expected_one_is_parked_and_nobody_is_told(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    node.send(signed(worker, 2))
    assert node.nonce(worker.address) == 0
    assert node.read("/status")["mempool_size"] == 0
    net.chain.make_block()
    assert node.tip()["txs"] == []


def test_what_is_parked_is_promoted_only_after_a_block(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    for nonce in (2, 1, 0):
        node.send(signed(worker, nonce))
    assert node.nonce(worker.address) == 1
    net.chain.make_block()
    assert [sent["nonce"] for sent in node.tip()["txs"]] == [0]
    assert (node.nonce(worker.address), node.nonce(worker.address, pending=False)) == (3, 1)
    net.chain.make_block()
    assert [sent["nonce"] for sent in node.tip()["txs"]] == [1, 2]


def test_at_most_64_are_parked_for_an_account(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, rival: ComputeKey
) -> None:
    for nonce in range(1, 65):
        node.send(signed(worker, nonce))
    assert node.rejected(signed(worker, 65)) == "queued_limit_exceeded"
    node.send(signed(rival, 1))
    node.send(signed(worker, 0))


def test_what_is_parked_is_stored_again_when_it_is_sent_again(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """The node looks for repetitions in the pool only; the copy takes a place and never gets into a block."""
    node.send(signed(worker, 1))
    node.send(signed(worker, 1))
    assert [parked.nonce for parked in net.chain.mempool.parked(worker.address)] == [1, 1]
    node.send(signed(worker, 0))
    net.chain.make_block(3)
    assert len(net.chain.landed(worker.address)) == 2
    assert net.chain.mempool.parked(worker.address) == []


def test_a_parked_transaction_loses_its_nonce_to_one_that_fits_at_once(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    parked, fitting = signed(worker, 1, gas_price=5_000), signed(worker, 1)
    node.send(parked)
    node.send(signed(worker, 0))
    hash_of_fitting = node.send(fitting)
    net.chain.make_block(2)
    assert net.chain.landed(worker.address)[1] == hash_of_fitting
    assert len(net.chain.landed(worker.address)) == 2


def test_a_sender_has_at_most_a_thousand_in_the_pool(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, rival: ComputeKey
) -> None:
    """Counted before the nonce is looked at: what would only be parked is rejected as well."""
    assert (net.chain.mempool.most, net.chain.mempool.most_per_sender) == (100_000, 1_000)
    net.chain.mempool.most_per_sender = 3
    for nonce in range(3):
        node.send(signed(worker, nonce))
    assert node.rejected(signed(worker, 3)) == "sender_limit_exceeded"
    assert node.rejected(signed(worker, 9)) == "sender_limit_exceeded"
    node.send(signed(rival, 0))
    net.chain.make_block()
    node.send(signed(worker, 3))


def test_the_pool_as_a_whole_has_a_limit(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, rival: ComputeKey
) -> None:
    net.chain.mempool.most = 2
    node.send(signed(worker, 0))
    node.send(signed(rival, 0))
    assert node.rejected(signed(worker, 1)) == "mempool_full"


@pytest.mark.parametrize("nonce", [0, 5])
def test_what_waits_for_more_than_an_hour_is_given_up(
    net: ComputeChainLocalnet, node: NodeClient, clock: FakeClock, worker: ComputeKey, nonce: int
) -> None:
    """Pooled or parked alike; the receipt stays "pending", since nobody updates it."""
    tx_hash = node.send(signed(worker, nonce))
    clock.now += 3_600
    assert node.receipt(tx_hash)["status"] == "pending"
    assert node.nonce(worker.address) == (1 if nonce == 0 else 0)
    clock.now += 31
    assert node.nonce(worker.address) == 0
    net.chain.make_block()
    assert net.chain.landed(worker.address) == []
    assert net.chain.mempool.parked(worker.address) == []
    assert node.receipt(tx_hash)["status"] == "pending"


def test_old_transactions_are_looked_for_after_a_block_and_every_30_seconds(
    net: ComputeChainLocalnet, node: NodeClient, clock: FakeClock, worker: ComputeKey
) -> None:
    node.read("/status")
    clock.now += 29
    node.send(signed(worker, 1))
    clock.now += 3_601
    node.read("/status")  # sweeps, since the last time was long ago
    assert net.chain.mempool.parked(worker.address) == []
    node.send(signed(worker, 1))
    clock.now += 3_590
    node.read("/status")
    clock.now += 15
    node.read("/status")
    assert len(net.chain.mempool.parked(worker.address)) == 1, "too old, and the next look is 15 s away"
    net.chain.make_block()
    assert net.chain.mempool.parked(worker.address) == []


def test_the_dearest_gas_goes_first_then_the_address_and_a_senders_own_stay_in_order(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, rival: ComputeKey
) -> None:
    third = ComputeKey(b"\x05" * 32)
    net.chain.fund(third.address, 10**18)
    low, high = sorted([worker, rival], key=lambda key: key.address)
    node.send(signed(high, 0))
    node.send(signed(low, 0))
    node.send(signed(low, 1, gas_price=9_000))
    node.send(payment(third, low.address, 5, gas_price=3_000))
    net.chain.make_block()
    order = [(sent["from_address"], sent["nonce"]) for sent in node.tip()["txs"]]
    assert order == [(third.address, 0), (low.address, 0), (low.address, 1), (high.address, 0)]


def test_a_restart_loses_the_pool_and_what_was_parked_and_keeps_the_blocks(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    landed = node.send(signed(worker, 0))
    net.chain.make_block()
    lost, parked = node.send(signed(worker, 1)), node.send(signed(worker, 3))
    net.chain.restart()
    assert node.nonce(worker.address) == 1
    assert node.get(f"/tx/{lost}/receipt").status_code == 404
    assert node.get(f"/tx/{parked}/receipt").status_code == 404
    assert node.receipt(landed)["status"] == "confirmed"
    node.send(signed(worker, 1))
    net.chain.make_block()
    assert net.chain.landed(worker.address) == [landed, lost]
