"""The back ends that the corpus is run against, and where one of them ends a case differently.

How a back end joins: it adds one `Backend` to `BACKENDS`, kept in a module of its own (`attack_backend_<name>.py`):

- `name`: `bubblewrap`, `docker-runc`, `docker-runsc`, `wasi`. It names the tests.
- `unavailable()`: "" if the back end can be used on this machine, else why not and what would change that. It is asked
  once, when the tests are collected, so it must be quick and must not raise.
- `open()`: the sandbox as the product opens it, called once for all cases. Nothing in it is made for tests.
- `differences`: by a case's name, a `Difference` (other statuses, judge, limits or program) or a `NotPromised`, each
  with its reason. What is not in the table must end as on bubblewrap. Names that no case has fail the tests.
- `prelude`: the guard, without which no program does anything, and the tools that the programs share. Where the box
  looks different (files that an image has, no `ctypes`), the back end brings its own; see `PRELUDE` in `attack_case`.
  The guard must refuse on every host: a program that runs outside a box has escaped from the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import attack_backend_docker as docker
import attack_backend_wasi
from attack_case import EXIT, PRELUDE, Case, Difference, Differences, NotPromised

from millrace.settings import Settings
from stages.execute.sandbox import missing_tools, open_sandbox
from stages.execute.sandbox.hierarchies import find_hierarchy
from stages.execute.sandbox.interface import Sandbox


@dataclass(frozen=True)
class Backend:
    """One way of running programs, as this machine offers it; see the module's own text."""

    name: str
    unavailable: Callable[[], str]
    open: Callable[[], Sandbox]
    differences: Differences = field(default_factory=dict)
    prelude: str = PRELUDE

    def broken(self, case: Case, sandbox: Sandbox) -> str:
        """Run `case`; what is wrong with the outcome, empty if nothing is. Only for cases that are promised."""
        difference = self.differences.get(case.name)
        assert not isinstance(difference, NotPromised)
        return case.broken(sandbox, difference, self.prelude)

    def not_promised(self, case: Case) -> str:
        """Why the back end promises nothing about `case`; empty if it does."""
        difference = self.differences.get(case.name)
        return difference.reason if isinstance(difference, NotPromised) else ""


def _bubblewrap_missing() -> str:
    lacking = missing_tools()
    return f"needs {lacking}: apt install bubblewrap libseccomp2 python3" if lacking else ""


def _without_groups() -> str:
    missing = _bubblewrap_missing()
    if missing or find_hierarchy() is None:
        return missing
    return "control groups are there; test_attack_ordinary_user.py runs these cases without"


def _with_groups() -> str:
    missing = _bubblewrap_missing()
    if missing or find_hierarchy() is not None:
        return missing
    return "needs control groups: run as root, or as a systemd service with Delegate=yes"


def open_bubblewrap() -> Sandbox:
    """The sandbox of this machine with settings as they come."""
    return open_sandbox(Settings(_env_file=None))


BUBBLEWRAP = Backend("bubblewrap", _with_groups, open_bubblewrap)

_EACH_PROCESS = "memory is limited for each process, not for all together"
_SEES_IT = "the limit is on address space: the program sees MemoryError"
UNGROUPED = Backend(
    "bubblewrap-ungrouped",
    _without_groups,
    open_bubblewrap,
    {
        "mem_bomb": Difference(_SEES_IT, EXIT),
        "zip_bomb": Difference(_SEES_IT, EXIT),
        "mem_bomb_children": NotPromised(_EACH_PROCESS),
        "mem_bomb_tmpfs": NotPromised(_EACH_PROCESS),
        "cpu_quota": NotPromised("the share of the CPU is not limited"),
    },
)

CONTAINERS = [
    Backend(f"docker-{runtime}", partial(docker.unavailable, runtime), partial(docker.opened, runtime), differences)
    for runtime, differences in (("runc", docker.RUNC), ("runsc", docker.RUNSC))
]

WASI = Backend(
    "wasi",
    attack_backend_wasi.not_fetched,
    attack_backend_wasi.open_fetched,
    attack_backend_wasi.DIFFERENCES,
    attack_backend_wasi.PRELUDE,
)

BACKENDS = [BUBBLEWRAP, UNGROUPED, *CONTAINERS, WASI]
