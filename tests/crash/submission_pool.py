"""What the models of chains with nonces share: a node whose pool forgets, until trouble ends."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule
from submission_model import SubmissionMachine


class PoolMachine(SubmissionMachine):
    """A model of submission whose `chain` keeps transactions in a pool of its node until they are in a block."""

    chain: Any

    def end_trouble(self) -> None:
        self.chain.clear_faults()

    @rule(times=st.sampled_from([0, 1, 2, 1_000]))
    def drop(self, times: int) -> None:
        self.chain.drop_next(times)

    @rule()
    def restart_the_node(self) -> None:
        self.chain.restart()
