"""The self-test of the WASM runtime passes here, and fails where a promise is not kept."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from wasm_world import opened

from stages.execute.wasm.interface import Call, RuntimeFault, Status, WasmExecution
from stages.execute.wasm.selftest import check

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: sealed files, pidfds, seccomp")


class Pretender:
    """A runtime to which everything is the same."""

    name = "pretender"

    def __init__(self, answer: WasmExecution | Exception) -> None:
        self.answer = answer

    def execute(self, call: Call, cancel: threading.Event | None = None) -> WasmExecution:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None: ...


def test_every_promise_is_kept_here(tmp_path: Path) -> None:
    runtime = opened(tmp_path)
    checks = check(runtime)
    assert len(checks) == 8
    assert [one for one in checks if not one.passed] == []
    runtime.close()


def test_a_runtime_that_limits_nothing_fails() -> None:
    failed = {one.name for one in check(Pretender(WasmExecution(status=Status.ok))) if not one.passed}
    assert {"the limit on instructions", "the time limit, asleep", "the memory limit", "the output limit"} <= failed


@pytest.mark.parametrize("answer", [WasmExecution(status=Status.trap), RuntimeFault("no forker")])
def test_a_runtime_that_runs_nothing_is_told_in_one_line(answer: WasmExecution | Exception) -> None:
    (only,) = check(Pretender(answer))
    assert (only.name, only.passed) == ("runs a module", False)
    assert only.detail
