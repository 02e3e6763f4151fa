"""What the proposer puts into a block, what it costs, and which hashes and roots stand over it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from node_client import GAS, FakeClock, NodeClient, hash_of, payment, result_of, signed

from localnet.computechain import ComputeChainLocalnet
from protocols.computechain.block import Block, check_block
from protocols.computechain.keys import ComputeKey, verify_signature
from protocols.computechain.transaction import Transaction

HASHED = (
    "height", "prev_hash", "timestamp", "chain_id", "proposer_address", "round", "tx_root", "state_root",
    "compute_root", "gas_used", "gas_limit",
)  # fmt: skip
COST = GAS * 1_000
ZEROS = "0" * 64


def block_hash(block: dict[str, Any]) -> str:
    return hashlib.sha256("".join(str(block["header"][name]) for name in HASHED).encode()).hexdigest()


def leaf_of(payload: dict[str, Any]) -> bytes:
    names = ("task_id", "worker_address", "result_hash", "proof", "nonce", "signature")
    text = json.dumps({name: payload[name] for name in names}, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()


def root_of(leaves: list[bytes]) -> str:
    """The page's tree, written out once more: an odd level's last is doubled."""
    while len(leaves) > 1:
        leaves = leaves + leaves[-1:] if len(leaves) % 2 else leaves
        leaves = [hashlib.sha256(a + b).digest() for a, b in zip(leaves[::2], leaves[1::2], strict=True)]
    return leaves[0].hex()


def fill(net: ComputeChainLocalnet, count: int) -> list[int]:
    """Send so many results past HTTP; returns how many are in each of the next two blocks."""
    key = ComputeKey(b"\x06" * 32)
    net.chain.freeze()
    net.chain.fund(key.address, 10**30)
    for nonce in range(count):
        document = signed(key, nonce, gas_price=net.chain.network.minimum_gas_price)
        assert net.chain.receive(Transaction.model_validate(document)) is None
    net.chain.make_block(2)
    blocks = [net.chain.block(height) for height in (1, 2)]
    return [len(block.transactions) for block in blocks if block]


def test_a_result_is_included_and_costs_exactly_its_gas(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """The excess of fee and gas limit, which had to be covered at the door, is not charged."""
    before = node.balance(worker.address)
    node.send(signed(worker, fee=10**12, gas_limit=10**9))
    assert node.balance(worker.address) == before
    net.chain.make_block()
    assert node.balance(worker.address) == before - 80_000_000
    assert node.nonce(worker.address, pending=False) == 1
    assert node.tip()["header"]["gas_used"] == GAS


def test_the_compute_root_is_there_for_one_block_and_gone_in_the_next(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    assert node.tip()["header"]["compute_root"] == ""
    for nonce in range(4):
        node.send(signed(worker, nonce))
        net.chain.make_block()
    result = result_of(worker.address)
    assert leaf_of(result).hex() == "53e7ebeed5fe198a5596195200482fb18e56c945be66ac0216ab027f138486c5"
    assert node.tip()["header"]["compute_root"] == leaf_of(result).hex()
    net.chain.make_block()
    assert node.tip()["header"]["compute_root"] == ""


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
def test_both_roots_cover_the_transactions_in_the_blocks_order(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, rival: ComputeKey, count: int
) -> None:
    """Payments count for one root and not for the other; keys the node does not know are in no leaf."""
    node.send(payment(rival, worker.address, 1, gas_price=5_000))
    for nonce in range(count):
        payload = result_of(worker.address, proof=f"größe {nonce}", gpu="H100", nonce=nonce)
        node.send(signed(worker, nonce, payload=payload))
    net.chain.make_block()
    block = node.tip()
    assert len(block["txs"]) == count + 1
    assert block["header"]["tx_root"] == root_of([bytes.fromhex(hash_of(sent)) for sent in block["txs"]])
    leaves = [leaf_of(sent["payload"]) for sent in block["txs"] if sent["tx_type"] == "SUBMIT_RESULT"]
    assert block["header"]["compute_root"] == root_of(leaves)
    check_block(Block.model_validate(block))


def test_a_block_without_transactions_has_a_root_of_zeros(net: ComputeChainLocalnet, node: NodeClient) -> None:
    header = node.tip()["header"]
    assert (header["tx_root"], header["compute_root"], header["gas_used"]) == (ZEROS, "", 0)


def test_blocks_form_a_chain_from_zeros_to_the_tip(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    node.send(signed(worker))
    net.chain.make_block(4)
    expected = ZEROS
    for height in range(5):
        block = node.block(height)
        assert (block["header"]["height"], block["header"]["prev_hash"]) == (height, expected)
        expected = block_hash(block)
    assert node.read("/status")["last_hash"] == expected


def test_a_block_is_signed_by_its_proposer_over_its_hash(net: ComputeChainLocalnet, node: NodeClient) -> None:
    net.chain.make_block(3)
    listed = {one["address"]: one["pq_pub_key"] for one in node.read("/validators")["validators"]}
    proposers = set()
    for height in range(4):
        block = node.block(height)
        proposer = block["header"]["proposer_address"]
        proposers.add(proposer)
        assert verify_signature(listed[proposer], bytes.fromhex(block_hash(block)), block["pq_signature"])
    assert proposers == set(listed)


def test_timestamps_are_slots_and_no_clock(net: ComputeChainLocalnet, node: NodeClient, clock: FakeClock) -> None:
    genesis = node.block(0)["header"]["timestamp"]
    clock.now += 1_000
    net.chain.make_block()
    assert node.tip()["header"]["timestamp"] == genesis + 5
    net.chain.make_block(missed_rounds=3)
    header = node.tip()["header"]
    assert (header["height"], header["round"], header["timestamp"]) == (2, 3, genesis + 5 * (2 + 3))


def test_a_block_looks_as_the_real_one_does(net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey) -> None:
    """Full transactions without their hash, and no hash of the block either."""
    sent = signed(worker)
    node.send({**sent, "timestamp": 7})
    net.chain.make_block()
    block = node.tip()
    assert list(block) == ["header", "txs", "pq_signature", "pq_sig_scheme_id"]
    assert list(block["header"]) == [*HASHED, "zk_state_proof_hash", "zk_compute_proof_hash"]
    assert (block["header"]["chain_id"], block["header"]["gas_limit"]) == ("cpc-devnet-1", 50_000_000)
    assert block["txs"] == [sent]
    assert list(block["txs"][0]) == list(sent)


@pytest.mark.parametrize(
    "fields",
    [
        {"proof": None},
        {"proof": ...},
        {"proof": "\ud800"},
        {"signature": None},
        {"signature": ...},
        {"task_id": ...},
        {"result_hash": 7},
        {"nonce": None},
        {"nonce": 1.5},
        {"worker_address": ...},
        {"worker_address": "cpc1somebodyelse"},
    ],
)
def test_a_malformed_result_is_received_and_dropped_without_a_word(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, fields: dict[str, object]
) -> None:
    """Receipt, nonce and balance stay as they were; the same nonce is free again."""
    before = node.balance(worker.address)
    tx_hash = node.send(signed(worker, payload=result_of(worker.address, **fields)))
    assert node.nonce(worker.address) == 1
    net.chain.make_block()
    assert node.tip()["txs"] == []
    assert node.receipt(tx_hash)["status"] == "pending"
    assert (node.nonce(worker.address), node.balance(worker.address)) == (0, before)
    node.send(signed(worker))
    net.chain.make_block()
    assert len(node.tip()["txs"]) == 1


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        ({"nonce": "7"}, {"nonce": 7}),
        ({"nonce": ...}, {"nonce": 0}),
        ({"proof": "p" * 200_000}, {"proof": "p" * 200_000}),
        ({"task_id": "not a UUID", "result_hash": ""}, {"task_id": "not a UUID", "result_hash": ""}),
    ],
)
def test_a_lenient_result_is_included_with_its_normal_form_as_the_leaf(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, fields: dict[str, Any], leaf: dict[str, Any]
) -> None:
    """In the block the payload stays as it was sent: only the leaf is made of the node's reading."""
    sent = signed(worker, payload=result_of(worker.address, **fields))
    node.send(sent)
    net.chain.make_block()
    block = node.tip()
    assert block["txs"][0]["payload"] == sent["payload"]
    assert block["header"]["compute_root"] == leaf_of({**result_of(worker.address), **leaf}).hex()


