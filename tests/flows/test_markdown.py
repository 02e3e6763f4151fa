from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from flows.markdown import code, code_block, receipt_key
from millrace.text import printable

RENDER = MarkdownIt("gfm-like", {"html": True, "linkify": False, "typographer": True})

hostile = st.one_of(
    st.text(),
    st.text(alphabet="`|\\<>[]()*_&#!-:\n ab"),
    st.sampled_from(
        ["[click](javascript:alert(1))", "<script>alert(1)</script>", "a | b", "``", "4x75 (c) ...", "&lt;"]
    ),
)


def in_a_table(text: str) -> str:
    return RENDER.render(f"| | |\n|---|---|\n| job | {code(text)} |\n")


@given(hostile)
def test_a_strangers_text_reads_as_itself_in_a_table(text: str) -> None:
    """A CID with `4x7` in it was shown with a multiplication sign; titles are anything at all."""
    cells = [token for token in RENDER.parse(f"| | |\n|---|---|\n| job | {code(text)} |\n") if token.type == "inline"]
    assert len(cells) == 4, "one row with two cells under the head"
    spans = cells[3].children or []
    shown = "".join(span.content for span in spans)
    assert shown.strip() == printable(text).replace("\\|", "\\x5c|").strip()
    assert {span.type for span in spans} <= {"code_inline", "text"}


@given(hostile)
def test_no_pipe_is_left_that_ends_a_cell_in_prefects_ui(text: str) -> None:
    """Prefect's UI counts the backslashes before a pipe: after an even number of them the cell ends there."""
    assert all(len(before) % 2 for before in re.findall(r"(\\*)\|", code(text)))


@given(hostile)
def test_a_strangers_text_cannot_bring_tags_or_links_of_its_own(text: str) -> None:
    for page in (in_a_table(text), RENDER.render(code_block(text))):
        tags = set(re.findall(r"<(\w+)", page))
        assert tags <= {"table", "thead", "tbody", "tr", "th", "td", "code", "pre"}


@given(hostile)
def test_a_block_keeps_its_lines_and_ends_where_it_should(text: str) -> None:
    page = RENDER.parse(code_block(text) + "\n\nafter\n")
    assert [token.type for token in page] == ["fence", "paragraph_open", "inline", "paragraph_close"]


@pytest.mark.parametrize("text", ["", "x"])
def test_short_texts_are_fine(text: str) -> None:
    assert code(text) == (f"`{text}`" if text else "")


@given(st.text())
def test_a_receipt_key_is_one_that_prefect_accepts(job_key: str) -> None:
    assert set(receipt_key(job_key)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
