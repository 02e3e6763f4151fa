"""dag-pb: a node with named links and some bytes of its own.

Source: https://ipld.io/specs/codecs/dag-pb/spec/. Links are written before the bytes, although their field
number is higher: every other order gives another CID.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocols.ipfs.cid import CID
from protocols.ipfs.errors import InvalidCID, InvalidDag
from protocols.ipfs.protobuf import as_bytes, as_int, bytes_field, read_fields, varint_field

_NODE_BYTES, _NODE_LINK = 1, 2
_LINK_HASH, _LINK_NAME, _LINK_TSIZE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a block. `dag_bytes` is the size of all blocks below it, repeated ones counted again."""

    cid: CID
    name: str
    dag_bytes: int


@dataclass(frozen=True, slots=True)
class Node:
    """A decoded dag-pb block."""

    links: tuple[Link, ...]
    content: bytes


def encode_node(links: Sequence[Link], content: bytes) -> bytes:
    """The dag-pb block with these links, in this order, and these bytes."""
    parts = [
        bytes_field(
            _NODE_LINK,
            bytes_field(_LINK_HASH, bytes(link.cid))
            + bytes_field(_LINK_NAME, link.name.encode())
            + varint_field(_LINK_TSIZE, link.dag_bytes),
        )
        for link in links
    ]
    return b"".join([*parts, bytes_field(_NODE_BYTES, content)])


def decode_node(block: bytes) -> Node:
    """The node that `block` holds. Raises InvalidDag."""
    links: list[Link] = []
    content: bytes | None = None
    for number, value in read_fields(memoryview(block)):
        if number == _NODE_LINK:
            links.append(_decode_link(as_bytes(value)))
        elif number == _NODE_BYTES and content is None:
            content = bytes(as_bytes(value))
        else:
            raise InvalidDag(f"dag-pb: field {number} is unknown or comes twice")
    return Node(tuple(links), content or b"")


def _decode_link(message: memoryview) -> Link:
    cid, name, dag_bytes, last = None, "", 0, 0
    for number, value in read_fields(message):
        if number <= last:
            raise InvalidDag(f"dag-pb: field {number} of a link is out of order")
        last = number
        if number == _LINK_HASH:
            cid = _decode_cid(as_bytes(value))
        elif number == _LINK_NAME:
            name = _decode_name(as_bytes(value))
        elif number == _LINK_TSIZE:
            dag_bytes = as_int(value)
        else:
            raise InvalidDag(f"dag-pb: field {number} of a link is unknown")
    if cid is None:
        raise InvalidDag("dag-pb: a link without a hash")
    return Link(cid, name, dag_bytes)


def _decode_cid(raw: memoryview) -> CID:
    try:
        return CID.decode(bytes(raw))
    except InvalidCID as error:
        raise InvalidDag(f"dag-pb: a link's hash is {error.message}") from None


def _decode_name(raw: memoryview) -> str:
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidDag("dag-pb: a link's name is not UTF-8") from None
