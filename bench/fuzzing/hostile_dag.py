"""DAGs whose hashes are right and whose content is whatever the input says.

Changing bytes of a block only ever finds that its hash no longer matches. An attacker hashes his blocks himself, and
so does this: the input decides what the blocks say, and the CIDs are made to fit.
"""

from __future__ import annotations

from bench.fuzzing.decoder import Bytes
from protocols.ipfs.cid import CID, DAG_PB, IDENTITY, MAX_DIGEST_BYTES, RAW
from protocols.ipfs.dag_pb import Link, encode_node
from protocols.ipfs.errors import ContentUnavailable
from protocols.ipfs.protobuf import bytes_field, varint_field
from protocols.ipfs.unixfs import encode_directory, encode_file

_MOST_BLOCKS = 12
_NAMES = ("a", "b", "..", ".", "", "a/b", "\0", "ö", "a")
_REPEATS = (2, 3, 10, 65)
_CODECS = (RAW, DAG_PB, 0x71, 0)

DAG_SEEDS = (
    b"\x00\x05hello",
    b"\x00\x05hello\x00\x03you\x03\x02\x00\x02\x01\x02\x00\x00",
    b"\x00\x01x\x06\x08\x06\x08\x06\x08\x06\x08",
    b"\x00\x01x\x04\x02\x00\x00\x00\x01\x04\x01\x01\x00",
    b"\x01\x06\x0a\x04\x08\x02\x18\x00",
    b"\x02\x01\x06\x0a\x04\x08\x02\x18\x00",
    b"\x05\x04hash\x00\x00\x00\x00",
)
"""A raw block, a file of two, a bomb, nested directories, a node by its bytes, an inline one, a digest cut short."""


class Blocks:
    """Blocks by multihash."""

    def __init__(self) -> None:
        self.sent: list[tuple[CID, bytes]] = []
        """Every block under the CID it was kept under, as an honest gateway would send them."""
        self._by_multihash: dict[bytes, bytes] = {}

    def put(self, cid: CID, block: bytes) -> None:
        """Keep a block."""
        self.sent.append((cid, block))
        self._by_multihash[cid.multihash] = block

    def get(self, cid: CID) -> bytes:
        """The block named `cid`. Raises ContentUnavailable."""
        block = self._by_multihash.get(cid.multihash)
        if block is None:
            raise ContentUnavailable(f"there is no block {cid}")
        return block


def hostile_dag(source: Bytes) -> tuple[CID, Blocks]:
    """The DAG that `source` describes; its last block is the root."""
    dag = _Dag(source)
    while source.left and len(dag.made) < _MOST_BLOCKS:
        dag.add()
    if not dag.made:
        dag.keep(RAW, b"", 0)
    return dag.made[-1][0], dag.blocks


class _Dag:
    """`made` has the CIDs so far, with the length of the file below each as far as it has one."""

    def __init__(self, source: Bytes) -> None:
        self._source = source
        self.blocks = Blocks()
        self.made: list[tuple[CID, int]] = []

    def add(self) -> None:
        source = self._source
        kinds = (self._raw, self._any_node, self._inline, self._file, self._directory, self._any_cid, self._bomb)
        kinds[source.byte() % len(kinds)]()

    def keep(self, codec: int, block: bytes, file_bytes: int) -> None:
        cid = CID.of(block, codec, self._source.byte() & 1 if codec == DAG_PB else 1)
        self.blocks.put(cid, block)
        self.made.append((cid, file_bytes))

    def _raw(self) -> None:
        content = self._source.take(self._source.byte())
        self.keep(RAW, content, len(content))

    def _any_node(self) -> None:
        self.keep(DAG_PB, self._source.take(self._source.byte()), 0)

    def _inline(self) -> None:
        codec = RAW if self._source.byte() & 1 == 0 else DAG_PB
        content = self._source.take(self._source.byte() % (MAX_DIGEST_BYTES + 1))
        self.made.append((CID(1, codec, IDENTITY, content), len(content)))

    def _file(self) -> None:
        source = self._source
        below = [self._earlier() for _ in range(source.byte() % 8 if self.made else 0)]
        lies = source.byte()
        sizes = [source.number() if lies & 1 else size for _, size in below]
        own = source.take(source.byte() % 16) if lies & 2 else b""
        total = source.number() if lies & 4 else len(own) + sum(sizes)
        links = [Link(cid, "", total % (1 << 63)) for cid, _ in below]
        message = encode_file(total % (1 << 63), own, [size % (1 << 63) for size in sizes])
        if lies & 8:
            message = varint_field(1, source.byte()) + message[2:]
        self.keep(DAG_PB, encode_node(links, message), total)

    def _directory(self) -> None:
        source = self._source
        links = []
        for _ in range(source.byte() % 6 if self.made else 0):
            cid, size = self._earlier()
            links.append(Link(cid, _NAMES[source.byte() % len(_NAMES)], size % (1 << 63)))
        self.keep(DAG_PB, encode_node(links, encode_directory()), 0)

    def _any_cid(self) -> None:
        """A node that links to a CID with any codec, hash function and digest."""
        source = self._source
        digest = source.take(source.byte() % 40)
        cid = CID(1, _CODECS[source.byte() % len(_CODECS)], (0x12, 0, 0xB220, 1)[source.byte() % 4], digest)
        if not cid.verifiable:
            self.blocks.put(cid, b"x")  # nobody here can say that it is not
        link = bytes_field(1, bytes(cid)) + bytes_field(2, source.take(source.byte() % 8)) + varint_field(3, 1)
        self.keep(DAG_PB, bytes_field(2, link) + bytes_field(1, encode_file(1, b"", [1])), 1)

    def _bomb(self) -> None:
        """Links to one block again and again: a few of these above each other spell a file of any length."""
        if self.made:
            (cid, size), times = self.made[-1], _REPEATS[self._source.byte() % len(_REPEATS)]
            total = size * times % (1 << 63)
            links = [Link(cid, "", total)] * times
            self.keep(DAG_PB, encode_node(links, encode_file(total, b"", [size % (1 << 63)] * times)), total)

    def _earlier(self) -> tuple[CID, int]:
        return self.made[self._source.byte() % len(self.made)]
