"""The keys whose owners are here: the faucet, and strangers that hold a key of ours."""

from __future__ import annotations

import hashlib

from protocols.computechain.keys import ComputeKey
from protocols.computechain.networks import NetworkParameters
from protocols.computechain.transaction import GAS, TRANSFER, Transaction

FAUCET_KEY = ComputeKey(hashlib.sha256(b"millrace localnet: faucet").digest())
"""Holds the premine. Everybody knows this key, as on the real devnet; it opens nothing elsewhere."""


def transfer(key: ComputeKey, to_address: str, wei: int, nonce: int, network: NetworkParameters) -> Transaction:
    """A signed transfer at the network's lowest gas price."""
    unsigned = Transaction(
        tx_type=TRANSFER,
        from_address=key.address,
        to_address=to_address,
        amount=wei,
        fee=GAS[TRANSFER] * network.minimum_gas_price,
        nonce=nonce,
        pub_key=key.public_key,
        gas_price=network.minimum_gas_price,
        gas_limit=GAS[TRANSFER],
    )
    return unsigned.model_copy(update={"signature": key.sign(unsigned.digest)})
