"""Cost policies: what a worker claims for a job.

A policy is chosen by name (`MILLRACE_CLOUDMESH__COST_POLICY`). Another package adds one under the entry point group
`millrace.cost_policies`: the entry's name is the policy's, its value a function from the network's settings to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

from millrace.errors import Permanent
from millrace.job import Job
from millrace.network import Result
from millrace.settings import CloudMeshSettings

ENTRY_POINTS = "millrace.cost_policies"

_LAMPORTS_PER_BYTE = 10
_LAMPORTS_PER_SECOND = 100


class CostPolicy(Protocol):
    """Says what a job costs."""

    def price(self, job: Job, result: Result) -> int:
        """The price to claim for `result`, in the chain's smallest unit; at least 1."""
        ...


@dataclass(frozen=True)
class FixedCost:
    """The same price for every job."""

    lamports: int

    def price(self, job: Job, result: Result) -> int:
        """That price, in lamports."""
        return self.lamports


@dataclass(frozen=True)
class MeteredCost:
    """The public worker's formula: a base price, ten lamports a byte in and out, a hundred a second."""

    base_lamports: int

    def price(self, job: Job, result: Result) -> int:
        """Base price, size and time together, in lamports."""
        size = _LAMPORTS_PER_BYTE * (result.code_bytes + result.result_bytes)
        return self.base_lamports + size + int(_LAMPORTS_PER_SECOND * result.wall_seconds)


COST_POLICIES: dict[str, Callable[[CloudMeshSettings], CostPolicy]] = {
    "fixed": lambda settings: FixedCost(settings.cost_lamports),
    "metered": lambda settings: MeteredCost(settings.cost_lamports),
}


def cost_policy(settings: CloudMeshSettings) -> CostPolicy:
    """The policy that the settings name; ours win over those of other packages.

    Raises Permanent if there is none of that name.
    """
    name = settings.cost_policy
    if name in COST_POLICIES:
        return COST_POLICIES[name](settings)
    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in installed:
        known = ", ".join(sorted({*COST_POLICIES, *installed}))
        raise Permanent(f"no cost policy is called {name!r}", hint=f"there are: {known}")
    chosen: CostPolicy = installed[name].load()(settings)
    return chosen
