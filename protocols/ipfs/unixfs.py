"""UnixFS: what the bytes of a dag-pb node say about the file or directory it is part of.

Source: https://specs.ipfs.tech/unixfs/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from protocols.ipfs.errors import InvalidDag
from protocols.ipfs.protobuf import as_bytes, as_int, bytes_field, read_fields, varint_field
from protocols.ipfs.varint import decode_varint

_TYPE, _CONTENT, _FILE_BYTES, _BLOCK_SIZES = 1, 2, 3, 4
_IGNORED = frozenset({5, 6, 7, 8})  # hash type and fanout of a HAMT; mode and modification time
_ONCE = frozenset({_TYPE, _CONTENT, _FILE_BYTES})


class Kind(IntEnum):
    """What a UnixFS node is."""

    raw = 0
    directory = 1
    file = 2
    metadata = 3
    symlink = 4
    hamt_directory = 5


@dataclass(frozen=True, slots=True)
class UnixFS:
    """A decoded UnixFS message: `content` is this node's own share, `block_sizes` what is below each link."""

    kind: Kind
    content: bytes
    file_bytes: int | None
    block_sizes: tuple[int, ...]


def encode_file(file_bytes: int, content: bytes | memoryview = b"", block_sizes: Sequence[int] = ()) -> bytes:
    """A file node of `file_bytes` in all, whose links hold `block_sizes` bytes each."""
    # An empty share is left out, not written as an empty field: that is what every importer does.
    own = bytes_field(_CONTENT, content) if len(content) else b""
    head = varint_field(_TYPE, Kind.file) + own + varint_field(_FILE_BYTES, file_bytes)
    return head + b"".join(varint_field(_BLOCK_SIZES, size) for size in block_sizes)


def encode_directory() -> bytes:
    """A plain directory node; the entries are the dag-pb links."""
    return varint_field(_TYPE, Kind.directory)


def decode_unixfs(message: bytes) -> UnixFS:
    """The UnixFS message of a node. Raises InvalidDag."""
    kind, content, file_bytes = None, b"", None
    block_sizes: list[int] = []
    seen: set[int] = set()
    for number, value in read_fields(memoryview(message)):
        if number in seen & _ONCE:
            raise InvalidDag(f"UnixFS: field {number} comes twice")
        seen.add(number)
        if number == _TYPE:
            kind = _decode_kind(as_int(value))
        elif number == _CONTENT:
            content = bytes(as_bytes(value))
        elif number == _FILE_BYTES:
            file_bytes = as_int(value)
        elif number == _BLOCK_SIZES:
            block_sizes.extend(_decode_sizes(value))
        elif number not in _IGNORED:
            raise InvalidDag(f"UnixFS: field {number} is unknown")
    if kind is None:
        raise InvalidDag("UnixFS: a node without a type")
    return UnixFS(kind, content, file_bytes, tuple(block_sizes))


def _decode_kind(value: int) -> Kind:
    try:
        return Kind(value)
    except ValueError:
        raise InvalidDag(f"UnixFS: type {value} is unknown") from None


def _decode_sizes(value: int | memoryview) -> list[int]:
    """One size, or several in the packed form, which a reader must accept as well."""
    if isinstance(value, int):
        return [value]
    sizes, position = [], 0
    while position < len(value):
        try:
            size, position = decode_varint(value, position)
        except (ValueError, EOFError) as error:
            raise InvalidDag(f"UnixFS: broken block sizes: {error}") from None
        sizes.append(size)
    return sizes
