"""No process is left behind, whatever the children do. Each test plays `millrace up` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deployments.processes import Processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are found through Linux's subreaper")

DAEMON = "import os,time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(120)"
STUBBORN = "import signal,time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; time.sleep(120)"

PARENT = """
import json, sys, time
from pathlib import Path
import psutil
from deployments.processes import Processes

program, manner = sys.argv[1], sys.argv[2]
with Processes(Path(sys.argv[3])) as processes:
    processes.start("child", [sys.executable, "-c", program], {})
    deadline = time.monotonic() + 20
    while not (pids := [p.pid for p in psutil.Process().children(recursive=True)]) or time.monotonic() < deadline - 19:
        time.sleep(0.05)
    pids = [p.pid for p in psutil.Process().children(recursive=True)]
    print(json.dumps(pids), flush=True)
    if manner == "error":
        raise RuntimeError("the demo failed")
    if manner == "wait":
        time.sleep(120)
"""


def run_parent(program: str, manner: str, folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, program, manner, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    return parent, json.loads(parent.stdout.readline())


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("program", [DAEMON, "import time; time.sleep(120)"], ids=["daemon", "plain"])
@pytest.mark.parametrize("manner", ["end", "error"])
def test_children_and_their_daemons_end_with_the_block(tmp_path: Path, program: str, manner: str) -> None:
    parent, pids = run_parent(program, manner, tmp_path)
    with parent:
        parent.wait(30)
    assert pids
    assert alive(pids) == []


def test_a_child_that_ignores_sigterm_is_ended_after_a_while(tmp_path: Path) -> None:
    parent, pids = run_parent(STUBBORN, "end", tmp_path)
    with parent:
        parent.wait(40)
    assert alive(pids) == []


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    parent, pids = run_parent("import time; time.sleep(120)", "wait", tmp_path)
    with parent:
        parent.send_signal(signal.SIGINT)
        parent.wait(30)
    assert pids
    assert alive(pids) == []


def test_a_dead_grandchild_that_became_ours_is_collected(tmp_path: Path) -> None:
    """Every sandboxed job left one: after days there were no process ids left."""
    with Processes(tmp_path) as processes:
        processes.start("parent", ["sh", "-c", "(sleep 0.1 &) ; exec sleep 60"], {"PATH": os.environ["PATH"]})
        seen, deadline = False, time.monotonic() + 20
        while not seen or dead_children():
            seen = seen or dead_children()
            processes.check()
            assert time.monotonic() < deadline, "it is still there" if seen else "it never became ours"
            time.sleep(0.05)


def dead_children() -> bool:
    return any(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process().children())
