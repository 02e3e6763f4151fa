"""Text from strangers, made safe to print."""

from __future__ import annotations

import unicodedata

from pydantic import ValidationError

_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str, longest: int = 4_000) -> str:
    """`text` without anything that moves a cursor, turns writing around or hides.

    Control and format characters (terminal escapes, bidirectional overrides) become visible escapes; more than
    `longest` characters are cut, and the cut is shown.
    """
    shown = "".join(
        character if unicodedata.category(character) not in _UNPRINTABLE else _escape(character)
        for character in text[:longest]
    )
    return shown if len(text) <= longest else f"{shown}… ({len(text)} characters)"


def printable_lines(text: str, longest: int = 20_000) -> str:
    """`text` with its lines kept, each of them `printable` and at most `longest` characters."""
    return "\n".join(printable(line, longest) for line in text.split("\n"))


def faults_in(error: ValidationError) -> str:
    """What pydantic found wrong, in one line: where, and what is the matter there."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
