"""DAGs that nobody publishes by accident."""

from __future__ import annotations

import base64

from localnet.ipfs import Faults
from localnet.ipfs.blockstore import BlockStore
from protocols.ipfs.car import write_car
from protocols.ipfs.cid import CID, DAG_PB, RAW, SHA2_256
from protocols.ipfs.dag_pb import Link, encode_node
from protocols.ipfs.unixfs import encode_file
from protocols.ipfs.varint import encode_varint

CAR_TYPE = "application/vnd.ipld.car; version=1; order=dfs; dups=n"


def exponential(store: BlockStore, levels: int = 8, width: int = 100) -> CID:
    """Nine small blocks that spell 100^8 visits: each node links to the next one a hundred times, none holds a byte."""
    block = encode_node([], encode_file(0))
    cid = CID.of(block, DAG_PB)
    store.put(cid, block)
    for _ in range(levels):
        block = encode_node([Link(cid, "", len(block))] * width, encode_file(0, block_sizes=[0] * width))
        cid = CID.of(block, DAG_PB)
        store.put(cid, block)
    return cid


def heavy(store: BlockStore, width: int = 2000) -> CID:
    """One block of a megabyte that holds nothing of the file, linked to 2,000 times: two gigabytes to hash."""
    leaf = encode_node([Link(CID.of(b"", RAW), "x" * 1_000_000, 0)], encode_file(0, block_sizes=[0]))
    child = CID.of(leaf, DAG_PB)
    root = encode_node([Link(child, "", len(leaf))] * width, encode_file(0, block_sizes=[0] * width))
    for cid, block in ((CID.of(b"", RAW), b""), (child, leaf), (CID.of(root, DAG_PB), root)):
        store.put(cid, block)
    return CID.of(root, DAG_PB)


def cyclic() -> tuple[CID, Faults]:
    """A root whose child is said to be the root again: no hash can make that true, so the CAR that says so lies."""
    child = CID.of(b"the child", RAW)
    root_block = encode_node([Link(child, "", 9)], encode_file(9, block_sizes=[9]))
    root = CID.of(root_block, DAG_PB)
    return root, car_fault(b"".join(write_car(root, [(root, root_block), (child, root_block)])))


def unverifiable(digest: bytes, hash_code: int = SHA2_256) -> tuple[CID, Faults]:
    """A file of three levels whose leaf's name nobody can check here, in the correct CAR that any gateway sends."""
    leaf = CID(1, RAW, hash_code, digest)
    blocks = [(leaf, b"the leaf")]
    for _ in range(2):
        block = encode_node([Link(blocks[0][0], "", 8)], encode_file(8, block_sizes=[8]))
        blocks.insert(0, (CID.of(block, DAG_PB), block))
    root = blocks[0][0]
    return root, car_fault(b"".join(write_car(root, blocks)))


def claims_a_gigabyte(root: CID) -> Faults:
    """A CAR whose first block is said to have a gigabyte."""
    return car_fault(b"".join(write_car(root, [])) + encode_varint(1 << 30) + bytes(100_000))


def other_content() -> Faults:
    """A sound CAR of something that nobody asked for."""
    other = b"other content, as sound as can be"
    return car_fault(b"".join(write_car(CID.of(other, RAW), [(CID.of(other, RAW), other)])))


def car_fault(car: bytes) -> Faults:
    return Faults(answer_base64=base64.b64encode(car).decode(), answer_type=CAR_TYPE)
