"""Base58 in Bitcoin's alphabet, as Solana writes addresses and bytes."""

from __future__ import annotations

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUE = {character: value for value, character in enumerate(ALPHABET)}


def encode(content: bytes) -> str:
    """The text for `content`; each leading zero byte becomes one "1"."""
    number = int.from_bytes(content, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(ALPHABET[digit])
    leading_zeros = len(content) - len(content.lstrip(b"\0"))
    return ALPHABET[0] * leading_zeros + "".join(reversed(digits))


def decode(text: str) -> bytes:
    """The bytes that `text` stands for; ValueError if a character is not of the alphabet."""
    number = 0
    for character in text:
        if character not in _VALUE:
            raise ValueError(f"{character!r} is no base58 character")
        number = number * 58 + _VALUE[character]
    leading_zeros = len(text) - len(text.lstrip(ALPHABET[0]))
    return bytes(leading_zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
