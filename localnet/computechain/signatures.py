"""Whether a transaction was signed by the key of its sender, in the node's steps and words."""

from __future__ import annotations

from protocols.computechain.keys import address_of, verify_signature
from protocols.computechain.transaction import Transaction


def key_refusal(transaction: Transaction) -> str | None:
    """What is wrong with key or signature; None if nothing is.

    The address decides its own prefix, an uncompressed key is as good as a compressed one (and has another
    address), and a high s is accepted.
    """
    if not transaction.signature or not transaction.pub_key:
        return "missing_sig_or_key"
    prefix = transaction.from_address.partition("1")[0]
    try:
        address = address_of(transaction.pub_key, prefix)
    except ValueError as error:
        return f"invalid_key_format: {error}"
    if address != transaction.from_address:
        return "pub_key_mismatch"
    try:
        bytes.fromhex(transaction.signature)
    except ValueError as error:
        return f"crypto_error: {error}"
    signed = verify_signature(transaction.pub_key, transaction.digest, transaction.signature)
    return None if signed else "invalid_signature"
