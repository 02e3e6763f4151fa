"""Transactions that wait for a block."""

from __future__ import annotations

from localnet.near.receipts import TRANSACTION_GAS, Outcome, Receipt, hash_of
from protocols.near.keys import public_key_text
from protocols.near.transactions import SignedTransaction


class Pool:
    """Transactions in the order in which they came, those of one key by nonce; `to_drop` of them are lost silently."""

    def __init__(self) -> None:
        self._waiting: dict[str, SignedTransaction] = {}
        self.to_drop = 0

    def __contains__(self, transaction_hash: str) -> bool:
        return transaction_hash in self._waiting

    def add(self, signed: SignedTransaction) -> bool:
        """Let it wait, once; False if it is lost."""
        if signed.hash not in self._waiting and self.to_drop > 0:
            self.to_drop -= 1
            return False
        self._waiting.setdefault(signed.hash, signed)
        return True

    def newest_nonce(self, signer_id: str, public_key: bytes) -> int:
        """The largest nonce of a key that waits; 0 if none does."""
        waiting = (each.transaction for each in self._waiting.values())
        return max(
            (each.nonce for each in waiting if (each.signer_id, each.public_key) == (signer_id, public_key)), default=0
        )

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

    def take(self) -> list[SignedTransaction]:
        """All that wait."""
        by_key: dict[tuple[str, bytes], list[SignedTransaction]] = {}
        for signed in self._waiting.values():
            by_key.setdefault(_key_of(signed), []).append(signed)
        for queue in by_key.values():
            queue.sort(key=lambda each: each.transaction.nonce)
        taken = [by_key[_key_of(signed)].pop(0) for signed in self._waiting.values()]
        self._waiting.clear()
        return taken


def _key_of(signed: SignedTransaction) -> tuple[str, bytes]:
    return signed.transaction.signer_id, signed.transaction.public_key


def converted(signed: SignedTransaction, height: int) -> tuple[Outcome, Receipt]:
    """What including a transaction in a block makes: its own outcome, and the receipt that carries its calls."""
    transaction = signed.transaction
    receipt = Receipt(
        receipt_id=hash_of("receipt", signed.hash),
        predecessor_id=transaction.signer_id,
        receiver_id=transaction.receiver_id,
        signer_id=transaction.signer_id,
        signer_public_key=public_key_text(transaction.public_key),
        transaction_hash=signed.hash,
        calls=transaction.calls,
    )
    status = {"SuccessReceiptId": receipt.receipt_id}
    outcome = Outcome(
        signed.hash,
        height,
        transaction.signer_id,
        status,
        receipt_ids=(receipt.receipt_id,),
        gas_burnt=TRANSACTION_GAS,
    )
    return outcome, receipt
