from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from millrace.errors import Permanent
from millrace.job import Job
from millrace.network import Result
from millrace.settings import CloudMeshSettings
from stages.submit.cost import cost_policy

JOB = Job(network="any", chain_id="chain", job_id="job")


def settings(**fields: object) -> CloudMeshSettings:
    return CloudMeshSettings.model_validate(fields)


def test_the_fixed_price_is_a_million_lamports_unless_set() -> None:
    result = Result(result_cid="Qm", code_bytes=9_999, wall_seconds=9.9)
    assert cost_policy(settings()).price(JOB, result) == 1_000_000
    assert cost_policy(settings(cost_lamports=7)).price(JOB, result) == 7


@pytest.mark.parametrize(
    ("code_bytes", "result_bytes", "wall_seconds", "lamports"),
    [(0, 0, 0.0, 1_000_000), (100, 50, 0.0, 1_001_500), (0, 0, 1.239, 1_000_123), (1, 1, 60.0, 1_006_020)],
)
def test_the_metered_price_is_the_public_workers(
    code_bytes: int, result_bytes: int, wall_seconds: float, lamports: int
) -> None:
    result = Result(result_cid="Qm", code_bytes=code_bytes, result_bytes=result_bytes, wall_seconds=wall_seconds)
    assert cost_policy(settings(cost_policy="metered")).price(JOB, result) == lamports


def test_another_packages_policy_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "double_cost-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: double-cost\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[millrace.cost_policies]\ndouble = double_cost:policy\n")
    (tmp_path / "double_cost.py").write_text(
        "from stages.submit.cost import FixedCost\n"
        "def policy(settings):\n"
        "    return FixedCost(2 * settings.cost_lamports)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [e.name for e in importlib.metadata.entry_points(group="millrace.cost_policies")] == ["double"]
    policy = cost_policy(settings(cost_policy="double", cost_lamports=21))
    assert policy.price(JOB, Result(result_cid="Qm")) == 42


def test_an_unknown_policy_is_refused_with_those_there_are() -> None:
    with pytest.raises(Permanent, match="fixed, metered"):
        cost_policy(settings(cost_policy="generous"))
