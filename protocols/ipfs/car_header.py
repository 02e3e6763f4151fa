"""The header of a CAR: one dag-cbor map with the roots and the version, and nothing else of CBOR.

Sources: https://ipld.io/specs/transport/car/carv1/, RFC 8949 (CBOR), https://ipld.io/specs/codecs/dag-cbor/spec/
"""

from __future__ import annotations

from collections.abc import Sequence

from protocols.ipfs.cid import CID
from protocols.ipfs.errors import InvalidBlock, InvalidCID

_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = 0, 2, 3, 4, 5, 6
_CID_TAG = 42
_MAX_ROOTS = 64


def encode_header(roots: Sequence[CID]) -> bytes:
    """The header, without its length, of a version 1 CAR with these roots."""
    links = b"".join(
        # A CID in dag-cbor is a byte string that begins with the identity multibase, a zero byte.
        _head(_TAG, _CID_TAG) + _head(_BYTES, len(bytes(root)) + 1) + b"\0" + bytes(root)
        for root in roots
    )
    return _head(_MAP, 2) + _text("roots") + _head(_ARRAY, len(roots)) + links + _text("version") + _head(_UNSIGNED, 1)


def decode_header(header: bytes) -> tuple[CID, ...]:
    """The roots that `header` names. Raises InvalidBlock if it is not the header of a version 1 CAR."""
    reader = _Cbor(header)
    fields: dict[str, object] = {}
    try:
        for _ in range(reader.head(_MAP)):
            name = reader.take(reader.head(_TEXT)).decode()
            if name in fields or name not in ("roots", "version"):
                raise ValueError(f"field {name!r} is unknown or comes twice")
            fields[name] = reader.roots() if name == "roots" else reader.head(_UNSIGNED)
        roots = fields.get("roots")
        if fields.get("version") != 1 or not isinstance(roots, tuple) or reader.left:
            raise ValueError("it is not version 1")
    except (ValueError, EOFError, InvalidCID) as error:
        raise InvalidBlock(f"no CAR: its header is not one ({error})") from None
    return roots


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    if value < 1 << 8:
        return bytes([major << 5 | 24, value])
    return bytes([major << 5 | 25]) + value.to_bytes(2, "big")


def _text(text: str) -> bytes:
    return _head(_TEXT, len(text)) + text.encode()


class _Cbor:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._raw) - self._position

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise EOFError("it is cut short")
        taken = self._raw[self._position : self._position + length]
        self._position += length
        return taken

    def head(self, wanted: int) -> int:
        """The number that comes with the next item, which must be of major type `wanted`."""
        first = self.take(1)[0]
        major, value = first >> 5, first & 0x1F
        if major != wanted:
            raise ValueError(f"CBOR type {major} where {wanted} belongs")
        if value < 24:
            return value
        if value > 27:
            raise ValueError("CBOR of indefinite length")
        return int.from_bytes(self.take(1 << value - 24), "big")

    def roots(self) -> tuple[CID, ...]:
        count = self.head(_ARRAY)
        if count > _MAX_ROOTS:
            raise ValueError(f"{count} roots")
        return tuple(self._cid() for _ in range(count))

    def _cid(self) -> CID:
        if self.head(_TAG) != _CID_TAG:
            raise ValueError("a root that is no CID")
        raw = self.take(self.head(_BYTES))
        if raw[:1] != b"\0":
            raise ValueError("a root without its zero byte")
        return CID.decode(raw[1:])
