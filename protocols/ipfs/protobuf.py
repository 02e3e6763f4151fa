"""As much of protocol buffers as dag-pb and UnixFS are written in: varints and length-delimited fields.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

from protocols.ipfs.errors import InvalidDag
from protocols.ipfs.varint import decode_varint, encode_varint

_VARINT = 0
_BYTES = 2


def varint_field(number: int, value: int) -> bytes:
    """A field holding an unsigned integer."""
    return encode_varint(number << 3 | _VARINT) + encode_varint(value)


def bytes_field(number: int, value: bytes | memoryview) -> bytes:
    """A field holding bytes, text or a nested message."""
    return b"".join((encode_varint(number << 3 | _BYTES), encode_varint(len(value)), value))


def read_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of `message` in order: number, and an int or the bytes. Raises InvalidDag."""
    position = 0
    while position < len(message):
        try:
            key, position = decode_varint(message, position)
            value, position = decode_varint(message, position)
        except (ValueError, EOFError) as error:
            raise InvalidDag(f"broken protobuf: {error}") from None
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            yield number, value
        elif wire_type == _BYTES:
            if position + value > len(message):
                raise InvalidDag("broken protobuf: a field is longer than its message")
            yield number, message[position : position + value]
            position += value
        else:
            raise InvalidDag(f"broken protobuf: wire type {wire_type} is not used here")


def as_int(value: int | memoryview) -> int:
    """A field's value where an integer belongs. Raises InvalidDag."""
    if not isinstance(value, int):
        raise InvalidDag("broken protobuf: bytes where a number belongs")
    return value


def as_bytes(value: int | memoryview) -> memoryview:
    """A field's value where bytes belong. Raises InvalidDag."""
    if isinstance(value, int):
        raise InvalidDag("broken protobuf: a number where bytes belong")
    return value
