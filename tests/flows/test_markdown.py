from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("stages.execute.python")
from flows.markdown import escaped, receipt_key
from millrace.text import printable


@given(st.text())
def test_escaped_text_reads_as_itself_and_contains_no_markup(text: str) -> None:
    shown = escaped(text)
    assert html.unescape(shown) == html.unescape(printable(text)) or "&" in text
    assert not set(shown) & set("<>`*_[]()|\\")


def test_a_title_cannot_become_a_link_or_a_script() -> None:
    shown = escaped("[click](javascript:alert(1)) <script>")
    assert "<" not in shown
    assert "](" not in shown


@given(st.text())
def test_a_receipt_key_is_one_that_prefect_accepts(job_key: str) -> None:
    assert set(receipt_key(job_key)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
