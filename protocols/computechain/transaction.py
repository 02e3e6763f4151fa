"""Transactions as the node takes them, and the result that one of them carries.

The hash is over a plain concatenation of the fields; the signature is over the hash itself. Neither names a chain.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from millrace.errors import Permanent
from protocols.computechain.keys import ComputeKey, address_of, verify_signature

TRANSFER = "TRANSFER"
SUBMIT_RESULT = "SUBMIT_RESULT"
GAS = {
    TRANSFER: 21_000,
    "STAKE": 40_000,
    "UNSTAKE": 40_000,
    SUBMIT_RESULT: 80_000,
    "UPDATE_VALIDATOR": 30_000,
    "DELEGATE": 35_000,
    "UNDELEGATE": 35_000,
    "UNJAIL": 50_000,
}
"""What each kind of transaction is charged, whatever limit it names."""

SUBMIT_RESULT_GAS = GAS[SUBMIT_RESULT]


class Transaction(BaseModel):
    """One transaction. `amount` and `fee` are in wei, `gas_price` in wei for a unit of gas."""

    model_config = ConfigDict(frozen=True)

    tx_type: str
    from_address: str
    to_address: str | None = None
    amount: int
    fee: int = 0
    nonce: int
    signature: str = ""
    pub_key: str = ""
    payload: dict[str, Any] = Field(default_factory=dict)
    gas_price: int = 0
    gas_limit: int = 0

    @property
    def digest(self) -> bytes:
        """SHA-256 of what is signed, without the signature. Raises ValueError for text that is not UTF-8."""
        payload = json.dumps(self.payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        numbers = f"{self.amount}{self.fee}{self.nonce}{self.gas_price}{self.gas_limit}"
        text = f"{self.tx_type}{self.from_address}{self.to_address or ''}{numbers}{payload}{self.pub_key}"
        return hashlib.sha256(text.encode()).digest()

    @property
    def hash(self) -> str:
        """The chain's name for the transaction: its digest in hex, known before it is signed."""
        return self.digest.hex()


class ComputeResult(BaseModel):
    """The payload of SUBMIT_RESULT, as the node reads it.

    The node takes a result without proof or signature into its mempool and drops it without a word, so that here
    neither can be missing; "" is allowed for both. Other fields are left out, as the node leaves them out.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: str
    worker_address: str
    result_hash: str
    proof: str
    nonce: int = 0
    signature: str

    def payload(self) -> dict[str, Any]:
        """The six fields, in the order in which the leaf has them."""
        return self.model_dump()

    def leaf(self) -> bytes:
        """SHA-256 over the fields, for the block's compute_root. Raises ValueError for text that is not UTF-8."""
        text = json.dumps(self.payload(), separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).digest()


def submit_result(key: ComputeKey, result: ComputeResult, *, nonce: int, gas_price: int) -> Transaction:
    """SUBMIT_RESULT of `result`, signed by `key`; its fee is all that the node will charge at that `gas_price` (wei).

    Raises Permanent if the result is another worker's: the node would drop it in silence.
    """
    if result.worker_address != key.address:
        raise Permanent(
            f"a result of {result.worker_address} cannot be submitted by {key.address}",
            hint="use the key whose address the job was made for",
        )
    unsigned = Transaction(
        tx_type=SUBMIT_RESULT,
        from_address=key.address,
        amount=0,  # it would be taken and given to nobody
        fee=SUBMIT_RESULT_GAS * gas_price,
        nonce=nonce,
        pub_key=key.public_key,
        payload=result.payload(),
        gas_price=gas_price,
        gas_limit=SUBMIT_RESULT_GAS,
    )
    return unsigned.model_copy(update={"signature": key.sign(unsigned.digest)})


def is_signed(transaction: Transaction) -> bool:
    """Whether the transaction is signed by the key of its sender."""
    prefix = transaction.from_address.partition("1")[0]
    try:
        is_sender = address_of(transaction.pub_key, prefix) == transaction.from_address
        digest = transaction.digest
    except ValueError:
        return False
    return is_sender and verify_signature(transaction.pub_key, digest, transaction.signature)
