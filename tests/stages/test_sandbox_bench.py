from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from stages.execute.sandbox import missing_tools

MISSING = missing_tools()
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}: apt install bubblewrap libseccomp2 python3"),
]


def test_the_bench_of_sandboxes_measures_what_opens_and_names_what_does_not() -> None:
    """Whether the bar is met is not asked: that is for a machine that does nothing else."""
    run = subprocess.run(
        [sys.executable, "-m", "bench.sandbox", "--rounds", "2"],
        env={**os.environ, "DOCKER_HOST": "unix:///nowhere/docker.sock"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    summary = json.loads(run.stdout.splitlines()[-1])
    assert {"plain Python", "bubblewrap"} <= set(summary["milliseconds"]), run.stderr
    assert summary["milliseconds"]["plain Python"]["over_plain"] == 0
    assert "no Docker daemon answers" in summary["not_measured"]["docker, runc"]
    assert "not measured: docker, runsc: no Docker daemon answers" in run.stdout
    assert run.returncode == (0 if summary["milliseconds"]["bubblewrap"]["over_plain"] < summary["bar"] else 1)
