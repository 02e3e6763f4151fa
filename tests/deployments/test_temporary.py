"""The temporary folders of workers: removed once their worker and all that work in them are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from deployments.temporary import folder_of_worker, sweep_temporary

MAKE = """
import os, subprocess, sys, time
from pathlib import Path
from deployments.temporary import folder_of_worker
folder = folder_of_worker(Path(sys.argv[1]))
(folder / "flow-run-1").mkdir()
flow_run = subprocess.Popen(["sleep", "60"], cwd=folder / "flow-run-1") if len(sys.argv) > 2 else None
print(folder.name, flow_run.pid if flow_run else "", flush=True)
time.sleep(60)
"""


def killed_worker(data_dir: Path, *flow_run: str) -> list[str]:
    """The name of its folder, and the pid of the flow run that outlives it."""
    worker = subprocess.Popen([sys.executable, "-c", MAKE, str(data_dir), *flow_run], stdout=subprocess.PIPE, text=True)
    with worker:
        assert worker.stdout is not None
        told = worker.stdout.readline().split()
        worker.kill()
    return told


def test_what_a_killed_worker_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """Each worker that was killed left its flow runs' folders, and its fork server's, for ever."""
    mine = folder_of_worker(tmp_path)
    (dead,) = killed_worker(tmp_path)
    assert sweep_temporary(tmp_path) == [dead]
    assert {path.stem for path in (tmp_path / "tmp").iterdir()} == {mine.name}
    assert mine.stat().st_mode & 0o777 == 0o700


def test_a_flow_run_that_outlives_its_worker_keeps_its_folder(tmp_path: Path) -> None:
    dead, flow_run = killed_worker(tmp_path, "with a flow run")
    try:
        assert sweep_temporary(tmp_path) == []
        assert (tmp_path / "tmp" / dead / "flow-run-1").exists()
    finally:
        os.kill(int(flow_run), signal.SIGKILL)
    while sweep_temporary(tmp_path) != [dead]:
        pass  # it takes the system a moment to end it


def test_a_socket_below_it_has_a_path_that_is_short_enough(tmp_path: Path) -> None:
    """The fork server listens at <folder>/pymp-xxxxxxxx/listener-xxxxxxxx, and a path of 108 bytes is too long."""
    below = folder_of_worker(tmp_path) / "pymp-xxxxxxxx" / "listener-xxxxxxxx"
    assert len(str(below.relative_to(tmp_path))) < 50


def test_a_name_that_is_no_workers_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tmp" / "somebody else's").mkdir(parents=True)
    assert sweep_temporary(tmp_path) == []
