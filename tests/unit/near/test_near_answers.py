"""Whatever a node or a block server sends becomes an answer or an error of ours, and nothing else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from near_requests import request_args

from localnet.near import OPERATOR, Dialect
from localnet.near.chain import Chain
from localnet.near.json_views import block_view, final_view, neardata_view
from millrace.errors import MillraceError
from protocols.http_json import Unreadable
from protocols.near.answers import AccessKey, Block, TransactionView, ViewResult
from protocols.near.endpoint import Endpoint
from protocols.near.events import SeenHeight
from protocols.near.keys import NearKey
from protocols.near.neardata import NeardataSource
from protocols.near.rpc import model_of
from protocols.near.rpc_errors import execution_failure, query_error, read_error, send_error

CONTRACT = "offchainvm.test.near"


def chain_with_a_request() -> tuple[Chain, str]:
    chain = Chain(
        Dialect.head, clock=lambda: 1_760_000_000.0, operator=NearKey(b"\x01" * 32), requester=NearKey(b"\x02" * 32)
    )
    chain.freeze()
    tx_hash = chain.request(request_args(Dialect.head))
    chain.make_block(2)
    return chain, tx_hash


CHAIN, TX_HASH = chain_with_a_request()
INCLUDED = CHAIN.included(TX_HASH)
assert INCLUDED is not None
WHOLE_BLOCK = json.dumps(neardata_view(CHAIN, CHAIN.tip))
SOURCE = NeardataSource("http://127.0.0.1:9", CONTRACT)
TRANSACTION = json.dumps(final_view(CHAIN, INCLUDED))

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800")
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every member and element, as its container and its name."""
    found: list[tuple[Any, Any]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in pairs:
        found += [(value, name), *places(part)]
    return found


@st.composite
def changed(draw: st.DrawFn, document: str) -> Any:
    """The document with one to three of its parts replaced or removed."""
    value = json.loads(document)
    for _ in range(draw(st.integers(1, 3))):
        if not (anywhere := places(value)):
            break
        container, name = draw(st.sampled_from(anywhere))
        if isinstance(container, dict) and draw(st.booleans()):
            container.pop(name, None)
        elif isinstance(container, list) or name in container:
            container[name] = draw(JSON)
    return value


@settings(max_examples=150)
@given(changed(WHOLE_BLOCK) | JSON)
def test_any_whole_block_is_read_or_refused(body: Any) -> None:
    with contextlib.suppress(MillraceError):
        seen = SOURCE._seen(1002, body)
        assert seen.height == 1002
        assert all(each.context.contract_id == CONTRACT for each in seen.requests)


@settings(max_examples=150)
@given(changed(TRANSACTION) | JSON)
def test_any_transaction_is_read_or_refused(body: Any) -> None:
    with contextlib.suppress(Unreadable):
        view = model_of(body, TransactionView, "tx")
        assert view.fee_yocto >= 0
        assert isinstance(view.logs, list)
        assert view.failure is None or isinstance(view.failure, MillraceError)
        assert not (view.succeeded and view.failure)


@given(changed(json.dumps(block_view(CHAIN.tip))) | JSON)
def test_any_block_is_read_or_refused(body: Any) -> None:
    with contextlib.suppress(Unreadable):
        assert model_of(body, Block, "block").header.height >= 0


@given(JSON)
def test_any_view_result_is_read_or_refused(result: Any) -> None:
    body = {"result": result, "logs": [], "block_height": 1, "block_hash": "1" * 32}
    with contextlib.suppress(Unreadable):
        assert isinstance(model_of(body, ViewResult, "query").result, bytes)


@given(st.dictionaries(st.sampled_from(["error", "code", "cause", "name", "info", "data"]), JSON), JSON, JSON)
def test_any_error_becomes_one_of_ours(error: Any, cause: Any, failure: Any) -> None:
    for body in ({"error": error}, {"error": {**error, "cause": cause}}, {"error": {"cause": {"name": "X"}}}):
        found = read_error(body)
        if found is not None:
            assert isinstance(query_error(found, "query", "node"), MillraceError)
            assert isinstance(send_error(found, "node"), MillraceError)
    assert isinstance(execution_failure(failure), MillraceError)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = {"a": value}
    return value


def test_what_is_nested_deeply_is_refused_and_not_raised_as_a_fault_of_ours() -> None:
    deep = nested(5_000)
    assert isinstance(execution_failure(deep), MillraceError)
    error = read_error({"error": {"cause": {"name": "INVALID_TRANSACTION", "info": deep}, "data": deep}})
    assert error is not None
    assert isinstance(send_error(error, "node"), MillraceError)
    with pytest.raises(Unreadable):
        model_of(deep, AccessKey, "query")


def test_the_unchanged_block_has_the_request() -> None:
    seen = SOURCE._seen(1002, json.loads(WHOLE_BLOCK))
    assert isinstance(seen, SeenHeight)
    assert len(seen.requests) == 1
    assert not model_of(json.loads(TRANSACTION), TransactionView, "tx").succeeded


async def test_a_query_that_failed_in_the_old_form_is_a_failure() -> None:
    class Told(Endpoint):
        async def say(self, method: str, params: Any, timeout_seconds: float | None = None) -> Any:
            return {"error": params, "logs": [], "block_height": 1, "block_hash": "1" * 32}

    endpoint = Told("http://127.0.0.1:9", 1.0)
    for words in (
        "access key ed25519:1 does not exist while viewing",
        f"account {OPERATOR} does not exist while viewing",
    ):
        with pytest.raises(MillraceError, match="does not exist"):
            await endpoint.ask("query", words)
    await endpoint.close()
