"""Import a file and read it back: the CIDs are everybody's, and nothing unproven comes out."""

from __future__ import annotations

import hashlib
import io
import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ipfs.cid import CID, DAG_PB, IDENTITY, RAW
from protocols.ipfs.dag_pb import Link, encode_node
from protocols.ipfs.errors import (
    ContentUnavailable,
    InvalidBlock,
    InvalidDag,
    LimitExceeded,
    UnsupportedContent,
)
from protocols.ipfs.importer import import_blocks, import_file, matching_profile
from protocols.ipfs.profiles import PROFILES, V0, V1, V1_PB, Profile
from protocols.ipfs.protobuf import varint_field
from protocols.ipfs.reader import MAX_BLOCK_BYTES, ReadLimits, read_file, walk_dag
from protocols.ipfs.unixfs import Kind, encode_file

KIB = 1024
GOLDEN = json.loads((Path(__file__).parents[2] / "vectors/ipfs_cids.json").read_text())
LIMITS = ReadLimits(max_bytes=1 << 20, max_blocks=10_000)


@cache
def content_of(name: str) -> bytes:
    """The bytes that the vectors' names stand for: SHAKE-256 output, so that nobody has to store them."""
    chunk = 256 * KIB
    small = {"a_empty": 0, "c_256k": chunk, "d_256k1": chunk + 1, "e_1m": 4 * chunk, "e_1m1": 4 * chunk + 1}
    large = {"f_174chunks": 174 * chunk, "g_174chunks1": 174 * chunk + 1, "h_100m": 400 * chunk}
    if name in small:
        return hashlib.shake_256(b"s").digest(small[name])
    if name in large:
        return _hundred_mebibytes()[: large[name]]
    return {"b_1byte": b"x", "i_json": b'{"job":"ci","ok":true,"n":1}', "j_zeros600k": bytes(600 * KIB)}[name]


@cache
def _hundred_mebibytes() -> bytes:
    return hashlib.shake_256(b"100M").digest(100 * 1024 * KIB)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_every_profile_gives_the_cids_that_other_implementations_gave(name: str) -> None:
    content = content_of(name)
    golden = {"v1-raw-256k-174": GOLDEN[name]["importer-default"], **GOLDEN[name]}
    golden.pop("importer-default")
    assert {profile: str(import_file(content, PROFILES[profile]).cid) for profile in golden} == golden


profiles = st.builds(
    lambda version, raw, chunk, width, wrap: Profile("any", version, raw, chunk, width, wrap),
    st.sampled_from([0, 1]),
    st.booleans(),
    st.integers(1, 40),
    st.integers(2, 5),
    st.booleans(),
)


@given(st.binary(max_size=600), profiles)
def test_what_is_imported_is_read_back(content: bytes, profile: Profile) -> None:
    root, blocks = import_blocks(content, profile)
    assert b"".join(read_file(root, blocks.__getitem__, LIMITS)) == content


