"""Reading what a coordinator gives out as work."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localnet.coordinator import compile_task, execution
from protocols.coordinator.executions import PolledExecution, execution_of
from protocols.coordinator.tasks import CompileTask, ExecuteTask, MalformedTask, task_of, wire_source
from protocols.near.contract import GitHubSource, ResourceLimits, WasmUrlSource

U64 = st.integers(0, (1 << 64) - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "max_instructions": st.none() | U64,
        "max_memory_mb": st.none() | st.integers(0, (1 << 32) - 1),
        "max_execution_seconds": st.none() | U64,
    },
)
DEFAULTS = {"max_instructions": 10**9, "max_memory_mb": 128, "max_execution_seconds": 60}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def compiled(**other: Any) -> dict[str, Any]:
    return {"type": "Compile", **compile_task(7, **other)}


@given(request_id=U64, repo=TEXT, commit=TEXT, target=st.none() | TEXT, limits=st.none() | LIMITS, given_input=TEXT)
def test_a_compile_task_is_read_as_it_is_with_defaults_where_there_is_no_limit(
    request_id: int, repo: str, commit: str, target: str | None, limits: dict[str, Any] | None, given_input: str
) -> None:
    source = {"type": "GitHub", "repo": repo, "commit": commit, "build_target": target}
    document = compile_task(request_id, code_source=source, resource_limits=limits, input_data=given_input)
    task = task_of({"type": "Compile", **document})
    assert isinstance(task, CompileTask)
    assert (task.request_id, task.input_data, wire_source(task.code_source)) == (request_id, given_input, source)
    known = {name: value for name, value in (limits or {}).items() if value is not None}
    assert task.resource_limits.model_dump() == {**DEFAULTS, **known}
    assert CompileTask.model_validate_json(task.model_dump_json()) == task


@given(ANYTHING)
def test_whatever_is_no_task_is_an_error_of_ours(document: Any) -> None:
    for read in (task_of, execution_of):
        with pytest.raises(MalformedTask):
            read(document)


@given(st.sampled_from(sorted(compiled())), ANYTHING)
def test_one_wrong_member_never_raises_anything_else(name: str, value: Any) -> None:
    told = ""
    try:
        task_of({**compiled(), name: value})
    except MalformedTask as error:
        told = str(error)
    assert not told or told.isprintable()


@pytest.mark.parametrize("missing", ["request_id", "data_id", "code_source", "input_data", "type"])
def test_a_partial_task_is_refused_by_the_name_of_what_is_missing(missing: str) -> None:
    """The public worker drops such a task silently, and its request waits until the chain gives up."""
    document = compiled()
    del document[missing]
    with pytest.raises(MalformedTask, match="type" if missing == "type" else missing) as caught:
        task_of(document)
    assert caught.value.request_id == (None if missing == "request_id" else 7)
    assert caught.value.data_id == (None if missing == "data_id" else f"{7:064x}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request_id", "7"),
        ("request_id", True),
        ("request_id", -1),
        ("request_id", 1 << 64),
        ("data_id", "AB" * 32),
        ("data_id", [0] * 32),
        ("code_source", {"type": "WasmUrl", "url": "https://a.example/m", "hash": "ab" * 32}),
        ("code_source", {"type": "GitHub", "repo": "https://github.com/a/b"}),
        ("resource_limits", {"max_memory_mb": 1 << 32}),
        ("type", "Dance"),
    ],
)
def test_a_wrong_member_is_named(name: str, value: Any) -> None:
    with pytest.raises(MalformedTask, match="Dance|tag" if name == "type" else name):
        task_of({**compiled(), name: value})


def test_text_that_no_file_could_hold_is_refused() -> None:
    for value in ("\ud800", float("nan")):
        with pytest.raises(MalformedTask, match="request 7: a malformed task: it holds what JSON or UTF-8"):
            task_of(compiled(input_data=value))


def test_what_a_malformed_task_holds_is_not_printed() -> None:
    with pytest.raises(MalformedTask) as caught:
        task_of(compiled(input_data={"password": "hunter2-hunter2"}))
    assert "hunter2" not in str(caught.value)


def test_an_execute_task_may_lack_its_input_as_the_coordinator_s_own_does() -> None:
    document = {**compile_task(3), "type": "Execute", "wasm_checksum": "ab" * 32}
    del document["input_data"], document["code_source"]
    task = task_of(document)
    assert isinstance(task, ExecuteTask)
    assert task.input_data is None


def test_a_task_becomes_the_contract_s_request() -> None:
    task = task_of(compiled(resource_limits=None))
    assert isinstance(task, CompileTask)
    request = task.contract_request(sender_id="alice.near", payment_yocto=5, timestamp_ns=6)
    assert (request.request_id, request.data_id, request.resource_limits) == (7, f"{7:064x}", ResourceLimits())


def test_an_execution_request_is_read_with_nulls_as_absent() -> None:
    document = execution(9, resource_limits=None, project_id=None, compile_only=None, context=None, unheard_of=1)
    found = execution_of(document)
    assert isinstance(found.code_source, GitHubSource)
    assert (found.resource_limits, found.compile_only, found.near_payment_yocto) == (ResourceLimits(), False, 10**23)
    assert PolledExecution.model_validate_json(found.model_dump_json()) == found


def test_a_module_behind_a_url_is_a_source_too() -> None:
    source = {"type": "WasmUrl", "url": "https://a.example/m.wasm", "hash": "ab" * 32, "build_target": None}
    found = execution_of(execution(9, code_source=source))
    assert found.code_source == WasmUrlSource(url="https://a.example/m.wasm", hash="ab" * 32)
    assert found.contract_request().sender_id == "requester.test.near"


def test_a_wrong_execution_request_is_named_and_left_as_it_was() -> None:
    document = execution(9, response_format="Xml")
    before = copy.deepcopy(document)
    with pytest.raises(MalformedTask, match="request 9: a malformed execution request: response_format"):
        execution_of(document)
    assert document == before


def test_what_is_nested_too_deeply_to_be_persisted_is_malformed() -> None:
    """`compile_result` may be any JSON: 400 levels were read, and then could not be written down again."""
    nested: Any = []
    for _ in range(400):
        nested = [nested]
    with pytest.raises(MalformedTask, match="too deeply") as caught:
        execution_of(execution(7, compile_result=nested))
    assert caught.value.request_id == 7
