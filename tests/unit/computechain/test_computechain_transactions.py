from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from millrace.errors import Permanent
from protocols.computechain.block import NO_HASH, Block, Header, WrongBlock, check_block
from protocols.computechain.job import ComputeChainJob
from protocols.computechain.keys import ComputeKey
from protocols.computechain.merkle import merkle_path, merkle_root, root_from_path
from protocols.computechain.transaction import ComputeResult, Transaction, is_signed, submit_result

KEY = ComputeKey(b"\x01" * 32)
VECTOR = ComputeResult(
    task_id="550e8400-e29b-41d4-a716-446655440000",
    worker_address=KEY.address,
    result_hash="ab" * 32,
    proof="",
    nonce=7,
    signature="",
)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
results = st.builds(
    ComputeResult,
    task_id=texts,
    worker_address=st.just(KEY.address),
    result_hash=texts,
    proof=texts,
    nonce=st.integers(0, 2**70),
    signature=texts,
)
leaf_lists = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20)


def test_the_networks_vectors() -> None:
    sent = submit_result(KEY, VECTOR, nonce=3, gas_price=1000)
    assert sent.hash == "ca039cb20a84c96275856153338c2ec6eaa315cb3d6c06eac02edc5894bf480d"
    assert sent.signature == (
        "14b8338d770abfaf37e174f66fabe0c9ecf87a6a7b77c0dd793731316d7ccf9e"
        "6176f854df6e4c23df0d953ff07e77b31f0fea69788791cd17227fb3611d9085"
    )
    assert VECTOR.leaf().hex() == "53e7ebeed5fe198a5596195200482fb18e56c945be66ac0216ab027f138486c5"
    assert (sent.amount, sent.fee, sent.gas_limit, sent.to_address) == (0, 80_000_000, 80_000, None)


@given(results, st.integers(0, 2**60), st.integers(1, 10**10))
def test_the_hash_survives_the_way_to_the_node_and_back(result: ComputeResult, nonce: int, gas_price: int) -> None:
    """The node hashes what it parsed, and serialises it anew for others."""
    sent = submit_result(KEY, result, nonce=nonce, gas_price=gas_price)
    received = Transaction.model_validate(json.loads(sent.model_dump_json()))
    assert received == sent
    assert received.hash == sent.hash
    assert is_signed(received)
    assert ComputeResult.model_validate(received.payload).leaf() == result.leaf()


@given(results, st.sampled_from(["amount", "fee", "nonce", "gas_price", "gas_limit"]))
def test_a_changed_field_is_another_transaction_and_no_longer_signed(result: ComputeResult, field: str) -> None:
    sent = submit_result(KEY, result, nonce=1, gas_price=1000)
    changed = sent.model_copy(update={field: getattr(sent, field) + 1})
    assert changed.hash != sent.hash
    assert not is_signed(changed)


@pytest.mark.parametrize(
    "change",
    [
        {"proof": None},
        {"signature": None},
        {"nonce": None},
        {"nonce": 1.5},
        {"task_id": 5},
        {"result_hash": None},
        {"worker_address": None},
    ],
)
def test_a_result_that_the_node_would_drop_in_silence_cannot_be_made(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ComputeResult.model_validate({**VECTOR.payload(), **change})


@pytest.mark.parametrize("missing", ["task_id", "worker_address", "result_hash", "proof", "signature"])
def test_a_result_without_a_field_that_the_node_demands_cannot_be_made(missing: str) -> None:
    with pytest.raises(ValidationError):
        ComputeResult.model_validate({name: value for name, value in VECTOR.payload().items() if name != missing})


def test_a_result_of_another_address_cannot_be_submitted() -> None:
    with pytest.raises(Permanent, match="cannot be submitted"):
        submit_result(ComputeKey(b"\x02" * 32), VECTOR, nonce=0, gas_price=1000)


def test_a_result_is_read_as_the_node_reads_it() -> None:
    """Other fields count for the transaction's hash and not for the leaf; a number in a string is a number."""
    read = ComputeResult.model_validate({**VECTOR.payload(), "nonce": "7", "more": 1.0})
    assert read.leaf() == VECTOR.leaf()


@given(leaf_lists, st.data())
def test_a_path_leads_to_the_root_from_its_own_place_only(leaves: list[bytes], data: st.DataObject) -> None:
    root = merkle_root(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle_path(leaves, index)
    assert root_from_path(leaves[index], index, len(leaves), path) == root
    for other in range(len(leaves)):
        if leaves[other] != leaves[index]:
            assert root_from_path(leaves[other], index, len(leaves), path) != root
            assert root_from_path(leaves[index], other, len(leaves), path) != root
    assert root_from_path(leaves[index], index, len(leaves), [*path, "00" * 32]) != root


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8])
def test_the_tree_duplicates_the_last_of_an_odd_level(count: int) -> None:
    leaves = [hashlib.sha256(bytes([n])).digest() for n in range(count)]
    level = leaves
    while len(level) > 1:
        level = level + level[-1:] if len(level) % 2 else level
        level = [hashlib.sha256(a + b).digest() for a, b in zip(level[::2], level[1::2], strict=True)]
    assert merkle_root(leaves) == level[0].hex()