def test_the_same_result_again_is_charged_again(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    before = node.balance(worker.address)
    node.send(signed(worker, 0))
    node.send(signed(worker, 1))
    net.chain.make_block()
    assert before - node.balance(worker.address) == 2 * COST
    leaf = leaf_of(result_of(worker.address))
    assert node.tip()["header"]["compute_root"] == root_of([leaf, leaf])


def test_an_amount_on_a_result_is_gone_for_good(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, rival: ComputeKey
) -> None:
    before = node.balance(worker.address), node.balance(rival.address)
    node.send(signed(worker, amount=1_000, to_address=rival.address))
    net.chain.make_block()
    after = node.balance(worker.address), node.balance(rival.address)
    assert after == (before[0] - 1_000 - COST, before[1])


def test_a_payment_arrives(net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey, rival: ComputeKey) -> None:
    before = node.balance(worker.address), node.balance(rival.address)
    node.send(payment(worker, rival.address, 1_000))
    net.chain.make_block()
    after = node.balance(worker.address), node.balance(rival.address)
    assert after == (before[0] - 1_000 - 21_000_000, before[1] + 1_000)


def test_what_the_door_lets_in_and_the_block_does_not_is_dropped(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    """A negative amount, and a payment to nobody."""
    before = node.balance(worker.address)
    node.send(signed(worker, amount=-(10**20)))
    net.chain.make_block()
    node.send(payment(worker, None, 5))
    net.chain.make_block()
    assert (node.nonce(worker.address), node.balance(worker.address)) == (0, before)


def test_behind_a_dropped_transaction_the_rest_waits_for_its_nonce(
    net: ComputeChainLocalnet, node: NodeClient, worker: ComputeKey
) -> None:
    node.send(signed(worker, 0, payload=result_of(worker.address, proof=None)))
    node.send(signed(worker, 1))
    net.chain.make_block()
    assert (node.tip()["txs"], node.nonce(worker.address)) == ([], 0)
    node.send(signed(worker, 0))
    assert node.nonce(worker.address) == 2
    net.chain.make_block()
    assert [sent["nonce"] for sent in node.tip()["txs"]] == [0, 1]


@pytest.mark.parametrize(("network", "most"), [("devnet", 500), ("testnet", 187), ("mainnet", 375)])
def test_a_block_holds_as_many_results_as_number_and_gas_allow(network: str, most: int) -> None:
    assert fill(ComputeChainLocalnet(network), most + 2) == [most, 2]
