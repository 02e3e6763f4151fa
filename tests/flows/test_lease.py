from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from flows.lease import Holder, hold_lease, holder_of

HOLD = """
import sys, time
from pathlib import Path
from flows.lease import hold_lease
with hold_lease(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lease_tells_a_living_process_from_a_killed_one(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert holder_of(tmp_path, "run") is Holder.alive
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert holder_of(tmp_path, "run") is Holder.gone


def test_a_lease_that_ended_well_leaves_nothing(tmp_path: Path) -> None:
    with hold_lease(tmp_path, "run"):
        assert holder_of(tmp_path, "run") is Holder.alive
    assert holder_of(tmp_path, "run") is Holder.elsewhere
    assert list(tmp_path.iterdir()) == []


def test_a_second_holder_neither_waits_nor_takes_the_lease_away(tmp_path: Path) -> None:
    with hold_lease(tmp_path, "run"):
        with hold_lease(tmp_path, "run"):
            pass
        assert holder_of(tmp_path, "run") is Holder.alive


def test_a_lease_left_by_a_killed_process_can_be_taken_again(tmp_path: Path) -> None:
    (tmp_path / "run.lease").write_text("stale")
    assert holder_of(tmp_path, "run") is Holder.gone
    with hold_lease(tmp_path, "run"):
        assert holder_of(tmp_path, "run") is Holder.alive
