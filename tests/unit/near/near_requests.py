"""Requests and signed transactions that the tests of NEAR share."""

from __future__ import annotations

from typing import Any

from localnet.near import Dialect, NearLocalnet
from protocols.near.contract import ExecutionRequest, Resolution, ResourcesUsed
from protocols.near.keys import hash_bytes
from protocols.near.neardata import NeardataSource
from protocols.near.rpc import NearRpc
from protocols.near.transactions import FunctionCall, SignedTransaction, Transaction

REPOSITORY = {"repo": "https://github.com/alice/module", "commit": "a" * 40, "build_target": None}
USED = ResourcesUsed(instructions=3_000_000, time_ms=7)
DONE = Resolution(True, USED, output=b"42")
FAILED = Resolution(False, USED, error="trap: unreachable")


def request_args(dialect: Dialect, **more: Any) -> dict[str, Any]:
    """Arguments of `request_execution`."""
    if dialect is Dialect.early:
        return {"code_source": REPOSITORY, **more}
    limits = {"max_instructions": 1_000_000, "max_memory_mb": 16, "max_execution_seconds": 1}
    return {"source": {"GitHub": REPOSITORY}, "resource_limits": limits, **more}


async def requested(net: NearLocalnet, **more: Any) -> tuple[ExecutionRequest, str]:
    """Make a request and wait for it; returns it as its event tells it, and its transaction's hash."""
    tx_hash = net.chain.request(request_args(net.dialect, **more))
    height = net.chain.make_block(2)
    async with NeardataSource(net.url, net.contract_id) as source:
        seen = await source.at(height)
    assert seen is not None
    return seen.requests[0].request, tx_hash


async def signed(net: NearLocalnet, rpc: NearRpc, calls: tuple[FunctionCall, ...], ahead: int = 1) -> SignedTransaction:
    """Calls of the contract, signed as the operator."""
    key = await rpc.view_access_key(net.operator_id, net.operator.public_key)
    block_hash = hash_bytes((await rpc.block()).header.hash)
    return Transaction(
        net.operator_id, net.operator.public_bytes, key.nonce + ahead, net.contract_id, block_hash, calls
    ).signed_by(net.operator)
