"""Which networks there are: one entry each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from millrace.errors import Permanent
from millrace.network import Network
from millrace.settings import Settings
from stages.submit import cloudmesh, computechain_opening


@dataclass(frozen=True)
class Served:
    """One network: whether the settings name it, how it is opened, and the deployment that does one of its jobs."""

    configured: Callable[[Settings], bool]
    """Whether the operator wants it served; settings that are incomplete count as wanting it."""
    remedy: str
    """What to set for that."""
    open: Callable[[Settings], AbstractAsyncContextManager[Network[Any]]]
    deployment: str
    pool: str
    """The work pool that its jobs' flow runs go to."""
    parameter: str
    """The parameter of the job's flow that takes the chain's own name for the job."""


_NETWORKS = {
    "cloudmesh": Served(
        configured=lambda settings: bool(settings.cloudmesh.program_id or settings.cloudmesh.rpc_urls),
        remedy="set SOLANA_RPC_URL and PROGRAM_ID",
        open=cloudmesh.open_network,
        deployment="cloudmesh-job/cpu",
        pool="cpu",
        parameter="job_address",
    ),
    "computechain": Served(
        configured=lambda settings: bool(settings.computechain.rpc_urls),
        remedy="set MILLRACE_COMPUTECHAIN__RPC_URLS, …__CHAIN_ID and …__KEY_NAME",
        open=computechain_opening.open_network,
        deployment="computechain-job/gpu",
        pool="gpu",
        parameter="job_id",
    ),
}


def networks() -> dict[str, Served]:
    """The networks that this installation serves, by name."""
    return dict(_NETWORKS)


def network(name: str) -> Served:
    """The network called `name`. Raises Permanent if there is none of that name."""
    if name not in _NETWORKS:
        raise Permanent(f"no network is called {name!r}", hint=f"there are: {', '.join(_NETWORKS)}")
    return _NETWORKS[name]
