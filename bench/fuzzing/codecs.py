"""The codecs that CIDs and blocks are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bench.fuzzing.decoder import Decoder, agree, well_said
from protocols.ipfs.car_header import decode_header, encode_header
from protocols.ipfs.cid import CID, DAG_PB, IDENTITY, RAW
from protocols.ipfs.dag_pb import Link, decode_node, encode_node
from protocols.ipfs.errors import InvalidBlock, InvalidCID, InvalidDag
from protocols.ipfs.multibase import PREFIXES, decode_multibase, encode_multibase
from protocols.ipfs.unixfs import Kind, decode_unixfs, encode_directory, encode_file
from protocols.ipfs.varint import decode_varint, encode_varint

VECTORS = Path(__file__).parents[2] / "tests" / "vectors" / "ipfs_cids.json"
"""CIDs that other implementations gave."""


def golden_cids() -> list[CID]:
    """Every CID of the golden vectors, and some of kinds that they lack."""
    named = {text for profiles in json.loads(VECTORS.read_text()).values() for text in profiles.values()}
    inline = [CID(1, RAW, IDENTITY, b""), CID(1, DAG_PB, IDENTITY, encode_node([], encode_file(2, b"hi")))]
    return [*map(CID.parse, sorted(named)), *inline, CID(1, 0x71, 0xB220, bytes(32))]


def check_varint(given: bytes) -> None:
    try:
        number, end = decode_varint(given)
    except (EOFError, ValueError):
        return
    agree(encode_varint(number) == given[:end], "a varint with two spellings")


def check_multibase(given: bytes) -> None:
    text = given.decode("utf-8", "surrogateescape")
    try:
        raw = decode_multibase(text)
    except ValueError:
        return
    base = next(name for name, prefix in PREFIXES.items() if text.startswith(prefix))
    agree(encode_multibase(raw, base) == text, "a text with two spellings")


def check_cid_text(given: bytes) -> None:
    try:
        cid = CID.parse(given.decode("utf-8", "surrogateescape"))
    except InvalidCID as error:
        well_said(error)
        return
    agree(CID.parse(str(cid)) == cid, "another CID when parsed again")
    for base in PREFIXES:
        agree(CID.parse(cid.format(base)).names_same_as(cid), f"another CID in {base}")


def check_cid_binary(given: bytes) -> None:
    try:
        cid = CID.decode(given)
    except InvalidCID as error:
        well_said(error)
        return
    agree(bytes(cid) == given, "a binary CID with two spellings")
    agree(CID.parse(str(cid)) == cid, "another CID in text")
    agree(CID.read(b"\0" + given + b"\0", 1) == (cid, len(given) + 1), "another CID inside a longer text")


def check_dag_pb(given: bytes) -> None:
    try:
        node = decode_node(given)
    except InvalidDag as error:
        well_said(error)
        return
    agree(decode_node(encode_node(node.links, node.content)) == node, "another node when decoded again")


def check_unixfs(given: bytes) -> None:
    try:
        message = decode_unixfs(given)
    except InvalidDag as error:
        well_said(error)
        return
    if message.kind is Kind.file and message.file_bytes is not None:
        written = encode_file(message.file_bytes, message.content, message.block_sizes)
        agree(decode_unixfs(written) == message, "another message when decoded again")


def check_car_header(given: bytes) -> None:
    try:
        roots = decode_header(given)
    except InvalidBlock as error:
        well_said(error)
        return
    agree(decode_header(encode_header(roots)) == roots, "other roots when decoded again")


def _nodes() -> Iterator[bytes]:
    links = [Link(cid, name, 1 << 40) for cid, name in zip(golden_cids(), ("", "a", "ö", "x" * 40), strict=False)]
    yield encode_node(links, encode_file(5, b"hello", [1, 2, 3, 1 << 62]))
    yield encode_node(links, encode_directory())
    yield encode_node([], b"")


def _messages() -> Iterator[bytes]:
    yield from (encode_file(5, b"hello"), encode_file(9, b"", [4, 5]), encode_directory(), b"\x08\x02\x22\x02\x04\x05")


DECODERS = (
    Decoder("varint", check_varint, lambda: map(encode_varint, (0, 127, 128, 1 << 35, (1 << 63) - 1)), 32),
    Decoder(
        "multibase", check_multibase, lambda: (cid.format(base).encode() for cid in golden_cids() for base in PREFIXES)
    ),
    Decoder("cid text", check_cid_text, lambda: (str(cid).encode() for cid in golden_cids())),
    Decoder("cid binary", check_cid_binary, lambda: map(bytes, golden_cids()), 256),
    Decoder("dag-pb", check_dag_pb, _nodes),
    Decoder("unixfs", check_unixfs, _messages),
    Decoder("car header", check_car_header, lambda: (encode_header(golden_cids()[:count]) for count in (0, 1, 3))),
)
