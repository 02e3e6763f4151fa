"""Bech32 as ComputeChain uses it for addresses: BIP-173, not bech32m, and no witness version.

Source: BIP-173, "Bech32".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from millrace.errors import Permanent
from millrace.text import printable

_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_GROUPS = 6
_LONGEST = 90


class InvalidAddress(Permanent):
    """A text is no bech32 address: wrong characters, length, mixed case, or a checksum that does not fit."""


def encode(prefix: str, payload: bytes) -> str:
    """`payload` as bech32 with the human-readable part `prefix`, in lower case."""
    groups = _to_groups(payload)
    return f"{prefix}1{''.join(_CHARSET[group] for group in [*groups, *_checksum(prefix, groups)])}"


def decode(text: str) -> tuple[str, bytes]:
    """The human-readable part (in lower case) and the payload of `text`. Raises InvalidAddress."""
    if len(text) > _LONGEST or text not in (text.lower(), text.upper()):
        raise _invalid(text, "it is too long, or mixes capitals and small letters")
    prefix, separator, coded = text.lower().rpartition("1")
    if not separator or not prefix or len(coded) < _CHECKSUM_GROUPS or not set(coded) <= set(_CHARSET):
        raise _invalid(text, "it has other characters than bech32 has")
    if any(not 33 <= ord(character) <= 126 for character in prefix):
        raise _invalid(text, "its first part has other characters than bech32 allows")
    groups = [_CHARSET.index(character) for character in coded]
    if _polymod([*_expanded(prefix), *groups]) != 1:
        raise _invalid(text, "its checksum does not fit")
    payload = _to_bytes(groups[:-_CHECKSUM_GROUPS])
    if payload is None:
        raise _invalid(text, "its last bits are no padding")
    return prefix, payload


def _invalid(text: str, why: str) -> InvalidAddress:
    return InvalidAddress(
        f"{printable(text, 100)!r} is no address: {why}", hint="copy it again, as the network shows it"
    )


def _to_groups(payload: bytes) -> list[int]:
    """Eight bits at a time to five at a time, padded with zeros."""
    bits = 8 * len(payload)
    count = -(-bits // 5)
    number = int.from_bytes(payload) << (5 * count - bits)
    return [number >> 5 * (count - 1 - index) & 31 for index in range(count)]


def _to_bytes(groups: Sequence[int]) -> bytes | None:
    """Five bits at a time to eight at a time; None if what is left over is not padding."""
    number = 0
    for group in groups:
        number = number << 5 | group
    length, padding = divmod(5 * len(groups), 8)
    if padding >= 5 or number & ((1 << padding) - 1):
        return None
    return (number >> padding).to_bytes(length)


def _checksum(prefix: str, groups: Sequence[int]) -> list[int]:
    remainder = _polymod([*_expanded(prefix), *groups, *[0] * _CHECKSUM_GROUPS]) ^ 1
    return [remainder >> 5 * (5 - index) & 31 for index in range(_CHECKSUM_GROUPS)]


def _expanded(prefix: str) -> list[int]:
    return [*(ord(character) >> 5 for character in prefix), 0, *(ord(character) & 31 for character in prefix)]


def _polymod(values: Iterable[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, term in enumerate(_GENERATOR):
            checksum ^= term if top >> bit & 1 else 0
    return checksum
