"""Makes blocks: which transactions, in which order, under which roots and signature."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from localnet.computechain.blocks import Block
from localnet.computechain.ledger import Change, Ledger, state_root
from localnet.computechain.mempool import Mempool
from localnet.computechain.rules import can_be_included, changes, compute_leaf
from protocols.computechain.block import NO_HASH, Header
from protocols.computechain.keys import VALIDATOR_PREFIX, ComputeKey, address_of
from protocols.computechain.merkle import merkle_root
from protocols.computechain.networks import NetworkParameters
from protocols.computechain.transaction import GAS, SUBMIT_RESULT, Transaction

VALIDATOR_KEYS = tuple(
    ComputeKey(hashlib.sha256(f"millrace localnet: validator {number}".encode()).digest()) for number in range(3)
)
VALIDATOR_ADDRESSES = tuple(address_of(key.public_key, VALIDATOR_PREFIX) for key in VALIDATOR_KEYS)


@dataclass
class Draft:
    """A block in the making: what is in it, and what was thrown away on the way."""

    transactions: list[Transaction] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    dropped: list[Transaction] = field(default_factory=list)
    gas_used: int = 0


class Proposer:
    """The validators of one chain, taking turns.

    Arguments: `network` gives the limits of a block; `genesis_seconds` is the Unix time of the first slot.
    """

    def __init__(self, network: NetworkParameters, genesis_seconds: int) -> None:
        self._network = network
        self._genesis_seconds = genesis_seconds

    def fill(self, ledger: Ledger, first: Iterable[Transaction], mempool: Mempool, doomed: set[str]) -> Draft:
        """Choose transactions and apply them to the ledger: those in `first`, then the pool's by gas price.

        Whatever may not be included, or is `doomed`, is dropped and leaves no trace.
        """
        draft = Draft()
        for transaction in first:
            self._take(draft, ledger, transaction, doomed)
        heads = [_rank(head) for head in _executable(ledger, mempool)]
        heapq.heapify(heads)
        while heads and len(draft.transactions) < self._network.block_transactions:
            *_, transaction = heapq.heappop(heads)
            if draft.gas_used + GAS[transaction.tx_type] > self._network.block_gas_limit:
                continue
            if self._take(draft, ledger, transaction, doomed):
                follower = mempool.at(transaction.from_address, transaction.nonce + 1)
                if follower is not None:
                    heapq.heappush(heads, _rank(follower))
        return draft

    def _take(self, draft: Draft, ledger: Ledger, transaction: Transaction, doomed: set[str]) -> bool:
        sender = ledger.account(transaction.from_address)
        if transaction.hash in doomed or not can_be_included(transaction, sender):
            draft.dropped.append(transaction)
            return False
        for change in changes(transaction):
            ledger.apply(change)
            draft.changes.append(change)
        draft.transactions.append(transaction)
        draft.gas_used += GAS[transaction.tx_type]
        return True

    def seal(self, draft: Draft, before: Header | None, consensus_round: int) -> Block:
        """Make the block behind `before`; in a later round another validator has the turn."""
        height = 0 if before is None else before.height + 1
        turn = (height + consensus_round) % len(VALIDATOR_KEYS)
        results = [transaction for transaction in draft.transactions if transaction.tx_type == SUBMIT_RESULT]
        leaves = [leaf for leaf in map(compute_leaf, results) if leaf is not None]
        hashes = [transaction.digest for transaction in draft.transactions]
        header = Header(
            height=height,
            prev_hash=NO_HASH if before is None else before.hash,
            timestamp=self._genesis_seconds + self._network.block_seconds * (height + consensus_round),
            chain_id=self._network.chain_id,
            proposer_address=VALIDATOR_ADDRESSES[turn],
            round=consensus_round,
            tx_root=merkle_root(hashes) or NO_HASH,
            state_root=state_root("" if before is None else before.state_root, draft.changes),
            compute_root=merkle_root(leaves),
            gas_used=draft.gas_used,
            gas_limit=self._network.block_gas_limit,
        )
        signature = VALIDATOR_KEYS[turn].sign(bytes.fromhex(header.hash))
        return Block(header, tuple(draft.transactions), signature, tuple(draft.changes))


def _rank(transaction: Transaction) -> tuple[int, str, int, Transaction]:
    return -transaction.gas_price, transaction.from_address, transaction.nonce, transaction


def _executable(ledger: Ledger, mempool: Mempool) -> Iterator[Transaction]:
    """The pool's transaction with the account's own nonce, of every sender that has one."""
    for sender in mempool.senders():
        transaction = mempool.at(sender, ledger.account(sender).nonce)
        if transaction is not None:
            yield transaction
