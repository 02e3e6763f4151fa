from __future__ import annotations

import json
import subprocess
import sys


def test_the_bench_of_discovery_needs_one_listing_and_one_read() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bench.discover", "--accounts", "500", "--new", "10"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout.splitlines()[-1])
    assert (summary["ours"]["listings"], summary["ours"]["batch_reads"], summary["ours"]["found"]) == (1, 1, 10)
    assert summary["naive"]["found"] == 10
