"""Every attack and every limit, against the sandbox as this machine offers it to the user who runs the tests."""

from __future__ import annotations

import pytest
import sandbox_cases_escape
import sandbox_cases_limits
from sandbox_cases import Case

from millrace.settings import Settings
from stages.execute.sandbox import missing_tools, open_sandbox
from stages.execute.sandbox.bubblewrap import BubblewrapSandbox

MISSING = missing_tools()
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}: apt install bubblewrap libseccomp2 python3"),
]


@pytest.fixture(scope="module")
def sandbox() -> BubblewrapSandbox:
    return open_sandbox(Settings(_env_file=None))


@pytest.mark.parametrize(
    "case", [*sandbox_cases_limits.CASES, *sandbox_cases_escape.CASES], ids=lambda case: str(case.name)
)
def test_a_program_gets_what_it_may_have_and_no_more(sandbox: BubblewrapSandbox, case: Case) -> None:
    grouped = sandbox.hierarchy is not None
    if not case.promised(grouped=grouped):
        pytest.skip("needs control groups: run as root, or as a systemd service with Delegate=yes")
    assert not case.broken(sandbox, grouped=grouped)
