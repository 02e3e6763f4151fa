"""Which networks there are: one entry each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from math import inf
from typing import Any

from millrace.errors import Permanent
from millrace.network import Network
from millrace.settings import Settings
from protocols.http_json import origin_of
from stages.submit import cloudmesh, computechain_opening, offchainvm_opening


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
    longest_cooldown_seconds: float = inf
    """A failed job waits no longer for its next attempt, whatever the settings say."""


@dataclass(frozen=True, kw_only=True)
class Served(JobSource):
    """One network, which can be opened and asked."""

    open: Callable[[Settings], AbstractAsyncContextManager[Network[Any]]]
    handed_out: Callable[[Settings], str] = lambda settings: ""
    """Who hands its jobs out, in words, so that its chain is not to be watched; empty if nobody does."""


_OFFCHAINVM_COOLDOWN_SECONDS = 15.0
"""The chain resumes a request for 200 blocks, some two to five minutes: later than that there is nothing to try."""

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
    "offchainvm": Served(
        configured=lambda settings: bool(settings.near.rpc_urls),
        remedy="set NEAR_RPC_URL, OFFCHAINVM_CONTRACT_ID, OPERATOR_ACCOUNT_ID and OPERATOR_PRIVATE_KEY",
        open=offchainvm_opening.open_network,
        deployment="offchainvm-job/docker",
        pool="docker",
        parameter="job_id",
        longest_cooldown_seconds=_OFFCHAINVM_COOLDOWN_SECONDS,
        handed_out=lambda settings: (
            f"the coordinator at {origin_of(settings.coordinator.url)} hands out the requests: the chain is not read"
            if settings.coordinator.url
            else ""
        ),
    ),
}

VALIDATOR_NAME = "validator"
"""What the PoC validator is called beside the networks."""

VALIDATOR = JobSource(
    configured=lambda settings: bool(settings.validator.url),
    remedy="set MILLRACE_VALIDATOR__URL",
    deployment="poc-job/gpu",
    pool="gpu",
    parameter="job_id",
)
"""The PoC validator: it pushes jobs and takes answers, there is no chain to ask."""

COORDINATOR = JobSource(
    configured=lambda settings: bool(settings.coordinator.url),
    remedy="set MILLRACE_COORDINATOR__URL (or API_BASE_URL)",
    deployment="offchainvm-job/docker",
    pool="docker",
    parameter="job_id",
    longest_cooldown_seconds=_OFFCHAINVM_COOLDOWN_SECONDS,
)
"""A coordinator: it hands out OffchainVM's requests in place of the chain, which is answered all the same."""


COORDINATOR_NAME = "coordinator"
"""What the coordinator is called beside the networks."""


def needed_pools(settings: Settings) -> tuple[str, ...]:
    """The work pools that need a worker for what these settings serve; `cpu`, where the watches run, always does."""
    return tuple(sorted({source.pool for source in sources().values() if source.configured(settings)} | {"cpu"}))


def sources() -> dict[str, JobSource]:
    """The networks, the validator and the coordinator, by name."""
    return {**_NETWORKS, VALIDATOR_NAME: VALIDATOR, COORDINATOR_NAME: COORDINATOR}


def networks() -> dict[str, Served]:
    """The networks that this installation serves, by name."""
    return dict(_NETWORKS)


def network(name: str) -> Served:
    """The network called `name`. Raises Permanent if there is none of that name."""
    if name not in _NETWORKS:
        raise Permanent(f"no network is called {name!r}", hint=f"there are: {', '.join(_NETWORKS)}")
    return _NETWORKS[name]
