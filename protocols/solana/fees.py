"""What a transaction costs: compute units, the price offered for them, and the balance that must be there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SIGNATURE_FEE_LAMPORTS = 5_000
"""Base fee of one signature."""

MOST_COMPUTE_UNITS = 1_400_000
"""The chain's own limit for one transaction."""

_HEADROOM_FACTOR = 1.2
_BUDGET_INSTRUCTIONS_UNITS = 300
_MICRO = 1_000_000


@dataclass(frozen=True)
class PriorityFeePolicy:
    """How much to offer for a place in a block, in micro-lamports per compute unit."""

    percentile: int = 75
    floor: int = 0
    cap: int = 1_000_000

    def price(self, recent: Sequence[int]) -> int:
        """The price to offer, given what `recent` blocks took: their percentile (nearest rank) within floor and cap.

        The cap wins where floor and cap contradict each other: it is what protects the purse.
        """
        rank = max(1, math.ceil(self.percentile / 100 * len(recent)))
        wanted = sorted(recent)[rank - 1] if recent else 0
        return min(max(wanted, self.floor), self.cap)


def compute_unit_limit(units_consumed: int) -> int:
    """The limit to ask for, given what a simulation consumed: a fifth more, and what the budget's own parts take."""
    return min(math.ceil(units_consumed * _HEADROOM_FACTOR) + _BUDGET_INSTRUCTIONS_UNITS, MOST_COMPUTE_UNITS)


def priority_fee_lamports(price: int, unit_limit: int) -> int:
    """The priority fee of a transaction with that limit, in lamports; `price` in micro-lamports per unit."""
    return -(-price * unit_limit // _MICRO)
