"""The same cases as an ordinary user without control groups, in a process of its own that has become `nobody`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from attack_backends import UNGROUPED
from attack_case import Case
from attack_corpus import CASES as CORPUS

from stages.execute.sandbox import missing_tools

ROOT = Path(__file__).parents[2]
NOBODY = 65_534
SYSTEM_PYTHON = Path("/usr/bin/python3")
PACKAGES = ["pydantic", "pydantic_core", "pydantic_settings", "dotenv", "annotated_types", "typing_inspection"]
MODULES = ["pyseccomp.py", "typing_extensions.py"]
CASES = [case for case in CORPUS if not UNGROUPED.not_promised(case)]

RUN_ALL = textwrap.dedent("""
    import json
    from attack_backends import UNGROUPED
    from attack_corpus import CASES
    sandbox = UNGROUPED.open()
    found = {"(self-test)": [f"{t.name}: {t.detail}" for t in sandbox.self_test() if not t.passed],
             "(weak)": sandbox.describe(), "(groups)": sandbox.hierarchy is not None}
    for case in CASES:
        if not UNGROUPED.not_promised(case):
            found[case.name] = UNGROUPED.broken(case, sandbox)
    print(json.dumps(found))
""")


def _reason_to_skip() -> str:
    if missing := missing_tools():
        return f"needs {missing}: apt install bubblewrap libseccomp2 python3"
    if os.geteuid() != 0:
        return "needs root, to become somebody else; test_attack_corpus.py runs as whoever you are"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not Path(f"/usr/bin/python{version}").exists():
        return f"needs a system Python {version}, as the virtual environment's is: apt install python{version}"
    return ""


pytestmark = [pytest.mark.sandbox, pytest.mark.skipif(bool(_reason_to_skip()), reason=_reason_to_skip())]


@pytest.fixture(scope="module")
def readable_copy() -> Iterator[Path]:
    """Our packages and what they import, where everybody may read them."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-nobody-"))
    site = Path(sysconfig.get_path("purelib"))
    try:
        for package in ("millrace", "stages"):
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in PACKAGES:
            shutil.copytree(site / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (*(site / name for name in MODULES), *Path(__file__).parent.glob("attack_*.py")):
            shutil.copy(file, folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def verdicts(readable_copy: Path) -> dict[str, object]:
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    answer = subprocess.run(
        [*become, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}", "-B", "-c", RUN_ALL],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(readable_copy)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    found: dict[str, object] = json.loads(answer.stdout)
    if found["(groups)"]:
        pytest.skip("this machine gives nobody control groups: nothing is weaker here")
    return found


def test_the_self_test_passes_for_an_ordinary_user(verdicts: dict[str, object]) -> None:
    assert verdicts["(self-test)"] == []


def test_what_is_weaker_is_said(verdicts: dict[str, object]) -> None:
    said = " ".join(map(str, verdicts["(weak)"]))  # type: ignore[call-overload]
    assert all(word in said for word in ("memory", "CPU", "user id"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_a_program_of_an_ordinary_users_worker_is_held(verdicts: dict[str, object], case: Case) -> None:
    assert verdicts[case.name] == ""
