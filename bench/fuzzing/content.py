"""Readers of whole content: CARs in pieces, files and directories out of blocks that somebody chose."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

from bench.fuzzing.decoder import Bytes, Decoder, agree, well_said
from bench.fuzzing.hostile_dag import DAG_SEEDS, Blocks, hostile_dag
from millrace.errors import MillraceError
from protocols.ipfs.car import CarParser, read_car, write_car
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.dag_pb import decode_node
from protocols.ipfs.directory import Entries, check_name, import_directory, resolve_path
from protocols.ipfs.errors import (
    ContentRefused,
    ContentUnavailable,
    InvalidBlock,
    InvalidDag,
    LimitExceeded,
    UnsupportedContent,
)
from protocols.ipfs.importer import import_blocks
from protocols.ipfs.profiles import V0, V1, Profile
from protocols.ipfs.reader import ReadLimits, read_file, walk_dag
from protocols.ipfs.unixfs import decode_unixfs
from protocols.ipfs.verified import CarCollector

LIMITS = ReadLimits(max_bytes=4096, max_blocks=64, max_depth=8)
_READING = (InvalidBlock, InvalidDag, LimitExceeded, UnsupportedContent, ContentUnavailable)
_SMALL = (Profile("small", 1, True, 40, 3), Profile("small v0", 0, False, 40, 3))
FILES = {
    root: (content, b"".join(write_car(root, blocks.items())))
    for profile in (V0, V1, *_SMALL)
    for content in (b"", b"a result\n", random.Random(1).randbytes(300))
    for root, blocks in [import_blocks(content, profile)]
}
"""Small files by CID: their bytes, and the CAR that a well-behaved gateway sends."""


def check_car(given: bytes) -> None:
    """The first byte says into how many pieces the CAR is cut."""
    source = Bytes(given)
    pieces, car = source.byte() + 1, source.rest()
    whole, cut = _read(car, 1), _read(car, pieces)
    agree(whole == cut, f"cut into {pieces} pieces it reads {cut}, whole {whole}")
    blocks, error = whole
    for cid, block in blocks:
        cid.verify(block)
    if error is None:
        root = CID.of(b"", RAW)
        agree(list(read_car(write_car(root, blocks))) == blocks, "other blocks when written and read again")


def _read(car: bytes, pieces: int) -> tuple[list[tuple[CID, bytes]], type[MillraceError] | None]:
    parser, blocks = CarParser(), []
    bounds = [len(car) * piece // pieces for piece in range(pieces + 1)]
    try:
        for start, end in pairwise(bounds):
            # One by one: what came before the broken section was given out, and must be the same.
            for cid, block in parser.feed(car[start:end]):
                blocks.append((cid, block))
        parser.finish()
    except InvalidBlock as error:
        well_said(error)
        return blocks, type(error)
    return blocks, None


def check_car_file(given: bytes) -> None:
    """The first byte says which file was asked for; what is accepted must be that file."""
    source = Bytes(given)
    root = list(FILES)[source.byte() % len(FILES)]
    collector = CarCollector(root, LIMITS)
    try:
        while source.left:
            collector.feed(source.take(100))
        content = collector.read().content
    except (*_READING, ContentRefused) as error:
        well_said(error)
        return
    agree(content == FILES[root][0], "another file than the one that was asked for")


def check_dag(given: bytes) -> None:
    """A DAG made as the input says, all of it properly hashed: read, walked, and read again from its CAR."""
    root, blocks = hostile_dag(Bytes(given))
    content = _file(root, blocks)
    walked = _walk(root, blocks)
    _blame_nobody(root, blocks)
    if content is None:
        return
    agree(content == _plainly(root, blocks), "another content than a plain reading gives")
    if walked is not None:
        collector = CarCollector(root, LIMITS)
        for piece in write_car(root, walked):
            collector.feed(piece)
        agree(collector.read().content == content, "another content out of its CAR")


def _file(root: CID, blocks: Blocks) -> bytes | None:
    content, asked = b"", 0

    def block_of(cid: CID) -> bytes:
        nonlocal asked
        asked += 1
        return blocks.get(cid)

    try:
        for part in read_file(root, block_of, LIMITS):
            content += part
            agree(len(content) <= LIMITS.max_bytes, "more bytes given out than allowed")
    except _READING as error:
        well_said(error)
        return None
    finally:
        agree(asked <= LIMITS.max_blocks, f"{asked} blocks asked for")
    return content


def _blame_nobody(root: CID, blocks: Blocks) -> None:
    """Whatever the author linked to, the CAR is right: InvalidBlock would have its sender banned, so it passes."""
    collector = CarCollector(root, LIMITS)
    try:
        for piece in write_car(root, blocks.sent):
            collector.feed(piece)
        collector.read()
    except (InvalidDag, LimitExceeded, UnsupportedContent, ContentUnavailable, ContentRefused) as error:
        well_said(error)


def _walk(root: CID, blocks: Blocks) -> list[tuple[CID, bytes]] | None:
    try:
        walked = list(walk_dag(root, blocks.get, LIMITS))
    except _READING as error:
        well_said(error)
        return None
    agree(len({cid.multihash for cid, _ in walked}) == len(walked) <= LIMITS.max_blocks, "a block twice")
    return walked


def _plainly(cid: CID, blocks: Blocks) -> bytes:
    """The content as a reader without any defence gets it; only for what our reader took."""
    block = cid.inline if cid.inline is not None else blocks.get(cid)
    if cid.codec == RAW:
        return block
    node = decode_node(block)
    return decode_unixfs(node.content).content + b"".join(_plainly(link.cid, blocks) for link in node.links)


def check_directory(given: bytes) -> None:
    """A path in a hostile DAG; then a directory of our own making, in which every file must be found."""
    source = Bytes(given)
    path = source.take(source.byte() % 32).decode("utf-8", "surrogateescape")
    root, blocks = hostile_dag(source)
    try:
        resolve_path(root, path, blocks.get)
    except _READING as error:
        well_said(error)
    _find_all([name for name in given.decode("latin-1").split("\n")[:8] if _is_name(name)])


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except InvalidDag:
        return False
    return True


def _find_all(names: list[str]) -> None:
    inner: Entries = {name: name.encode() for name in names}
    blocks = Blocks()
    root = import_directory({"inner": inner, "file": b"x"}, blocks.put).cid
    for name in names:
        found = resolve_path(root, f"inner/{name}", blocks.get)
        agree(b"".join(read_file(found, blocks.get, LIMITS)) == name.encode(), f"another file under {name!r}")


def _cars() -> Iterator[bytes]:
    for _, car in FILES.values():
        yield b"\0" + car
        yield b"\x07" + car


DECODERS = (
    Decoder("car", check_car, _cars, 2048),
    Decoder("car file", check_car_file, lambda: (bytes([n]) + car for n, (_, car) in enumerate(FILES.values())), 2048),
    Decoder("dag", check_dag, lambda: DAG_SEEDS, 256),
    Decoder("directory", check_directory, lambda: [b"\x03a/b" + seed for seed in DAG_SEEDS], 256),
)
