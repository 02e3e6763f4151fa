"""Borsh, hashes and signatures, byte for byte those of @near-js/transactions 2.5.1."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.near.keys import NearKey, parse_secret_key
from protocols.near.transactions import FunctionCall, MalformedTransaction, SignedTransaction, Transaction

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "near_transactions.json").read_text())["vectors"]


def transaction_of(vector: dict[str, Any]) -> tuple[NearKey, Transaction]:
    key = parse_secret_key(vector["secret_key"])
    calls = tuple(
        FunctionCall(call["method"], bytes.fromhex(call["args"]), int(call["gas"]), int(call["deposit"]))
        for call in vector["calls"]
    )
    block_hash = bytes.fromhex(vector["block_hash"])
    nonce = int(vector["nonce"])
    return key, Transaction(vector["signer_id"], key.public_bytes, nonce, vector["receiver_id"], block_hash, calls)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_bytes_hash_and_signature_are_those_of_near_js(vector: dict[str, Any]) -> None:
    key, transaction = transaction_of(vector)
    assert key.public_key == vector["public_key"]
    assert transaction.to_bytes().hex() == vector["transaction"]
    assert transaction.hash == vector["hash"]
    signed = transaction.signed_by(key)
    assert signed.to_bytes().hex() == vector["signed"]
    assert signed.verifies
    assert SignedTransaction.from_bytes(bytes.fromhex(vector["signed"])) == signed
    assert SignedTransaction.from_base64(signed.to_base64()) == signed


def test_a_key_signs_only_what_names_it() -> None:
    _, transaction = transaction_of(VECTORS[0])
    with pytest.raises(ValueError, match="not the one that the transaction names"):
        transaction.signed_by(NearKey.generate())


def test_a_signature_does_not_verify_for_another_transaction() -> None:
    key, transaction = transaction_of(VECTORS[0])
    _, other = transaction_of(VECTORS[2])
    assert not SignedTransaction(other, transaction.signed_by(key).signature).verifies


@pytest.mark.parametrize("change", [{"nonce": 1 << 64}, {"nonce": -1}])
def test_a_number_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    _, transaction = transaction_of(VECTORS[0])
    with pytest.raises(OverflowError):
        Transaction(**{**transaction.__dict__, **change}).to_bytes()


BYTES_32 = st.binary(min_size=32, max_size=32)
CALLS = st.builds(
    FunctionCall,
    method=st.text(max_size=20),
    args=st.binary(max_size=100),
    gas=st.integers(0, (1 << 64) - 1),
    deposit_yocto=st.integers(0, (1 << 128) - 1),
)
SIGNED = st.builds(
    SignedTransaction,
    st.builds(
        Transaction,
        signer_id=st.text(max_size=64),
        public_key=BYTES_32,
        nonce=st.integers(0, (1 << 64) - 1),
        receiver_id=st.text(max_size=64),
        block_hash=BYTES_32,
        calls=st.lists(CALLS, max_size=4).map(tuple),
    ),
    st.binary(min_size=64, max_size=64),
)


@given(SIGNED)
def test_what_is_written_is_read_again(signed: SignedTransaction) -> None:
    assert SignedTransaction.from_bytes(signed.to_bytes()) == signed


@given(SIGNED, st.data())
def test_a_transaction_that_is_cut_or_goes_on_is_refused(signed: SignedTransaction, data: st.DataObject) -> None:
    whole = signed.to_bytes()
    end = data.draw(st.integers(0, len(whole) - 1))
    for content in (whole[:end], whole + b"\x00"):
        with pytest.raises(MalformedTransaction):
            SignedTransaction.from_bytes(content)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_one_way_or_read_exactly(content: bytes) -> None:
    with contextlib.suppress(MalformedTransaction):
        assert SignedTransaction.from_bytes(content).to_bytes() == content


@given(st.text(max_size=60))
def test_any_text_is_refused_in_one_way(text: str) -> None:
    with contextlib.suppress(MalformedTransaction):
        SignedTransaction.from_base64(text)
