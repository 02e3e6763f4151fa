from __future__ import annotations

from typing import Literal

import pytest

from millrace.errors import Permanent
from millrace.job import Job


class ExampleJob(Job):
    network: Literal["example"] = "example"  # type: ignore[assignment]
    source: str


def test_the_key_names_network_chain_and_job() -> None:
    assert ExampleJob(chain_id="devnet", job_id="42", source="x").key == "example/devnet/42"


def test_a_job_comes_back_from_json_as_its_own_kind() -> None:
    job = ExampleJob(chain_id="devnet", job_id="42", source="x")
    assert Job.parse(job.model_dump(mode="json")) == job
    assert type(Job.parse(job.model_dump(mode="json"))) is ExampleJob


def test_an_unknown_network_is_refused_by_name() -> None:
    with pytest.raises(Permanent, match="'atlantis'"):
        Job.parse({"network": "atlantis", "chain_id": "1", "job_id": "2"})
