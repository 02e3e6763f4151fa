"""dag-pb and UnixFS: what is written comes back, and what is broken is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ipfs.cid import CID, DAG_PB, RAW, SHA2_256
from protocols.ipfs.dag_pb import Link, Node, decode_node, encode_node
from protocols.ipfs.errors import InvalidDag
from protocols.ipfs.protobuf import bytes_field, varint_field
from protocols.ipfs.unixfs import Kind, UnixFS, decode_unixfs, encode_directory, encode_file
from protocols.ipfs.varint import encode_varint

sizes = st.integers(0, 2**40)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
cids = st.builds(
    CID, st.just(1), st.sampled_from([RAW, DAG_PB]), st.just(SHA2_256), st.binary(min_size=32, max_size=32)
)
links = st.lists(st.builds(Link, cids, names, sizes), max_size=5)


@given(links, st.binary(max_size=50))
def test_a_node_comes_back(links: list[Link], content: bytes) -> None:
    assert decode_node(encode_node(links, content)) == Node(tuple(links), content)


@given(sizes, st.binary(max_size=50), st.lists(sizes, max_size=5))
def test_a_file_message_comes_back(file_bytes: int, content: bytes, block_sizes: list[int]) -> None:
    decoded = decode_unixfs(encode_file(file_bytes, content, block_sizes))
    assert decoded == UnixFS(Kind.file, content, file_bytes, tuple(block_sizes))


@given(links, st.binary(max_size=50), st.data())
def test_a_changed_byte_is_refused_or_gives_another_node(
    found: list[Link], content: bytes, data: st.DataObject
) -> None:
    block = bytearray(encode_node(found, content))
    block[data.draw(st.integers(0, len(block) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_node(bytes(block))
    except InvalidDag:
        return
    assert decoded != Node(tuple(found), content)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_unixfs_message_or_refused(raw: bytes) -> None:
    try:
        decoded = decode_unixfs(raw)
    except InvalidDag:
        return
    assert decoded.kind in Kind


def test_block_sizes_are_read_in_the_packed_form_too() -> None:
    packed = bytes_field(4, encode_varint(300) + encode_varint(7))
    assert decode_unixfs(varint_field(1, Kind.file) + packed).block_sizes == (300, 7)


def test_mode_and_modification_time_are_ignored() -> None:
    message = encode_directory() + varint_field(7, 0o755) + bytes_field(8, varint_field(1, 0))
    assert decode_unixfs(message).kind is Kind.directory


def _link(*fields: bytes) -> bytes:
    return bytes_field(2, b"".join(fields))


CID_FIELD = bytes_field(1, bytes(CID.of(b"", RAW)))


@pytest.mark.parametrize(
    "block",
    [
        bytes_field(1, b"once") + bytes_field(1, b"twice"),
        varint_field(3, 1),
        varint_field(1, 1),
        _link(bytes_field(2, b"name")),
        _link(bytes_field(2, b"name"), CID_FIELD),
        _link(CID_FIELD, CID_FIELD),
        _link(bytes_field(1, b"no cid")),
        _link(CID_FIELD, bytes_field(2, b"\xff")),
        _link(CID_FIELD, varint_field(4, 1)),
        b"\x0a\x05abc",
        b"\x0d\x00\x00\x00\x00",
        b"\x80",
    ],
)
def test_a_broken_node_is_refused(block: bytes) -> None:
    with pytest.raises(InvalidDag):
        decode_node(block)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        varint_field(1, 6),
        varint_field(1, 2) + varint_field(1, 2),
        varint_field(1, 2) + varint_field(9, 1),
        varint_field(1, 2) + varint_field(2, 1),
        varint_field(1, 2) + bytes_field(3, b"x"),
        varint_field(1, 2) + bytes_field(4, b"\x80"),
    ],
)
def test_a_broken_unixfs_message_is_refused(message: bytes) -> None:
    with pytest.raises(InvalidDag):
        decode_unixfs(message)