def test_nothing_has_no_root_and_a_single_leaf_is_its_own() -> None:
    assert merkle_root([]) == ""
    assert merkle_root([b"\x07" * 32]) == "07" * 32
    with pytest.raises(IndexError):
        merkle_path([b"\x07" * 32], 1)


@pytest.mark.parametrize("path", [["zz" * 32], ["00"], ["00" * 31], []])
def test_a_path_of_nonsense_leads_nowhere(path: list[str]) -> None:
    assert root_from_path(b"\x01" * 32, 0, 2, path) == ""


def block_of(*sent: Transaction, **header: Any) -> Block:
    fields = {
        "height": 5,
        "prev_hash": NO_HASH,
        "timestamp": 1_700_000_025,
        "chain_id": "cpc-devnet-1",
        "proposer_address": "cpcvalcons1x",
        "round": 0,
        "tx_root": merkle_root([one.digest for one in sent]) or NO_HASH,
        "state_root": "11" * 32,
        "compute_root": merkle_root([ComputeResult.model_validate(one.payload).leaf() for one in sent]),
        "gas_used": 80_000 * len(sent),
        "gas_limit": 50_000_000,
    }
    return Block.model_validate({"header": {**fields, **header}, "txs": [one.model_dump() for one in sent]})


def test_a_blocks_hash_is_computed_from_its_header() -> None:
    header = block_of().header
    text = f"5{NO_HASH}1700000025cpc-devnet-1cpcvalcons1x0{NO_HASH}{'11' * 32}050000000"
    assert header.hash == hashlib.sha256(text.encode()).hexdigest()
    assert list(Header.model_fields) == list(header.model_dump())


def test_a_block_that_fits_together_passes() -> None:
    check_block(block_of())
    check_block(block_of(*(submit_result(KEY, VECTOR, nonce=n, gas_price=1000) for n in range(3))))


@pytest.mark.parametrize("root", ["tx_root", "compute_root"])
def test_a_block_with_a_root_that_is_not_its_transactions_is_refused(root: str) -> None:
    sent = submit_result(KEY, VECTOR, nonce=0, gas_price=1000)
    with pytest.raises(WrongBlock, match=root):
        check_block(block_of(sent, **{root: "22" * 32}))
    with pytest.raises(WrongBlock, match=root):
        check_block(block_of(**{root: "22" * 32}))


@pytest.mark.parametrize("payload", [{}, {"proof": None}, {**VECTOR.payload(), "proof": None}])
def test_a_block_with_a_result_that_no_node_takes_is_refused(payload: dict[str, Any]) -> None:
    sent = submit_result(KEY, VECTOR, nonce=0, gas_price=1000).model_copy(update={"payload": payload})
    with pytest.raises(WrongBlock, match="cannot be read"):
        check_block(block_of().model_copy(update={"transactions": (sent,)}))


def test_text_that_is_not_utf_8_is_a_wrong_block_and_no_crash() -> None:
    sent = Transaction(tx_type="TRANSFER", from_address="\ud800", amount=0, nonce=0)
    with pytest.raises(WrongBlock, match="UTF-8"):
        check_block(block_of().model_copy(update={"transactions": (sent,)}))


def test_a_blocks_job_is_the_same_for_everybody_who_asks() -> None:
    def job(**other: Any) -> ComputeChainJob:
        of = {"chain_id": "cpc-devnet-1", "height": 5, "block_hash": "ab" * 32, "worker_address": KEY.address}
        return ComputeChainJob.of_block(**{**of, "algorithm": "matmul-i32-v1", "size": 64, **other})

    assert job() == job()
    assert job().key == f"computechain/cpc-devnet-1/5-{'ab' * 32}"
    assert job(size=128).task_id == job().task_id
    others = [job(chain_id="cpc-testnet-1"), job(block_hash="cd" * 32), job(worker_address="cpc1other")]
    assert len({job().task_id, *(other.task_id for other in others)}) == 4
