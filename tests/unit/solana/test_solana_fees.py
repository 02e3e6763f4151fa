from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocols.solana.fees import MOST_COMPUTE_UNITS, PriorityFeePolicy, compute_unit_limit, priority_fee_lamports

PRICES = st.integers(0, 10**9)


def test_the_percentile_is_by_nearest_rank() -> None:
    recent = [50, 10, 40, 20, 30]
    assert [PriorityFeePolicy(p).price(recent) for p in (0, 20, 50, 75, 100)] == [10, 10, 30, 40, 50]


def test_without_recent_fees_the_floor_is_offered() -> None:
    assert PriorityFeePolicy(75, floor=123).price([]) == 123


@given(st.lists(PRICES), st.integers(0, 100), PRICES, PRICES)
def test_the_price_is_never_above_the_cap_and_else_never_below_the_floor(
    recent: list[int], percentile: int, floor: int, cap: int
) -> None:
    price = PriorityFeePolicy(percentile, floor, cap).price(recent)
    assert price <= cap
    assert price >= min(floor, cap)


@given(st.integers(0, 10**7))
def test_the_unit_limit_leaves_room_and_stays_within_the_chains_own(units: int) -> None:
    limit = compute_unit_limit(units)
    assert limit <= MOST_COMPUTE_UNITS
    assert limit == MOST_COMPUTE_UNITS or limit >= units * 1.2 + 300


@given(PRICES, st.integers(0, MOST_COMPUTE_UNITS))
def test_the_fee_in_lamports_is_rounded_up(price: int, units: int) -> None:
    fee = priority_fee_lamports(price, units)
    assert (fee - 1) * 10**6 < price * units <= fee * 10**6
