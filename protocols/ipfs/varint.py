"""Unsigned varints, as multiformats and protocol buffers write them.

Source: https://github.com/multiformats/unsigned-varint (at most 9 bytes, shortest form only).
"""

from __future__ import annotations

LONGEST_BYTES = 9


def encode_varint(number: int) -> bytes:
    """`number`, 0 to 2**63 - 1, seven bits a byte, lowest first. ValueError if it is outside."""
    if not 0 <= number < 1 << 7 * LONGEST_BYTES:
        raise ValueError(f"{number} does not fit a varint")
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def decode_varint(buffer: bytes | bytearray | memoryview, start: int = 0) -> tuple[int, int]:
    """The varint at `start` and the index after it.

    Raises EOFError if the buffer ends too early, ValueError if it is too long or not in its shortest form.
    """
    number = 0
    for count in range(LONGEST_BYTES):
        if start + count >= len(buffer):
            raise EOFError("the buffer ends inside a varint")
        byte = buffer[start + count]
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if byte == 0 and count:
                raise ValueError("a varint is not in its shortest form")
            return number, start + count + 1
    raise ValueError(f"a varint is longer than {LONGEST_BYTES} bytes")
