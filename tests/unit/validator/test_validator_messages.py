"""What a validator may say: every message is understood, refused with its fault, or left alone; none raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.validator.messages import JobMessage, JobRefused, JobResult, Malformed, Unknown, incoming, kind_of

JOB = {"type": "job", "job_id": "a-1", "task_id": "t", "payload": {"kind": "matmul-i32-v1"}}


def test_a_job_is_read_from_text_bytes_and_lists() -> None:
    job = JobMessage.model_validate(JOB)
    assert incoming(json.dumps(JOB)) == [job]
    assert incoming(json.dumps(JOB).encode()) == [job]
    assert incoming(json.dumps([JOB, JOB])) == [job, job]
    assert incoming(json.dumps({**JOB, "deadline": 5})) == [job], "what is not known is left alone"


@pytest.mark.parametrize(
    ("changed", "job_id"),
    [
        ({"payload": None}, "a-1"),
        ({"payload": "text"}, "a-1"),
        ({"job_id": "../../etc"}, "../../etc"),
        ({"job_id": ""}, ""),
        ({"job_id": 7}, ""),
        ({"job_id": "x" * 5_000}, ""),
        ({"task_id": ["t"]}, "a-1"),
        ({"payload": {"n": float("nan")}}, "a-1"),
        ({"payload": {"n": [float("inf")]}}, "a-1"),
    ],
)
def test_a_job_that_cannot_be_one_is_malformed_and_keeps_its_id_for_the_refusal(
    changed: dict[str, object], job_id: str
) -> None:
    (message,) = incoming(json.dumps({**JOB, **changed}))
    assert isinstance(message, Malformed)
    assert message.job_id == job_id
    assert message.fault


@pytest.mark.parametrize(
    "raw", ["", "{", b"\xff\xfe", "7", '"job"', "null", '{"type":"registration_ack"}', "[" * 100_000]
)
def test_anything_else_is_unknown_and_shown_without_control_characters(raw: str | bytes) -> None:
    (message,) = incoming(raw)
    assert isinstance(message, Unknown)
    assert message.told.isprintable()
    assert len(message.told) < 300


def test_of_too_many_messages_the_first_are_read() -> None:
    """All were dropped, and over HTTP the same too long list came again with each look."""
    jobs = [{**JOB, "job_id": str(number)} for number in range(1_001)]
    *read, last = incoming(json.dumps(jobs))
    assert [each.job_id for each in read if isinstance(each, JobMessage)] == [str(number) for number in range(1_000)]
    assert isinstance(last, Unknown)
    assert "1001 messages" in last.told


@given(
    st.one_of(
        st.text(),
        st.binary(),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["type", "job_id", "task_id", "payload"]) | st.text(), inner)
            ),
        ).map(json.dumps),
    )
)
def test_no_input_raises(raw: str | bytes) -> None:
    for message in incoming(raw):
        assert isinstance(message, JobMessage | Malformed | Unknown)


@given(st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True), st.dictionaries(st.text(), st.integers()))
def test_every_well_formed_job_is_read_as_it_was_sent(job_id: str, payload: dict[str, int]) -> None:
    (message,) = incoming(json.dumps({"type": "job", "job_id": job_id, "task_id": "t", "payload": payload}))
    assert isinstance(message, JobMessage)
    assert (message.job_id, message.payload) == (job_id, payload)


def test_answers_have_the_fields_of_the_protocol_and_no_others() -> None:
    result = JobResult(job_id="a", worker_address="cpc1", result_hash="ab" * 32)
    assert json.loads(result.model_dump_json()) == {
        "type": "job_result",
        "job_id": "a",
        "worker_address": "cpc1",
        "result_hash": "ab" * 32,
        "proof": None,
    }
    refused = JobRefused(job_id="a", worker_address="cpc1", reason="busy", message="later")
    assert set(json.loads(refused.model_dump_json())) == {"type", "job_id", "worker_address", "reason", "message"}


def test_the_kind_of_a_task_goes_by_two_names() -> None:
    assert kind_of({"kind": "a"}) == kind_of({"algorithm": "a"}) == "a"
    assert kind_of({}) == kind_of({"kind": 7}) == ""
