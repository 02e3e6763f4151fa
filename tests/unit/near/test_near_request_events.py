"""The contract's events: nothing of them is lost, and nothing is made of what is no event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.near.contract import ExecutionRequest, GitHubSource, ResourceLimits, WasmUrlSource
from protocols.near.request_events import requests_in

REQUEST = {
    "request_id": 3,
    "sender_id": "alice.near",
    "code_source": {"repo": "https://github.com/a/b", "commit": "main", "build_target": None},
    "resource_limits": {"max_instructions": None, "max_memory_mb": 64, "max_execution_seconds": None},
    "input_data": "{}",
    "payment": "70001000000000000000000",
    "timestamp": 1_760_000_000_000_000_000,
}


def entry(request: Any = None, data_id: Any = None) -> dict[str, Any]:
    text = json.dumps(REQUEST if request is None else request)
    return {"request_data": text, "data_id": [1] * 32 if data_id is None else data_id, "timestamp": 1}


def line(*entries: Any, standard: Any = "near-offshore", event: str = "execution_requested") -> str:
    document = {"standard": standard, "version": "1.0.0", "event": event, "data": list(entries)}
    return f"EVENT_JSON:{json.dumps(document)}"


@pytest.mark.parametrize("standard", ["near-offshore", "near-outlayer"])
def test_both_standards_are_read_and_null_limits_are_defaults(standard: str) -> None:
    """The early worker drops the whole event when one limit is null."""
    found = requests_in([line(entry(), standard=standard)])
    assert found.unreadable == ()
    (request,) = found.requests
    assert request.resource_limits == ResourceLimits(
        max_instructions=1_000_000_000, max_memory_mb=64, max_execution_seconds=60
    )
    assert request.code_source == GitHubSource(repo="https://github.com/a/b", commit="main")
    assert (request.data_id, request.payment_yocto) == ("01" * 32, 70001000000000000000000)


def test_limits_that_are_missing_altogether_are_defaults() -> None:
    for limits in (None, {}):
        (request,) = requests_in([line(entry({**REQUEST, "resource_limits": limits}))]).requests
        assert request.resource_limits == ResourceLimits()


def test_every_entry_of_an_event_counts_and_a_broken_one_hides_none() -> None:
    """The public workers read the first entry only."""
    entries = [entry({**REQUEST, "request_id": number}) for number in range(3)]
    entries.insert(1, entry({**REQUEST, "request_id": -1}))
    found = requests_in(["a log", line(*entries), line(entry({**REQUEST, "request_id": 9}))])
    assert [request.request_id for request in found.requests] == [0, 1, 2, 9]
    assert len(found.unreadable) == 1
    assert "request_id" in found.unreadable[0]


@pytest.mark.parametrize(
    "source",
    [
        {"WasmUrl": {"url": "https://x/m.wasm", "hash": "ab", "build_target": None}},
        {"type": "WasmUrl", "url": "https://x/m.wasm", "hash": "ab"},
        {"kind": "WasmUrl", "url": "https://x/m.wasm", "hash": "ab"},
    ],
)
def test_each_form_of_a_source_is_the_same_source(source: dict[str, Any]) -> None:
    (request,) = requests_in([line(entry({**REQUEST, "code_source": source}))]).requests
    assert request.code_source == WasmUrlSource(url="https://x/m.wasm", hash="ab")


def test_heads_fields_are_read() -> None:
    head = {
        **REQUEST,
        "predecessor_id": "relay.near",
        "input_data": "",
        "input_data_in_state": True,
        "response_format": "Json",
        "secrets_ref": {"profile": "default", "account_id": "alice.near"},
        "attached_usd": "5",
        "compile_only": True,
        "project_id": "alice.near/app",
        "something_new": [1],
    }
    (request,) = requests_in([line(entry(head), standard="near-outlayer")]).requests
    assert (request.predecessor_id, request.input_data_in_state) == ("relay.near", True)
    assert (request.response_format, request.attached_usd, request.compile_only) == ("Json", 5, True)
    assert request.secrets_ref is not None
    assert request.project_id == "alice.near/app"


def test_a_standard_of_another_name_is_read_when_it_is_named() -> None:
    logs = [line(entry(), standard="renamed")]
    assert requests_in(logs).requests == ()
    assert len(requests_in(logs, ["renamed"]).requests) == 1


@pytest.mark.parametrize(
    "log",
    [
        "",
        "EVENT_JSON:",
        "EVENT_JSON:{",
        "EVENT_JSON:" + "[" * 100_000,
        "EVENT_JSON:[]",
        "EVENT_JSON:null",
        " " + line(entry()),
        line(entry(), event="execution_completed"),
        line(entry(), standard="nep171"),
        line(entry(), standard=["near-offshore"]),
    ],
)
def test_what_is_no_event_of_ours_is_left_out(log: str) -> None:
    found = requests_in([log])
    assert found.requests == found.unreadable == ()


@pytest.mark.parametrize(
    "broken",
    [
        None,
        7,
        {},
        {"request_data": "{}", "data_id": [1] * 32},
        {"request_data": json.dumps(REQUEST)},
        {"request_data": json.dumps([REQUEST]), "data_id": [1] * 32},
        {"request_data": REQUEST, "data_id": [1] * 32},
        entry(data_id=[1] * 31),
        entry(data_id=[256] * 32),
        entry(data_id=[True] * 32),
        entry(data_id="01" * 32),
        entry({**REQUEST, "payment": "-1"}),
        entry({**REQUEST, "code_source": {"Git": {}}}),
        entry({**REQUEST, "code_source": None}),
        entry({**REQUEST, "timestamp": None}),
        entry({**REQUEST, "input_data": "half a pair: \ud800"}),
        {"request_data": "[" * 100_000, "data_id": [1] * 32},
    ],
)
def test_an_entry_that_cannot_be_read_is_told_and_not_raised(broken: Any) -> None:
    found = requests_in([line(broken)])
    assert found.requests == ()
    assert len(found.unreadable) == 1
    assert len(found.unreadable[0]) < 800


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.text(max_size=50) | JSON.map(lambda value: f"EVENT_JSON:{json.dumps(value)}"), max_size=4))
def test_no_log_can_raise(logs: list[str]) -> None:
    assert requests_in(logs).requests == ()


@given(st.dictionaries(st.sampled_from(list(REQUEST)), JSON, max_size=3), JSON)
def test_no_entry_can_raise(change: dict[str, Any], data_id: Any) -> None:
    found = requests_in([line(entry({**REQUEST, **change}), entry(data_id=data_id))])
    assert len(found.requests) + len(found.unreadable) == 2


@given(
    st.builds(
        lambda number, text, payment, target: {
            **REQUEST,
            "request_id": number,
            "input_data": text,
            "payment": str(payment),
            "code_source": {"repo": text, "commit": "c", "build_target": target},
        },
        st.integers(0, (1 << 64) - 1),
        st.text(),
        st.integers(0, (1 << 128) - 1),
        st.none() | st.text(max_size=20),
    )
)
def test_a_request_survives_being_persisted(fields: dict[str, Any]) -> None:
    (request,) = requests_in([line(entry(fields))]).requests
    assert request.input_data == fields["input_data"]
    assert ExecutionRequest.model_validate_json(request.model_dump_json()) == request
