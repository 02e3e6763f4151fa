"""The machine that fails under the workers really does, and nothing but what was asked for."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_machine import FaultyMachine, missing_compiler

CLOCK = "import time, datetime; print(time.time(), datetime.datetime.now().timestamp(), time.monotonic())"
WRITE = """
import sys
try:
    with open(sys.argv[1], "ab", buffering=0) as file:
        file.write(sys.argv[2].encode())
except OSError as error:
    print(error.errno)
"""


@pytest.fixture
def machine(tmp_path: Path) -> FaultyMachine:
    if missing := missing_compiler():
        pytest.skip(f"needs {missing}; install it and this runs")
    (tmp_path / "disk" / "outbox").mkdir(parents=True)
    return FaultyMachine(tmp_path / "machine", tmp_path / "disk")


def said(machine: FaultyMachine, script: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-I", "-c", script, *arguments]
    environment = {**os.environ, **machine.environment}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize("hours", [1, -1])
def test_the_clock_is_wrong_by_as_much_as_was_ordered_and_what_only_goes_on_is_right(
    machine: FaultyMachine, hours: int
) -> None:
    machine.step_clock(hours * 3_600)
    *dates, steady = map(float, said(machine, CLOCK))
    assert [round((date - time.time()) / 60) for date in dates] == [hours * 60] * 2
    assert abs(steady - time.monotonic()) < 60
    assert machine.wrong_times_told >= 2
    machine.step_clock(0)
    told = machine.wrong_times_told
    assert abs(float(said(machine, CLOCK)[0]) - time.time()) < 60
    assert machine.wrong_times_told == told


def test_a_full_disk_refuses_what_is_written_on_it_counts_it_and_leaves_torn_files(
    machine: FaultyMachine, tmp_path: Path
) -> None:
    there, elsewhere = tmp_path / "disk" / "outbox" / "job.json", tmp_path / "elsewhere"
    assert said(machine, WRITE, str(there), "whole") == []
    machine.fill_disk()
    assert said(machine, WRITE, str(there), "even") == [str(errno.ENOSPC)]
    assert said(machine, WRITE, str(there), "an odd number of bytes.") == [], "some of it, and no error yet"
    assert said(machine, WRITE, str(elsewhere), "whole") == []
    assert there.read_text() == "whole" + "an odd numb"
    assert elsewhere.read_text() == "whole"
    assert machine.refused_writes == {**dict.fromkeys(machine.refused_writes, 0), "outbox": 2}
    machine.fill_disk(False)
    assert said(machine, WRITE, str(there), "whole") == []
    assert there.read_text().endswith("whole")
