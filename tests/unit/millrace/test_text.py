from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ümlauts, 水", "plain text, ümlauts, 水"),
        ("\x1b[2Jwiped", "\\x1b[2Jwiped"),
        ("two\nlines\r", "two\\x0alines\\x0d"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("lone \ud800", "lone \\ud800"),
    ],
)
def test_what_moves_the_cursor_or_hides_becomes_visible(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_long_text_is_cut_and_says_so() -> None:
    assert printable("x" * 50, longest=10) == "x" * 10 + "… (50 characters)"


@given(st.text())
def test_nothing_that_is_printed_controls_anything(text: str) -> None:
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs"} for c in printable(text))
