"""Content identifiers, versions 0 and 1.

Source: https://github.com/multiformats/cid and https://github.com/multiformats/multihash. Read strictly, and
compared parsed: the same content has one CID a version and a base, and services answer in any of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from protocols.ipfs.errors import InvalidBlock, InvalidCID, UnsupportedContent
from protocols.ipfs.multibase import decode_base58, decode_multibase, encode_base58, encode_multibase
from protocols.ipfs.varint import decode_varint, encode_varint

RAW = 0x55
DAG_PB = 0x70
IDENTITY = 0x00
SHA2_256 = 0x12

MAX_DIGEST_BYTES = 128
"""Longest digest, and so the longest content that a CID may hold in itself."""

_LONGEST_TEXT = 512
_SHA2_256_BYTES = 32
_V0_TEXT_LENGTH = 46
_V0_PREFIX = bytes([SHA2_256, _SHA2_256_BYTES])
_HINT = "give the bare CID, without ipfs://, a gateway's address or a path"


@dataclass(frozen=True, slots=True)
class CID:
    """The name of one block: which codec its bytes are in and what they hash to."""

    version: int
    codec: int
    hash_code: int
    digest: bytes

    @classmethod
    def of(cls, block: bytes | memoryview, codec: int, version: int = 1) -> Self:
        """The CID of `block` by SHA-256."""
        return cls(version, codec, SHA2_256, hashlib.sha256(block).digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The CID that `text` spells: version 0, or version 1 in base 32, 58 or 16. Raises InvalidCID."""
        if not text or len(text) > _LONGEST_TEXT or not text.isascii():
            raise InvalidCID(f"{text[:80]!r} is no CID", hint=_HINT)
        try:
            return cls._parse_v0(text) if text[0] == "Q" else cls.decode(decode_multibase(text), multibase=True)
        except (ValueError, EOFError) as error:
            raise InvalidCID(f"{text[:80]!r} is no CID: {error}", hint=_HINT) from None

    @classmethod
    def _parse_v0(cls, text: str) -> Self:
        raw = decode_base58(text)
        if len(text) != _V0_TEXT_LENGTH or len(raw) != 34 or not raw.startswith(_V0_PREFIX):
            raise ValueError("it begins as a version 0 CID but is none")
        return cls(0, DAG_PB, SHA2_256, raw[2:])

    @classmethod
    def decode(cls, raw: bytes, *, multibase: bool = False) -> Self:
        """The CID that is all of `raw`; `multibase` says it came as text, where version 0 has no prefix.

        Raises InvalidCID.
        """
        cid, end = cls.read(raw)
        if len(cid.digest) > MAX_DIGEST_BYTES:
            raise InvalidCID(f"a digest of {len(cid.digest)} bytes is not possible")
        if end != len(raw):
            raise InvalidCID(f"{len(raw) - end} bytes follow a CID")
        if multibase and cid.version == 0:
            raise InvalidCID("a version 0 CID has no multibase prefix", hint=_HINT)
        return cid

    @classmethod
    def read(cls, raw: bytes, start: int = 0) -> tuple[Self, int]:
        """The binary CID at `start` and the index after it, whatever its hash function and however long its digest.

        Raises InvalidCID only for broken framing: whoever made the content chose the rest, not whoever sends it.
        """
        if raw[start : start + 2] == _V0_PREFIX:
            return cls._with_digest(raw, 0, DAG_PB, SHA2_256, _SHA2_256_BYTES, start + 2)
        try:
            version, start = decode_varint(raw, start)
            codec, start = decode_varint(raw, start)
            hash_code, start = decode_varint(raw, start)
            length, start = decode_varint(raw, start)
        except (ValueError, EOFError) as error:
            raise InvalidCID(f"no CID: {error}") from None
        if version != 1:
            raise InvalidCID(f"CID version {version} is unknown")
        return cls._with_digest(raw, version, codec, hash_code, length, start)

    @classmethod
    def _with_digest(
        cls, raw: bytes, version: int, codec: int, hash_code: int, length: int, start: int
    ) -> tuple[Self, int]:
        digest = bytes(raw[start : start + length])
        if len(digest) != length:
            raise InvalidCID("the CID ends inside its digest")
        return cls(version, codec, hash_code, digest), start + length

    @property
    def multihash(self) -> bytes:
        """Hash function, digest length and digest: what stays the same whatever version and base."""
        return encode_varint(self.hash_code) + encode_varint(len(self.digest)) + self.digest

    def __bytes__(self) -> bytes:
        if self.version == 0:
            return self.multihash
        return encode_varint(1) + encode_varint(self.codec) + self.multihash

    def __str__(self) -> str:
        return encode_base58(self.multihash) if self.version == 0 else self.format("base32")

    def format(self, base: str) -> str:
        """The version 1 spelling in a base of `multibase.PREFIXES`."""
        return encode_multibase(bytes(self.to_v1()), base)

    def to_v1(self) -> CID:
        """The same name as version 1."""
        return self if self.version == 1 else CID(1, self.codec, self.hash_code, self.digest)

    def names_same_as(self, other: CID) -> bool:
        """True if both name the same content, whatever version they are written in."""
        return (self.codec, self.hash_code, self.digest) == (other.codec, other.hash_code, other.digest)

    @property
    def inline(self) -> bytes | None:
        """The block itself, if the CID holds it instead of a hash."""
        return self.digest if self.hash_code == IDENTITY else None

    @property
    def verifiable(self) -> bool:
        """True if the hash function is known here, and the digest as long as it makes it."""
        if self.hash_code == SHA2_256:
            return len(self.digest) == _SHA2_256_BYTES
        return self.hash_code == IDENTITY and len(self.digest) <= MAX_DIGEST_BYTES

    def check_verifiable(self) -> None:
        """Raise UnsupportedContent if nothing here can tell whether a block is what this CID names."""
        if not self.verifiable:
            raise UnsupportedContent(
                f"{self}: hash function 0x{self.hash_code:x} and a digest of {len(self.digest)} bytes are unsupported",
                hint="sha2-256 and its 32 bytes are what we read",
            )

    def verify(self, block: bytes | memoryview) -> None:
        """Return if `block` is what this CID names.

        Raises InvalidBlock if it is not, UnsupportedContent if nothing here can tell.
        """
        self.check_verifiable()
        matches = block == self.digest if self.inline is not None else hashlib.sha256(block).digest() == self.digest
        if not matches:
            raise InvalidBlock(f"{len(block)} bytes do not match {self}")
