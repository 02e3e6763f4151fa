from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.text import printable
from protocols.solana.program_errors import Refusal, explain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)

LONGEST = 3_100
"""300 characters, each of which may become an escape of ten."""


@pytest.mark.parametrize(
    ("code", "name", "refusal"),
    [
        (2006, "ConstraintSeeds", Refusal.wrong_account),
        (3004, "AccountDidNotSerialize", Refusal.our_fault),
        (3007, "AccountOwnedByWrongProgram", Refusal.wrong_account),
        (3012, "AccountNotInitialized", Refusal.wrong_account),
        (6000, "InvalidTitle", Refusal.our_fault),
        (6001, "InvalidCID", Refusal.our_fault),
        (6002, "InvalidCost", Refusal.our_fault),
        (6003, "JobAlreadyCompleted", Refusal.closed),
        (6004, "JobCancelled", Refusal.closed),
        (6005, "JobAlreadyCancelled", Refusal.closed),
        (6008, "Unauthorized", Refusal.our_fault),
    ],
)
def test_a_program_error_is_named_and_classed(code: int, name: str, refusal: Refusal) -> None:
    words, meaning = explain({"InstructionError": [2, {"Custom": code}]})
    assert words.startswith(f"{code} {name}: ")
    assert meaning is refusal


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        ("BlockhashNotFound", Refusal.stale),
        ("AlreadyProcessed", Refusal.repeated),
        ("AccountNotFound", Refusal.too_poor),
        ("InsufficientFundsForFee", Refusal.too_poor),
        ({"InsufficientFundsForRent": {"account_index": 0}}, Refusal.too_poor),
        ({"InstructionError": [2, "ComputationalBudgetExceeded"]}, Refusal.other),
        ({"InstructionError": [2, {"Custom": 4711}]}, Refusal.other),
    ],
)
def test_the_runtimes_own_errors_are_classed(error: Any, refusal: Refusal) -> None:
    assert explain(error)[1] is refusal


@given(JSON)
def test_whatever_a_node_says_is_explained_in_bounded_words(error: Any) -> None:
    words, refusal = explain(error)
    assert words
    assert len(words) < LONGEST
    assert printable(words, LONGEST) == words
    assert refusal in Refusal


@pytest.mark.parametrize("error", ["\x1b[2Jgone", {"InstructionError": [0, "\u202egnihton"]}, "x" * 100_000])
def test_words_of_a_node_cannot_deceive_or_flood_a_terminal(error: Any) -> None:
    """Pins terminal escapes, and texts of any length, in the reason of a failed submission."""
    words, _ = explain(error)
    assert len(words) < LONGEST
    assert printable(words, LONGEST) == words
