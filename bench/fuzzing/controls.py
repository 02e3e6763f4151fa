"""Decoders with a planted defect each: a fuzzer that does not find these finds nothing."""

from __future__ import annotations

from bench.fuzzing.decoder import Decoder, agree
from protocols.ipfs.errors import InvalidBlock
from protocols.ipfs.varint import decode_varint, encode_varint


def _check_error(given: bytes) -> None:
    """Raises IndexError behind four bytes that must be met one by one: blind guessing takes 2^32 inputs."""
    try:
        _read_planted(given)
    except InvalidBlock:
        return


def _read_planted(given: bytes) -> int:
    for position, wanted in enumerate(b"CAR1"):
        if len(given) <= position or given[position] != wanted:
            raise InvalidBlock("no CAR")
    return given[4]


def _check_difference(given: bytes) -> None:
    """Takes varints that are not in their shortest form, as a decoder without that check would."""
    try:
        number, end = decode_varint(given)
    except EOFError:
        return
    except ValueError as error:
        if "shortest" not in str(error):
            return
        number, end = 0, len(given)
    agree(encode_varint(number) == given[:end], "a varint with two spellings")


CONTROLS = (
    Decoder("planted error", _check_error, lambda: [b"CID1."], 16),
    Decoder("planted difference", _check_difference, lambda: [b"\x01"], 16),
)
