"""The text encodings that CIDs are written in.

Source: https://github.com/multiformats/multibase. Decoding is strict: whatever does not come out the same when
it is encoded again is refused, so that a CID has one spelling a base.
"""

from __future__ import annotations

import base64

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUE = {letter: value for value, letter in enumerate(_BASE58)}

PREFIXES = {"base32": "b", "base32upper": "B", "base58btc": "z", "base16": "f", "base16upper": "F"}
_NAMES = {prefix: name for name, prefix in PREFIXES.items()}


def encode_base58(raw: bytes) -> str:
    """`raw` in Bitcoin's base 58, without a multibase prefix."""
    number, letters = int.from_bytes(raw, "big"), []
    while number:
        number, rest = divmod(number, 58)
        letters.append(_BASE58[rest])
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(letters))


def decode_base58(text: str) -> bytes:
    """The bytes that `text` spells in Bitcoin's base 58. ValueError for a letter outside the alphabet."""
    number = 0
    for letter in text:
        if letter not in _BASE58_VALUE:
            raise ValueError(f"{letter!r} is no base58 letter")
        number = number * 58 + _BASE58_VALUE[letter]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def encode_base32(raw: bytes) -> str:
    """`raw` in lower-case RFC 4648 base 32 without padding and without a multibase prefix."""
    return base64.b32encode(raw).decode("ascii").rstrip("=").lower()


def encode_multibase(raw: bytes, base: str) -> str:
    """`raw` in the named base with its prefix letter. KeyError if the base is not in PREFIXES."""
    prefix = PREFIXES[base]
    if base == "base58btc":
        return prefix + encode_base58(raw)
    body = encode_base32(raw) if base.startswith("base32") else raw.hex()
    return prefix + (body.upper() if base.endswith("upper") else body)


def decode_multibase(text: str) -> bytes:
    """The bytes that `text` spells, by its prefix letter. ValueError if the base is unknown or the spelling wrong."""
    name = _NAMES.get(text[:1])
    if name is None:
        raise ValueError(f"unknown multibase prefix {text[:1]!r}")
    body = text[1:]
    if name == "base58btc":
        raw = decode_base58(body)
    elif name.startswith("base32"):
        raw = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    else:
        raw = bytes.fromhex(body)
    if encode_multibase(raw, name) != text:
        raise ValueError(f"not the proper {name} spelling")
    return raw
