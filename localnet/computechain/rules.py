"""The node's rules, each in its place: what it refuses at the door, and what it lets in and never includes."""

from __future__ import annotations

from localnet.computechain.ledger import Account, Change
from localnet.computechain.mempool import Mempool
from localnet.computechain.signatures import key_refusal
from protocols.computechain.networks import NetworkParameters
from protocols.computechain.transaction import GAS, SUBMIT_RESULT, TRANSFER, ComputeResult, Transaction


def refusal(transaction: Transaction, network: NetworkParameters, mempool: Mempool, account: Account) -> str | None:
    """Why `/tx/send` rejects a transaction, in the node's words, before it looks at the nonce; None if it does not.

    Arguments: `account` is the sender's, as of the newest block.
    """
    if transaction.hash in mempool:
        return "already_in_pool"
    if transaction.gas_price < network.minimum_gas_price:
        return f"gas_price {transaction.gas_price} < min {network.minimum_gas_price}"
    if (problem := _gas_refusal(transaction)) is not None:
        return problem
    if len(mempool) >= mempool.most:
        return "mempool_full"
    if mempool.count_of(transaction.from_address) >= mempool.most_per_sender:
        return "sender_limit_exceeded"
    if (problem := key_refusal(transaction)) is not None:
        return problem
    if transaction.tx_type == TRANSFER and transaction.amount <= 0:
        return "transfer_amount_zero"
    if account.balance_wei < transaction.amount + transaction.fee:
        return "insufficient_balance"
    return None


def _gas_refusal(transaction: Transaction) -> str | None:
    gas = GAS.get(transaction.tx_type)
    if gas is None:
        return "unknown_tx_type"
    if transaction.gas_limit < gas:
        return f"gas_limit {transaction.gas_limit} < base_gas {gas}"
    if transaction.fee < gas * transaction.gas_price:
        return f"fee {transaction.fee} < needed_fee {gas * transaction.gas_price}"
    return None


def cost_wei(transaction: Transaction) -> int:
    """What including it costs the sender: the gas of its type, and never what it offered above that."""
    return GAS[transaction.tx_type] * transaction.gas_price


def can_be_included(transaction: Transaction, account: Account) -> bool:
    """Whether the proposer takes it into a block; if not, it is dropped without a word to anybody.

    Keys and signature were checked at the door, and a transaction cannot change afterwards.
    """
    amounts = (transaction.amount, transaction.fee, transaction.gas_price, transaction.gas_limit)
    if min(amounts) < 0 or transaction.nonce != account.nonce or _gas_refusal(transaction) is not None:
        return False
    if account.balance_wei < transaction.amount + cost_wei(transaction):
        return False
    if transaction.tx_type == SUBMIT_RESULT:
        return compute_leaf(transaction) is not None
    return transaction.tx_type != TRANSFER or transaction.to_address is not None


def compute_leaf(transaction: Transaction) -> bytes | None:
    """The leaf of the result that a SUBMIT_RESULT carries; None if it is malformed or another worker's."""
    try:
        result = ComputeResult.model_validate(transaction.payload)
        return result.leaf() if result.worker_address == transaction.from_address else None
    except ValueError:  # pydantic's, or that of half a surrogate pair
        return None


def changes(transaction: Transaction) -> list[Change]:
    """What including it does to the accounts. An amount that is no transfer's is credited to nobody."""
    sender = Change(transaction.from_address, -transaction.amount - cost_wei(transaction), nonces=1)
    if transaction.tx_type == TRANSFER and transaction.to_address is not None:
        return [sender, Change(transaction.to_address, transaction.amount)]
    return [sender]
