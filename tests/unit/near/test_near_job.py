"""A request as a job: its key, what its program is told, and that it survives being written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import JobFault
from millrace.job import Job
from protocols.near.contract import Dialect, ExecutionRequest, GitHubSource, WasmUrlSource
from protocols.near.events import RequestContext, SeenRequest
from protocols.near.job import OffchainVmJob, guest_environment, parse_job_id

CONTEXT = RequestContext("c.near", 1_234, 99, "receipt", 7, predecessor_id="relay.near")


def job(dialect: Dialect = Dialect.head, **fields: object) -> OffchainVmJob:
    whole = {
        "request_id": 5,
        "data_id": "ab" * 32,
        "sender_id": "alice.near",
        "code_source": {"GitHub": {"repo": "https://github.com/a/b", "commit": "main"}},
        "payment": "10",
        "timestamp": 99,
        **fields,
    }
    return OffchainVmJob.of_request("testnet", dialect, SeenRequest(ExecutionRequest.model_validate(whole), CONTEXT))


def test_everybody_who_sees_a_request_calls_it_the_same() -> None:
    assert job().key == "offchainvm/testnet:c.near/1234-5"
    assert parse_job_id(job().job_id) == (1_234, 5)


@given(st.text(max_size=40), st.integers(0, 2**64 - 1), st.sampled_from(list(Dialect)))
def test_a_job_that_was_written_down_is_the_same_again(text: str, number: int, dialect: Dialect) -> None:
    made = job(dialect, input_data=text, request_id=number, response_format="Json")
    assert OffchainVmJob.model_validate_json(made.model_dump_json(exclude={"key"})) == made
    assert Job.parse(made.model_dump(mode="json")) == made


@given(st.text(max_size=30))
def test_only_two_numbers_are_a_job_id(text: str) -> None:
    found = parse_job_id(text)
    assert found is None or f"{found[0]}-{found[1]}" == text


def test_where_no_target_is_named_the_dialect_says_which() -> None:
    assert (job(Dialect.early).target, job(Dialect.head).target) == ("wasm32-unknown-unknown", "wasm32-wasip1")
    named = {"GitHub": {"repo": "r", "commit": "c", "build_target": "wasm32-wasip2"}}
    assert job(code_source=named).target == "wasm32-wasip2"
    assert isinstance(job(code_source=named).source, GitHubSource)
    url = {"WasmUrl": {"url": "https://h/m", "hash": "0" * 64}}
    assert isinstance(job(code_source=url).source, WasmUrlSource)


def test_a_program_is_told_what_is_known_and_nothing_else() -> None:
    told = guest_environment(job(), "testnet")
    assert told["NEAR_SENDER_ID"] == "alice.near"
    assert told["NEAR_PREDECESSOR_ID"] == "relay.near"
    assert told["NEAR_REQUEST_ID"] == "5"
    assert told["NEAR_BLOCK_HEIGHT"] == "1234"
    assert told["NEAR_MAX_INSTRUCTIONS"] == "1000000000"
    assert told["OUTLAYER_EXECUTION_TYPE"] == "NEAR"
    assert "NEAR_TRANSACTION_HASH" not in told
    assert "ATTACHED_USD" not in told


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_no_variable_can_hold_is_the_requests_own_fault(text: str) -> None:
    """It was taken for a fault of ours: every attempt failed, and the requester was never told."""
    with pytest.raises(JobFault, match="OUTLAYER_PROJECT_ID"):
        guest_environment(job(project_id=text), "testnet")
