"""Any sequence of sends, blocks, restarts and rollbacks, against a model that knows nonces only."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from localnet.computechain import Chain
from localnet.computechain.spending import transfer
from protocols.computechain.keys import ComputeKey
from protocols.computechain.networks import NETWORKS
from protocols.computechain.transaction import Transaction

KEY = ComputeKey(b"\x07" * 32)
FUNDS = 10**18
COST = 21_000 * 1_000


def signed(nonce: int, wei: int) -> Transaction:
    return transfer(KEY, "cpc1somebody", wei, nonce, NETWORKS["devnet"])


class Mempool(RuleBasedStateMachine):
    """The model: blocks as lists of (nonce, amount), the pool by nonce, and what is parked in the order it came."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain(NETWORKS["devnet"], clock=lambda: 0.0)
        self.chain.freeze()
        self.chain.fund(KEY.address, FUNDS)
        self.chain.mempool.most_parked_per_sender = 3
        self.blocks: list[list[tuple[int, int]]] = []
        self.pool: dict[int, int] = {}
        self.parked: list[tuple[int, int]] = []

    @property
    def confirmed(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def expected(self) -> int:
        nonce = self.confirmed
        while nonce in self.pool:
            nonce += 1
        return nonce

    @rule(ahead=st.integers(-2, 4), wei=st.integers(1, 3))
    def send(self, ahead: int, wei: int) -> None:
        nonce = self.expected + ahead
        answer = self.chain.receive(signed(nonce, wei))
        if self.pool.get(nonce) == wei:
            assert answer == "already_in_pool"
        elif ahead < 0:
            assert answer == "nonce_too_low"
        elif ahead == 0:
            assert answer is None
            self.pool[nonce] = wei
        elif len(self.parked) == 3:
            assert answer == "queued_limit_exceeded"
        else:
            assert answer is None
            self.parked.append((nonce, wei))

    @rule()
    def block(self) -> None:
        self.chain.make_block()
        included = [(nonce, self.pool.pop(nonce)) for nonce in range(self.confirmed, self.expected)]
        self.blocks.append(included)
        for nonce, wei in sorted(self.parked, key=lambda parked: parked[0]):
            if nonce == self.expected:
                self.pool[nonce] = wei
        self.parked = [(nonce, wei) for nonce, wei in self.parked if nonce > self.expected]

    @rule()
    def restart(self) -> None:
        self.chain.restart()
        self.pool, self.parked = {}, []

    @precondition(lambda self: self.blocks)
    @rule(keep=st.booleans())
    def rollback(self, keep: bool) -> None:
        self.chain.rollback(1, keep)
        for nonce, wei in self.blocks.pop():
            if keep:
                self.pool[nonce] = wei

    @invariant()
    def nonces_agree(self) -> None:
        assert self.chain.account(KEY.address).nonce == self.confirmed
        assert self.chain.next_nonce(KEY.address) == self.expected
        assert len(self.chain.mempool) == len(self.pool)
        assert sorted(parked.nonce for parked in self.chain.mempool.parked(KEY.address)) == sorted(
            nonce for nonce, _ in self.parked
        )

    @invariant()
    def money_is_where_the_blocks_say(self) -> None:
        spent = sum(wei for block in self.blocks for _, wei in block)
        assert self.chain.account("cpc1somebody").balance_wei == spent
        assert self.chain.account(KEY.address).balance_wei == FUNDS - spent - COST * self.confirmed

    @invariant()
    def blocks_hold_every_nonce_once(self) -> None:
        landed = [signed(nonce, wei).hash for block in self.blocks for nonce, wei in block]
        assert self.chain.landed(KEY.address) == landed


TestMempool = Mempool.TestCase
TestMempool.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
