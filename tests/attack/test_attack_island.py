"""Addresses that answer: without them, a refused connection could as well be a machine without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attack_backends import BUBBLEWRAP
from attack_island import NAMES

UNAVAILABLE = BUBBLEWRAP.unavailable()
UNSHARE = shutil.which("unshare")
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(UNAVAILABLE), reason=UNAVAILABLE),
    pytest.mark.skipif(os.geteuid() != 0 or UNSHARE is None, reason="needs root and unshare, to make an empty network"),
]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Any]:
    folder = Path(__file__).parent
    answer = subprocess.run(
        [str(UNSHARE), "--net", "--", sys.executable, "-B", folder / "attack_island.py"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{folder}:{folder.parents[1]}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_addresses_that_answer_are_not_reached_from_the_box(verdicts: dict[str, Any], name: str) -> None:
    assert verdicts[name][0] == ""


@pytest.mark.parametrize("name", NAMES)
def test_they_are_reached_without_a_network_namespace(verdicts: dict[str, Any], name: str) -> None:
    assert "BROKEN" in verdicts[name][1]


def test_the_self_test_notices_the_machines_network(verdicts: dict[str, Any]) -> None:
    """A connection that fails proves nothing on a machine without a network: the namespace has to be another."""
    assert verdicts["(self-test)"] == [[], ["no network"]]
