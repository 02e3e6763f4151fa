from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: sealed files, pidfds, seccomp")


def test_the_bench_of_wasm_measures_every_contender() -> None:
    """Whether the bar is met is not asked: that is for a machine that does nothing else."""
    run = subprocess.run(
        [sys.executable, "-m", "bench.wasm", "--rounds", "2", "--jobs", "1"],
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    summary = json.loads(run.stdout.splitlines()[-1])
    measured = {(entry["job"], entry["contender"]) for entry in summary["milliseconds"]}
    assert {contender for _, contender in measured} == {"bare", "warm", "cold", "new", "pulley"}, run.stderr
    assert len(measured) == 5
    assert "apt install wabt" in summary["not_measured"]["wasm-interp"]
    over = summary["warm_over_bare"]
    assert set(over) == {job for job, _ in measured}
    assert run.returncode == (0 if max(over.values()) <= summary["bar"] else 1)
