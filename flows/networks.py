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


@dataclass(frozen=True, kw_only=True)
class JobSource:
    """Where jobs come from: whether the settings name it, and the deployment that does one of its jobs."""

    configured: Callable[[Settings], bool]
    """Whether the operator wants it served; settings that are incomplete count as wanting it."""
    remedy: str
    """What to set for that."""
    deployment: str
    pool: str
    """The work pool that its jobs' flow runs go to."""
    parameter: str
    """The parameter of the job's flow that takes the source's own name for the job."""


@dataclass(frozen=True, kw_only=True)
class Served(JobSource):
    """One network, which can be opened and asked."""

    open: Callable[[Settings], AbstractAsyncContextManager[Network[Any]]]


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

VALIDATOR = JobSource(
    configured=lambda settings: bool(settings.validator.url),
    remedy="set MILLRACE_VALIDATOR__URL",
    deployment="poc-job/gpu",
    pool="gpu",
    parameter="job_id",
)
"""The PoC validator: it pushes jobs and takes answers, there is no chain to ask."""


def networks() -> dict[str, Served]:
    """The networks that this installation serves, by name."""
    return dict(_NETWORKS)


def network(name: str) -> Served:
    """The network called `name`. Raises Permanent if there is none of that name."""
    if name not in _NETWORKS:
        raise Permanent(f"no network is called {name!r}", hint=f"there are: {', '.join(_NETWORKS)}")
    return _NETWORKS[name]
