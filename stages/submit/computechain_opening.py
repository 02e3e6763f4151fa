"""ComputeChain as the settings describe it, with everything compared that must fit before a job is begun."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from millrace.errors import Permanent
from millrace.settings import ComputeChainSettings, Settings
from protocols.computechain.job import ComputeChainJob
from protocols.computechain.keystore import Keystore
from protocols.computechain.networks import NETWORKS
from protocols.computechain.rpc import ComputeChainRpc
from stages.discover.computechain import ComputeChainDiscovery
from stages.discover.computechain_hints import BlockHints
from stages.submit.computechain import ComputeChainNetwork, ensure_chain, newest_block


@asynccontextmanager
async def open_network(settings: Settings) -> AsyncIterator[ComputeChainNetwork]:
    """ComputeChain as the settings describe it: nodes, chain, key, gas price and what is wanted of the blocks.

    Raises Permanent for a setting that is missing or wrong, or if the nodes serve another chain; Transient if none
    of them answers.
    """
    compute = settings.computechain
    if not compute.chain_id:
        raise Permanent(
            "MILLRACE_COMPUTECHAIN__CHAIN_ID is not set",
            hint="a transaction names no chain: say which one you mean, cpc-mainnet-1 for instance",
        )
    if not compute.key_name:
        raise Permanent(
            "MILLRACE_COMPUTECHAIN__KEY_NAME is not set", hint="`millrace keys computechain add <name>` makes a key"
        )
    key = Keystore(compute.keystore).load(compute.key_name)

    def job_of(height: int, block_hash: str) -> ComputeChainJob:
        return ComputeChainJob.of_block(
            chain_id=compute.chain_id,
            height=height,
            block_hash=block_hash,
            worker_address=key.address,
            algorithm=compute.algorithm,
            size=compute.size,
        )

    async with ComputeChainRpc(compute.rpc_urls) as rpc, BlockHints(rpc) as hints:
        ensure_chain(await newest_block(rpc), compute.chain_id)
        discovery = ComputeChainDiscovery(
            rpc,
            job_of,
            settings.data_dir / "discover",
            name=f"{compute.chain_id}/{key.address}",
            every_blocks=compute.every_blocks,
            backlog_blocks=compute.backlog_blocks,
        )
        yield ComputeChainNetwork(
            rpc,
            key,
            compute.chain_id,
            discovery,
            hints,
            job_of,
            gas_price=await _gas_price(rpc, compute),
            confirmations=compute.confirmations,
            balance_floor_wei=compute.balance_floor_wei,
        )


async def _gas_price(rpc: ComputeChainRpc, compute: ComputeChainSettings) -> int:
    """The gas price to offer, in wei: the settings', or the least that the network takes."""
    name = (await rpc.status()).network
    if name not in NETWORKS:
        raise Permanent(f"the nodes are of a network called {name!r}", hint=f"known are {', '.join(NETWORKS)}")
    minimum = NETWORKS[name].minimum_gas_price
    if compute.gas_price and compute.gas_price < minimum:
        raise Permanent(
            f"a gas price of {compute.gas_price} is below this network's least, {minimum}",
            hint="set MILLRACE_COMPUTECHAIN__GAS_PRICE to 0 for the least",
        )
    return compute.gas_price or minimum
