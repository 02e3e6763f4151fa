"""Which networks there are: one entry each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from millrace.errors import Permanent
from millrace.network import Network
from millrace.settings import Settings
from stages.submit import cloudmesh


@dataclass(frozen=True)
class Served:
    """One network: how it is opened, and the deployment that does one of its jobs."""

    open: Callable[[Settings], AbstractAsyncContextManager[Network[Any]]]
    deployment: str
    parameter: str
    """The parameter of the job's flow that takes the chain's own name for the job."""


_NETWORKS = {
    "cloudmesh": Served(open=cloudmesh.open_network, deployment="cloudmesh-job/cpu", parameter="job_address"),
}


def networks() -> dict[str, Served]:
    """The networks that this installation serves, by name."""
    return dict(_NETWORKS)


def network(name: str) -> Served:
    """The network called `name`. Raises Permanent if there is none of that name."""
    if name not in _NETWORKS:
        raise Permanent(f"no network is called {name!r}", hint=f"there are: {', '.join(_NETWORKS)}")
    return _NETWORKS[name]
