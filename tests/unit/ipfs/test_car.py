"""CARs: written and read in pieces of any size, and rejected unless they prove what they hold."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import MillraceError
from protocols.ipfs.car import CarParser, read_car, write_car
from protocols.ipfs.car_header import decode_header, encode_header
from protocols.ipfs.cid import CID, DAG_PB, RAW
from protocols.ipfs.dag_pb import Link, encode_node
from protocols.ipfs.errors import (
    BlockTooLarge,
    ContentRefused,
    ContentUnavailable,
    InvalidBlock,
    InvalidDag,
    LimitExceeded,
    TruncatedCar,
    UnsupportedContent,
)
from protocols.ipfs.importer import import_blocks
from protocols.ipfs.profiles import V0, V1, Profile
from protocols.ipfs.reader import ReadLimits
from protocols.ipfs.unixfs import encode_file
from protocols.ipfs.varint import encode_varint
from protocols.ipfs.verified import CarCollector

SMALL = Profile("small", 1, True, chunk_bytes=16, width=3)
CONTENT = random.Random(7).randbytes(400)
ROOT, BLOCKS = import_blocks(CONTENT, SMALL)
CAR = b"".join(write_car(ROOT, BLOCKS.items()))
LIMITS = ReadLimits(max_bytes=1000, max_blocks=200)


def read(car: bytes, limits: ReadLimits = LIMITS) -> bytes:
    collector = CarCollector(ROOT, limits)
    collector.feed(car)
    return collector.read().content


@given(st.lists(st.integers(0, len(CAR)), max_size=30))
def test_a_car_gives_its_blocks_however_it_is_cut_into_pieces(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(CAR)]
    pieces = [CAR[start:end] for start, end in pairwise(edges)]
    assert dict(read_car(pieces)) == BLOCKS


@given(st.integers(0, len(CAR) - 1))
def test_a_car_that_is_cut_short_never_passes_for_a_whole_one(length: int) -> None:
    with pytest.raises((TruncatedCar, ContentUnavailable)):
        read(CAR[:length])


@given(st.data())
def test_a_mutated_car_is_rejected_or_gives_the_identical_bytes(data: st.DataObject) -> None:
    car = bytearray(CAR)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(car) - 1))
        match data.draw(st.sampled_from(["flip", "drop", "insert"])):
            case "flip":
                car[place] ^= data.draw(st.integers(1, 255))
            case "drop":
                del car[place : place + data.draw(st.integers(1, 40))]
            case "insert":
                car[place:place] = data.draw(st.binary(min_size=1, max_size=20))
        if not car:
            break
    try:
        content = read(bytes(car))
    except MillraceError:
        return
    assert content == CONTENT


def test_a_cid_that_ends_inside_its_digest_breaks_the_framing() -> None:
    cut = bytes(CID(1, RAW, 0x12, bytes(20)))[:-1]
    with pytest.raises(InvalidBlock, match="inside its digest"):
        read(b"".join(write_car(ROOT, [])) + encode_varint(len(cut)) + cut)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_car_or_refused_by_name(raw: bytes) -> None:
    parser = CarParser()
    try:
        blocks = list(parser.feed(raw))
        parser.finish()
    except InvalidBlock:
        return
    assert all(CID.of(block, cid.codec).digest == cid.digest or cid.inline == block for cid, block in blocks)


def test_a_web_page_is_no_car() -> None:
    with pytest.raises(InvalidBlock):
        read(b"<!doctype html><title>502</title>" * 20)


def test_nothing_at_all_is_a_car_cut_short() -> None:
    with pytest.raises(TruncatedCar):
        read(b"")


def test_blocks_of_something_else_are_not_the_content() -> None:
    other, blocks = import_blocks(b"something else", V1)
    with pytest.raises(ContentUnavailable, match="without block"):
        read(b"".join(write_car(other, blocks.items())))


def test_the_roots_that_a_car_names_do_not_matter() -> None:
    other = CID.of(b"unrelated", RAW)
    assert read(b"".join(write_car(other, BLOCKS.items()))) == CONTENT


def test_blocks_may_come_in_any_order_and_more_than_once() -> None:
    shuffled = [*reversed(BLOCKS.items()), *BLOCKS.items()]
    assert read(b"".join(write_car(ROOT, shuffled))) == CONTENT


def test_a_file_that_is_too_large_is_refused_as_soon_as_its_root_is_seen() -> None:
    collector = CarCollector(ROOT, ReadLimits(max_bytes=len(CONTENT) - 1))
    with pytest.raises(LimitExceeded):
        collector.feed(b"".join(write_car(ROOT, [(ROOT, BLOCKS[ROOT])])))


def test_more_bytes_than_the_content_can_have_are_refused_while_they_come() -> None:
    collector = CarCollector(ROOT, ReadLimits(max_bytes=len(CONTENT), max_blocks=2))
    filler, block = CID.of(bytes(1000), RAW), bytes(1000)
    with pytest.raises(ContentRefused):
        collector.feed(b"".join(write_car(filler, [(filler, block)] * 3)))


def test_more_blocks_than_allowed_are_refused_while_they_come() -> None:
    collector = CarCollector(ROOT, ReadLimits(max_bytes=100_000, max_blocks=5))
    filler = CID.of(b"", RAW)
    with pytest.raises(ContentRefused, match="blocks"):
        collector.feed(b"".join(write_car(filler, [(filler, b"")] * 6)))


STRANGER = CID(1, RAW, 0x13, bytes(64))
"""Under a hash function that is not known here."""


def test_a_block_under_an_unknown_hash_is_passed_over() -> None:
    assert read(b"".join(write_car(ROOT, [(STRANGER, b"x"), *BLOCKS.items()]))) == CONTENT


def test_a_file_with_a_part_under_an_unknown_hash_is_unsupported_whoever_sends_it() -> None:
    """Whoever published such a file could otherwise have every honest gateway taken for a liar."""
    node = encode_node([Link(STRANGER, "", 1)], encode_file(1, block_sizes=[1]))
    root = CID.of(node, DAG_PB)
    collector = CarCollector(root, LIMITS)
    collector.feed(b"".join(write_car(root, [(root, node), (STRANGER, b"x")])))
    with pytest.raises(UnsupportedContent, match="hash function"):
        collector.read()


def test_a_section_that_is_too_large_is_not_waited_for() -> None:
    with pytest.raises(BlockTooLarge):
        read(b"".join(write_car(ROOT, [])) + encode_varint(1 << 30))


def test_the_file_in_a_version_0_tree_is_read_from_its_car() -> None:
    root, blocks = import_blocks(CONTENT, V0)
    collector = CarCollector(root, LIMITS)
    collector.feed(b"".join(write_car(root, blocks.items())))
    assert collector.read().content == CONTENT


def test_a_header_comes_back() -> None:
    roots = (ROOT, CID.of(b"x", RAW, 1))
    assert decode_header(encode_header(roots)) == roots


GOOD = encode_header([ROOT])


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xa0",
        GOOD[:-1],
        GOOD + b"\0",
        GOOD[:-1] + b"\x02",  # version 2
        GOOD.replace(b"\xd8\x2a", b"\xd8\x2b"),  # another tag than a CID's
        GOOD.replace(b"\x00\x01\x70", b"\x01\x01\x70"),  # without the zero byte
        GOOD.replace(b"roots", b"boots"),
        GOOD.replace(b"\xa2", b"\xbf"),  # of indefinite length
        b"\xa1" + GOOD[1:],
        b"\xa2\x65roots\x9b" + b"\xff" * 8,
    ],
)
def test_a_header_that_is_not_one_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidBlock):
        decode_header(header)


def test_a_car_of_another_version_is_refused() -> None:
    with pytest.raises(InvalidBlock):
        read(CAR[:1] + CAR[1:].replace(b"version\x01", b"version\x02", 1))


def test_what_the_verified_root_shows_is_not_blamed_on_the_sender() -> None:
    directory = b"\x0a\x02\x08\x01"
    root = CID.of(directory, 0x70)
    with pytest.raises(UnsupportedContent, match="directory"):
        CarCollector(root, LIMITS).feed(b"".join(write_car(root, [(root, directory)])))
    broken = b"\x0a\x02\x08\x09"
    root = CID.of(broken, 0x70)
    with pytest.raises(InvalidDag):
        CarCollector(root, LIMITS).feed(b"".join(write_car(root, [(root, broken)])))
