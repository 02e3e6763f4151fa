"""ComputeChain's keys and addresses: secp256k1, RIPEMD-160 of SHA-256 of the compressed public key, bech32."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import cached_property

from Crypto.Hash import RIPEMD160
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from millrace.errors import Permanent
from protocols.computechain import bech32

ADDRESS_PREFIX = "cpc"
VALIDATOR_PREFIX = "cpcvalcons"
PRIVATE_BYTES = 32
_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Of the group of secp256k1 (SEC 2, section 2.4.1)."""

_SIGNATURE_HEX_DIGITS = 128


class InvalidKey(Permanent):
    """Bytes that are no private key of secp256k1. They are never part of the message."""


@dataclass(frozen=True)
class ComputeKey:
    """A private key (32 bytes, which nothing prints), its public key and its address."""

    private_bytes: bytes = field(repr=False)

    def __post_init__(self) -> None:
        number = int.from_bytes(self.private_bytes)
        if len(self.private_bytes) != PRIVATE_BYTES or not 0 < number < _ORDER:
            raise InvalidKey("this is no private key", hint="it must be 64 hexadecimal digits")

    @classmethod
    def generate(cls) -> ComputeKey:
        """A new key."""
        return cls((secrets.randbelow(_ORDER - 1) + 1).to_bytes(PRIVATE_BYTES))

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(int.from_bytes(self.private_bytes), ec.SECP256K1())

    @cached_property
    def public_key(self) -> str:
        """The 33 bytes of the compressed public key, in hex."""
        return self._key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex()

    @cached_property
    def address(self) -> str:
        """`cpc1…`: what it signs and pays for belongs to this address."""
        return address_of(self.public_key)

    def sign(self, digest: bytes) -> str:
        """The signature of a 32-byte `digest`: r and the low s, 128 hex digits; always the same one (RFC 6979)."""
        signed = self._key.sign(digest, ec.ECDSA(Prehashed(SHA256()), deterministic_signing=True))
        r, s = decode_dss_signature(signed)
        return f"{r:064x}{min(s, _ORDER - s):064x}"


def hash160(public_key: bytes) -> bytes:
    """RIPEMD-160 of SHA-256; not hashlib's, which many builds of OpenSSL 3 leave out."""
    return RIPEMD160.new(hashlib.sha256(public_key).digest()).digest()


def address_of(public_key: str, prefix: str = ADDRESS_PREFIX) -> str:
    """The address that belongs to a public key in hex. Raises ValueError if it is not hex."""
    return bech32.encode(prefix, hash160(bytes.fromhex(public_key)))


def verify_signature(public_key: str, digest: bytes, signature: str) -> bool:
    """Whether `signature` (128 hex digits) of a 32-byte `digest` is that of `public_key`, in hex; not for nonsense."""
    if len(signature) != _SIGNATURE_HEX_DIGITS:
        return False
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), bytes.fromhex(public_key))
        r, s = (int.from_bytes(bytes.fromhex(half)) for half in (signature[:64], signature[64:]))
        key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(SHA256())))
    except (InvalidSignature, ValueError):
        return False
    return True
