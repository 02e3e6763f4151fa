"""A daemon's answers may be any JSON: whatever they are, an error of ours says so."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipfshttpclient.client.base import ResponseBase
from ipfshttpclient.encoding import get_encoding
from ipfshttpclient.http_common import stream_decode_full

from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import ContentUnavailable, PublishFailed, PublishRefused
from protocols.ipfs.kubo_answers import imported_root, pinned, version_in
from protocols.ipfs.kubo_client import as_our_errors

CID_HERE = CID.of(b"x", RAW)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Root", "Cid", "/", "PinErrorMsg", "Keys", "Version"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_the_answers_of_a_daemon_are_read() -> None:
    assert version_in({"Version": "0.38.0"}) == "0.38.0"
    assert imported_root({"Root": {"Cid": {"/": str(CID_HERE)}, "PinErrorMsg": ""}}) == CID_HERE
    assert pinned({"Keys": {str(CID_HERE): {"Type": "recursive"}}}) == [CID_HERE]


@given(JSON)
def test_no_answer_breaks_the_reading(answer: Any) -> None:
    for read in (version_in, imported_root, pinned):
        for given_answer in (answer, ResponseBase(answer)):
            with suppress(PublishFailed, PublishRefused):
                read(given_answer)


@pytest.mark.parametrize(
    "answer",
    [{"Root": "text"}, {"Root": {"Cid": "text"}}, {"Root": {"Cid": {"/": 7}}}, {"Root": [{"Cid": {}}]}, [], 7, None],
)
def test_an_import_without_a_cid_is_refused(answer: Any) -> None:
    """Pins an AttributeError where `Root` was text."""
    with pytest.raises(PublishRefused):
        imported_root(ResponseBase(answer))


@pytest.mark.parametrize("keys", [7, None, "text", [str(CID_HERE)], {"nonsense": {}}])
def test_a_list_of_pins_that_is_none_is_refused(keys: Any) -> None:
    """Pins a TypeError where `Keys` was a number."""
    with pytest.raises(PublishRefused):
        pinned({"Keys": keys})


@pytest.mark.parametrize("body", [b'{"Type": "error"}', b"[" * 60_000, b"\xff", b"{"])
def test_a_body_that_the_library_trips_over_is_a_daemon_that_cannot_be_talked_to(body: bytes) -> None:
    """Pins a KeyError over an error without a message, and a RecursionError over brackets within brackets."""
    with pytest.raises(ContentUnavailable), as_our_errors("/ip4/127.0.0.1/tcp/5001"):
        stream_decode_full([], (piece for piece in [body]), get_encoding("json"))