@given(st.binary(max_size=600), profiles, st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_a_stream_with_short_reads_gives_the_same_cid(content: bytes, profile: Profile, reads: list[int]) -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(reads.pop(0))
            return super().read(min(size or 1, reads[-1]))

    assert import_file(Trickle(content), profile) == import_file(content, profile)


@given(st.binary(max_size=600), profiles, st.data())
def test_a_changed_bit_in_any_block_is_found(content: bytes, profile: Profile, data: st.DataObject) -> None:
    root, blocks = import_blocks(content, profile)
    victim = data.draw(st.sampled_from(sorted(blocks, key=bytes)))
    block = bytearray(blocks[victim])
    if not block:
        return
    block[data.draw(st.integers(0, len(block) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    blocks[victim] = bytes(block)
    with pytest.raises(InvalidBlock):
        b"".join(read_file(root, blocks.__getitem__, LIMITS))


@given(st.binary(min_size=1, max_size=400), profiles)
def test_a_file_larger_than_allowed_is_refused_before_its_first_byte(content: bytes, profile: Profile) -> None:
    root, blocks = import_blocks(content, profile)
    with pytest.raises(LimitExceeded):
        next(read_file(root, blocks.__getitem__, ReadLimits(max_bytes=len(content) - 1)))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_profile_of_plain_bytes_is_found_by_trying(profile: Profile) -> None:
    content = content_of("e_1m1")
    cid = import_file(content, profile).cid
    found = matching_profile(cid, content)
    assert found is not None
    assert import_file(content, found).cid.names_same_as(cid)
    assert matching_profile(cid, content[:-1]) is None


def test_a_few_blocks_that_spell_an_endless_file_are_stopped() -> None:
    """Nine blocks, each linking a hundred times to the one below: 100 to the 8th visits, without one byte."""
    blocks: dict[CID, bytes] = {}
    cid = import_file(b"", V0, blocks.__setitem__).cid
    for _ in range(8):
        block = encode_node([Link(cid, "", 0)] * 100, encode_file(0, block_sizes=[0] * 100))
        cid = CID.of(block, DAG_PB)
        blocks[cid] = block
    with pytest.raises(LimitExceeded, match="blocks"):
        list(read_file(cid, blocks.__getitem__, LIMITS))


def test_a_deep_chain_of_blocks_is_stopped() -> None:
    blocks: dict[CID, bytes] = {}
    cid = import_file(b"x", V0, blocks.__setitem__).cid
    for _ in range(40):
        block = encode_node([Link(cid, "", 0)], encode_file(1, block_sizes=[1]))
        cid = CID.of(block, DAG_PB)
        blocks[cid] = block
    with pytest.raises(LimitExceeded, match="deeper"):
        list(read_file(cid, blocks.__getitem__, LIMITS))
    with pytest.raises(LimitExceeded):
        list(walk_dag(cid, blocks.__getitem__, LIMITS))


LEAF = CID.of(b"leaf", RAW)


@pytest.mark.parametrize(
    "message",
    [
        encode_file(5, block_sizes=[5]),  # the child is shorter
        encode_file(3, block_sizes=[3]),
        encode_file(5, block_sizes=[4]),  # the sum is not what it says
        encode_file(4, block_sizes=[]),  # a link without a size
        encode_file(8, block_sizes=[4, 4]),  # a size without a link
        encode_file(4, b"x", [4]),
    ],
)
def test_sizes_that_do_not_add_up_are_refused(message: bytes) -> None:
    root_block = encode_node([Link(LEAF, "", 4)], message)
    root = CID.of(root_block, DAG_PB)
    blocks = {root: root_block, LEAF: b"leaf"}
    with pytest.raises(InvalidDag):
        list(read_file(root, blocks.__getitem__, LIMITS))


@pytest.mark.parametrize("kind", [Kind.directory, Kind.symlink, Kind.metadata, Kind.hamt_directory])
def test_what_is_no_file_is_refused_with_what_it_is(kind: Kind) -> None:
    block = encode_node([], varint_field(1, kind))
    with pytest.raises(UnsupportedContent, match=kind.name.replace("_", " ")):
        list(read_file(CID.of(block, DAG_PB), lambda _: block, LIMITS))


def test_a_codec_that_is_not_read_is_refused() -> None:
    with pytest.raises(UnsupportedContent, match="0x71"):
        list(read_file(CID.of(b"\xa0", 0x71), lambda _: b"\xa0", LIMITS))


def test_a_block_larger_than_any_may_be_is_refused_although_it_matches() -> None:
    block = bytes(MAX_BLOCK_BYTES + 1)
    with pytest.raises(InvalidBlock, match="larger"):
        list(read_file(CID.of(block, RAW), lambda _: block, ReadLimits()))


def test_a_missing_block_is_told_by_whoever_has_the_blocks() -> None:
    def nothing(cid: CID) -> bytes:
        raise ContentUnavailable(f"no {cid}")

    with pytest.raises(ContentUnavailable):
        list(read_file(CID.of(b"x", RAW), nothing, LIMITS))


def test_an_inline_file_needs_no_block() -> None:
    cid = CID(1, RAW, 0, b"in the name")
    assert list(read_file(cid, {}.__getitem__, LIMITS)) == [b"in the name"]


def test_importing_keeps_one_chunk_in_memory_however_often_it_repeats() -> None:
    root, blocks = import_blocks(content_of("j_zeros600k"), V1)
    assert len(blocks) == 3  # full chunk of zeros, the rest, the root
    assert b"".join(read_file(root, blocks.__getitem__, LIMITS)) == bytes(600 * KIB)


def test_more_links_than_blocks_may_be_are_not_kept_waiting() -> None:
    """30 nested blocks of empty links took 0.6 GB and half a minute before the blocks were counted."""
    nothing = Link(CID(1, RAW, IDENTITY, b""), "", 0)
    inner = encode_node([nothing] * 5, encode_file(0, b"", [0] * 5))
    outer = encode_node([Link(CID.of(inner, DAG_PB), "", 0), *[nothing] * 7], encode_file(0, b"", [0] * 8))
    blocks = {CID.of(block, DAG_PB): block for block in (inner, outer)}
    asked: list[CID] = []

    def block_of(cid: CID) -> bytes:
        asked.append(cid)
        return blocks[cid]

    def read(most: int) -> bytes:
        asked.clear()
        return b"".join(read_file(CID.of(outer, DAG_PB), block_of, ReadLimits(max_blocks=most)))

    assert read(14) == b""
    with pytest.raises(LimitExceeded, match="more than 13 blocks"):
        read(13)
    with pytest.raises(LimitExceeded, match="more than 8 blocks"):
        read(8)
    assert len(asked) == 1, "the first block says it all"


def test_the_walk_gives_each_block_once_parents_first() -> None:
    root, blocks = import_blocks(content_of("e_1m1"), V1_PB)
    walked = list(walk_dag(root, blocks.__getitem__, ReadLimits()))
    assert walked[0][0] == root
    assert dict(walked) == blocks
    assert len(walked) == len(blocks)
