"""ComputeChain's networks and the numbers in which they differ, by the name that `/status` gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkParameters:
    """One network. `minimum_gas_price` is in wei; `block_gas_limit` in gas; `premine_cpc` in whole CPC."""

    name: str
    chain_id: str
    block_seconds: int
    minimum_gas_price: int
    block_gas_limit: int
    block_transactions: int
    premine_cpc: int
    epoch_blocks: int


NETWORKS = {
    network.name: network
    for network in (
        NetworkParameters("devnet", "cpc-devnet-1", 5, 1_000, 50_000_000, 500, 10**9, 100),
        NetworkParameters("testnet", "cpc-testnet-1", 30, 5_000, 15_000_000, 1_000, 10**8, 100),
        NetworkParameters("mainnet", "cpc-mainnet-1", 60, 10**9, 30_000_000, 5_000, 0, 72),
    )
}
