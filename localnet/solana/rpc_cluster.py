"""RPC methods about the cluster: slots, blockhashes, fees, versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from localnet.solana.chain import BLOCKHASH_LIFE_BLOCKS, GENESIS_HASH, Chain
from localnet.solana.request import API_VERSION, list_of, view_of
from localnet.solana.wire import address_of, blockhash_of, count_of, unsigned_transaction_of

SLOTS_IN_EPOCH = 432_000
_MOST_FEE_ADDRESSES = 128
_FEATURE_SET = 2_802_467_741


class ClusterMethods:
    """What a node says about itself and its chain."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Every method by its name on the wire."""
        return {
            "getHealth": lambda: "ok",
            "getVersion": lambda: {"solana-core": API_VERSION, "feature-set": _FEATURE_SET},
            "getGenesisHash": lambda: GENESIS_HASH,
            "getSlot": self.slot,
            "getBlockHeight": self.block_height,
            "getEpochInfo": self.epoch_info,
            "getLatestBlockhash": self.latest_blockhash,
            "isBlockhashValid": self.is_blockhash_valid,
            "getFeeForMessage": self.fee_for_message,
            "getRecentPrioritizationFees": self.recent_prioritization_fees,
            "getMinimumBalanceForRentExemption": self.minimum_balance,
        }

    def slot(self, config: Any = None) -> int:
        """The newest slot at a commitment level."""
        return view_of(self._chain, config).slot

    def block_height(self, config: Any = None) -> int:
        """The newest block height at a commitment level; never the slot's number."""
        return self._chain.block_height(view_of(self._chain, config).slot)

    def epoch_info(self, config: Any = None) -> dict[str, int]:
        """Where in which epoch the chain is."""
        slot = view_of(self._chain, config).slot
        return {
            "absoluteSlot": slot,
            "blockHeight": self._chain.block_height(slot),
            "epoch": slot // SLOTS_IN_EPOCH,
            "slotIndex": slot % SLOTS_IN_EPOCH,
            "slotsInEpoch": SLOTS_IN_EPOCH,
            "transactionCount": self._chain.log.count,
        }

    def latest_blockhash(self, config: Any = None) -> dict[str, Any]:
        """The newest blockhash at a commitment level, and the last block height it is good for."""
        view = view_of(self._chain, config)
        last = self._chain.block_height(view.slot) + BLOCKHASH_LIFE_BLOCKS
        return view.with_context({"blockhash": self._chain.blockhash(view.slot), "lastValidBlockHeight": last})

    def is_blockhash_valid(self, blockhash: Any, config: Any = None) -> dict[str, Any]:
        """Whether a transaction with that blockhash could still land."""
        view = view_of(self._chain, config)
        return view.with_context(self._chain.blockhash_is_valid(blockhash_of(blockhash), view.slot))

    def fee_for_message(self, message: Any, config: Any = None) -> dict[str, Any]:
        """What a message would cost in lamports; null once its blockhash has expired."""
        view = view_of(self._chain, config)
        transaction = unsigned_transaction_of(message)
        execution, _ = self._chain.simulate(transaction, view.slot)
        return view.with_context(None if execution.error == "BlockhashNotFound" else execution.fee_lamports)

    def recent_prioritization_fees(self, addresses: Any = None) -> list[dict[str, int]]:
        """What recent blocks' cheapest transactions paid, of those that locked all the addresses."""
        wanted = [address_of(address) for address in list_of(addresses or [], _MOST_FEE_ADDRESSES)]
        fees = self._chain.recent_priority_fees(wanted)
        return [{"slot": slot, "prioritizationFee": fee} for slot, fee in fees]

    def minimum_balance(self, account_bytes: Any, config: Any = None) -> int:
        """Lamports that exempt an account of that size from rent."""
        view_of(self._chain, config)
        return self._chain.runtime.rent_exempt_lamports(count_of(account_bytes))
