"""The self-test's verdict: remembered when passed, never when failed, and void when anything has changed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from millrace.errors import Declined, DeclineReason
from millrace.settings import SandboxSettings, Settings
from stages.execute.sandbox import Check, Outcome, Spec, Status, missing_tools, open_sandbox
from stages.execute.sandbox.diagnosis import diagnose
from stages.execute.sandbox.selftest import CACHE_FILE, check, ensure_working

MISSING = missing_tools()


@dataclass
class Scripted:
    """A sandbox whose self-test says what it was told to."""

    checks: list[Check]
    print_of_it: str = "one"
    tested: int = 0
    name: str = "scripted"
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self, spec: Spec, cancel: threading.Event | None = None) -> Outcome:
        return self.outcomes.pop(0)

    def self_test(self) -> list[Check]:
        self.tested += 1
        return self.checks

    def sweep(self) -> list[str]:
        return []

    def describe(self) -> list[str]:
        return []

    def fingerprint(self) -> str:
        return self.print_of_it


GOOD = [Check("runs a program", passed=True)]
BAD = [*GOOD, Check("no network", passed=False, detail="reached the gateway")]


def test_a_pass_is_remembered_by_every_process_with_the_same_sandbox(tmp_path: Path) -> None:
    first, second = Scripted(GOOD), Scripted(GOOD)
    ensure_working(first, tmp_path / "state")
    ensure_working(second, tmp_path / "state")
    assert (first.tested, second.tested) == (1, 0)


def test_a_changed_sandbox_is_tested_again(tmp_path: Path) -> None:
    ensure_working(Scripted(GOOD), tmp_path)
    changed = Scripted(GOOD, print_of_it="two")
    ensure_working(changed, tmp_path)
    assert changed.tested == 1


def test_a_failure_names_what_failed_and_is_not_remembered(tmp_path: Path) -> None:
    failing = Scripted(BAD)
    for _ in range(2):
        with pytest.raises(Declined, match="no network: reached the gateway") as caught:
            ensure_working(failing, tmp_path)
        assert caught.value.reason is DeclineReason.no_sandbox
        assert caught.value.hint
    assert failing.tested == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"passed": 1}', '{"passed": "else"}'])
def test_a_damaged_memory_is_no_pass(tmp_path: Path, content: str) -> None:
    (tmp_path / CACHE_FILE).write_text(content)
    sandbox = Scripted(GOOD)
    ensure_working(sandbox, tmp_path)
    assert sandbox.tested == 1


def test_nothing_else_is_tried_when_not_even_a_greeting_runs() -> None:
    dead = Scripted([], outcomes=[Outcome(Status.sandbox_error, None, detail="the box did not start: no")])
    found = check(dead, grouped=True)
    assert [(test.passed, test.name) for test in found] == [(False, "runs a program")]
    assert "the box did not start" in found[0].detail


def test_a_missing_interpreter_is_declined_and_diagnosed(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, sandbox=SandboxSettings(python=tmp_path / "python3"))
    with pytest.raises(Declined) as caught:
        open_sandbox(settings)
    assert caught.value.reason is DeclineReason.no_sandbox
    assert any(f.level == "missing" and "python3" in f.text for f in diagnose(settings))


@pytest.mark.sandbox
@pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}: apt install bubblewrap libseccomp2 python3")
def test_this_machine_passes_and_says_what_is_weak(tmp_path: Path) -> None:
    settings = Settings(_env_file=None)
    sandbox = open_sandbox(settings)
    assert [test for test in sandbox.self_test() if not test.passed] == []
    findings = diagnose(settings)
    assert {finding.level for finding in findings} <= {"ok", "weak"}
    assert len([finding for finding in findings if finding.level == "weak"]) == len(sandbox.describe())
    assert all(finding.remedy for finding in findings if finding.level == "weak")
