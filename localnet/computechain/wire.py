"""Transactions and compute results as the node reads them: leniently, and hashed as it does.

Our own classes in `protocols.computechain` refuse what must not be sent. The node takes much of it, and what then
becomes of it has to be tried out too.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class NodeTransaction(BaseModel):
    """One transaction: numeric strings count as numbers, and unknown fields are ignored."""

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

    @cached_property
    def digest(self) -> bytes:
        """What is signed: SHA-256 over the fields in the node's order, without separators.

        Raises UnicodeEncodeError for half a surrogate pair, which JSON can spell and UTF-8 cannot.
        """
        payload = json.dumps(self.payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        numbers = f"{self.amount}{self.fee}{self.nonce}{self.gas_price}{self.gas_limit}"
        preimage = f"{self.tx_type}{self.from_address}{self.to_address or ''}{numbers}{payload}{self.pub_key}"
        return hashlib.sha256(preimage.encode()).digest()

    @cached_property
    def hash(self) -> str:
        """The digest in lower-case hex, by which everybody knows the transaction."""
        return self.digest.hex()


class NodeComputeResult(BaseModel):
    """The payload of a SUBMIT_RESULT; keys that it does not know are left out of the leaf."""

    task_id: str
    worker_address: str
    result_hash: str
    proof: str
    nonce: int = 0
    signature: str

    def leaf(self) -> bytes:
        """The result's leaf under the block's compute_root; here, unlike in the hash, text stays UTF-8."""
        text = json.dumps(self.model_dump(), separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).digest()
