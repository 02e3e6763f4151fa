"""CIDs: read strictly, written in one spelling a base, compared parsed."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ipfs.cid import CID, DAG_PB, IDENTITY, RAW, SHA2_256
from protocols.ipfs.errors import InvalidBlock, InvalidCID, UnsupportedContent
from protocols.ipfs.multibase import PREFIXES, decode_base58, encode_base58
from protocols.ipfs.varint import decode_varint, encode_varint

V0_TEXT = "QmehpKLHvLx3DwfTW53aT6SdHL8uHkPypZQ4amDysuBARW"
V1_TEXT = "bafkreieq2favmupwwu2qjwm5qfdcmqcmgklrrfco3dmtapo3j5fnr6tspy"

digests = st.binary(min_size=32, max_size=32)
v1_cids = st.builds(CID, st.just(1), st.integers(0, 2**40), st.just(SHA2_256), digests)
inline_cids = st.builds(CID, st.just(1), st.sampled_from([RAW, DAG_PB]), st.just(IDENTITY), st.binary(max_size=128))
v0_cids = st.builds(CID, st.just(0), st.just(DAG_PB), st.just(SHA2_256), digests)


@given(v1_cids | inline_cids, st.sampled_from(sorted(PREFIXES)))
def test_a_version_1_cid_comes_back_from_every_base(cid: CID, base: str) -> None:
    assert CID.parse(cid.format(base)) == cid


@given(v0_cids | v1_cids | inline_cids)
def test_a_cid_comes_back_from_its_bytes_and_its_text(cid: CID) -> None:
    assert CID.decode(bytes(cid)) == cid
    assert CID.parse(str(cid)) == cid


@given(v0_cids | v1_cids, st.binary(min_size=1, max_size=4))
def test_bytes_after_a_cid_are_refused(cid: CID, extra: bytes) -> None:
    with pytest.raises(InvalidCID):
        CID.decode(bytes(cid) + extra)


@given(v0_cids | v1_cids, st.integers(0, 33))
def test_a_cid_that_is_cut_short_is_refused(cid: CID, length: int) -> None:
    with pytest.raises(InvalidCID):
        CID.decode(bytes(cid)[:length])


@given(st.text(max_size=80))
def test_any_text_is_a_cid_or_refused_as_none(text: str) -> None:
    try:
        cid = CID.parse(text)
    except InvalidCID:
        return
    assert CID.parse(str(cid)) == cid


@given(st.binary(max_size=60))
def test_any_bytes_are_a_cid_or_refused_as_none(raw: bytes) -> None:
    try:
        cid = CID.decode(raw)
    except InvalidCID:
        return
    assert bytes(cid) == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Qm",
        V0_TEXT[:-1],
        V0_TEXT + "A",
        V0_TEXT.replace("e", "0", 1),  # not a base 58 letter
        "z" + V0_TEXT,  # version 0 has no multibase prefix
        "b" + V1_TEXT[1:].upper(),
        V1_TEXT + "=",
        V1_TEXT[:-1] + "z",  # bits set that mean nothing
        "mAXASIA",  # base 64 is not read
        f"ipfs://{V1_TEXT}",
        f"/ipfs/{V1_TEXT}",
        f"{V1_TEXT}/file",
        f"{V1_TEXT}?format=raw",
        f" {V1_TEXT}",
        "b" + "a" * 600,
        "bagcq2",
    ],
)
def test_what_is_not_quite_a_cid_is_refused(text: str) -> None:
    with pytest.raises(InvalidCID) as caught:
        CID.parse(text)
    assert caught.value.message


def test_an_upper_case_spelling_with_a_matching_prefix_is_the_same_cid() -> None:
    assert CID.parse(V1_TEXT.upper()) == CID.parse(V1_TEXT)


def test_versions_0_and_1_of_a_cid_name_the_same_content_and_are_not_equal() -> None:
    v0 = CID.parse(V0_TEXT)
    assert v0.names_same_as(v0.to_v1())
    assert v0 != v0.to_v1()
    assert str(v0.to_v1()).startswith("bafybei")


def test_the_same_hash_under_another_codec_names_other_content() -> None:
    raw = CID.parse(V1_TEXT)
    assert not raw.names_same_as(CID(1, DAG_PB, SHA2_256, raw.digest))


def test_a_block_is_verified_by_its_hash() -> None:
    cid = CID.of(b"block", RAW)
    cid.verify(b"block")
    with pytest.raises(InvalidBlock):
        cid.verify(b"blocK")


def test_an_inline_cid_holds_its_block() -> None:
    cid = CID.parse("bafkqaaa")
    assert cid.inline == b""
    cid.verify(b"")
    with pytest.raises(InvalidBlock):
        cid.verify(b"x")


def test_an_unknown_hash_function_is_not_taken_for_verified() -> None:
    cid = CID(1, RAW, 0x13, hashlib.sha512(b"block").digest())
    with pytest.raises(UnsupportedContent):
        CID.parse(str(cid)).verify(b"block")


@given(st.integers(0, 2**63 - 1))
def test_a_varint_comes_back(number: int) -> None:
    encoded = encode_varint(number)
    assert decode_varint(encoded) == (number, len(encoded))


@pytest.mark.parametrize("number", [-1, 2**63])
def test_a_number_that_fits_no_varint_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_varint(number)


@pytest.mark.parametrize("raw", [b"\x80\x00", b"\xff" * 9 + b"\x01"])
def test_a_varint_that_is_not_shortest_or_too_long_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="varint"):
        decode_varint(raw)


@given(st.binary(max_size=50))
def test_base58_keeps_every_byte_leading_zeros_included(raw: bytes) -> None:
    assert decode_base58(encode_base58(raw)) == raw
