"""Whether a transaction was signed by the key of its sender, in the node's steps and words."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256K1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from localnet.computechain.wire import NodeTransaction
from protocols.computechain import bech32
from protocols.computechain.keys import hash160

_SIGNATURE_BYTES = 64
_PREHASHED = ECDSA(Prehashed(SHA256()))


def key_refusal(transaction: NodeTransaction) -> str | None:
    """What is wrong with key or signature; None if nothing is.

    The address decides its own prefix, an uncompressed key is as good as a compressed one (and has another
    address), and a high s is accepted.
    """
    if not transaction.signature or not transaction.pub_key:
        return "missing_sig_or_key"
    prefix = transaction.from_address.split("1", 1)[0]
    try:
        key_bytes = bytes.fromhex(transaction.pub_key)
    except ValueError as error:
        return f"invalid_key_format: {error}"
    if bech32.encode(prefix, hash160(key_bytes)) != transaction.from_address:
        return "pub_key_mismatch"
    try:
        key = EllipticCurvePublicKey.from_encoded_point(SECP256K1(), key_bytes)
        signature = bytes.fromhex(transaction.signature)
    except ValueError as error:
        return f"crypto_error: {error}"
    return None if _verifies(key, signature, transaction.digest) else "invalid_signature"


def _verifies(key: EllipticCurvePublicKey, signature: bytes, digest: bytes) -> bool:
    if len(signature) != _SIGNATURE_BYTES:
        return False
    r, s = (int.from_bytes(half) for half in (signature[:32], signature[32:]))
    try:
        key.verify(encode_dss_signature(r, s), digest, _PREHASHED)
    except InvalidSignature:
        return False
    return True
