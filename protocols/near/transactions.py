"""NEAR transactions (version 0, function calls only): borsh, hash, signature.

Borsh is little-endian; a string and a vector are a u32 of their length, then their content (borsh.io, nomicon
RuntimeSpec/Transactions). Byte-identical to `@near-js/transactions`, see tests/vectors/near_transactions.json.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from protocols.near.keys import NearKey, to_base58, verify_signature

TERAGAS = 10**12
MOST_GAS = 300 * TERAGAS
"""All that one transaction may attach."""

_ED25519 = 0
_FUNCTION_CALL = 2
_HASH_BYTES = 32
_SIGNATURE_BYTES = 64


class MalformedTransaction(ValueError):
    """Bytes that are no transaction of the kind read here."""


@dataclass(frozen=True)
class FunctionCall:
    """One call of a contract's method: `args` as it is passed, `gas` in gas units, `deposit_yocto` in yoctoNEAR."""

    method: str
    args: bytes
    gas: int = MOST_GAS
    deposit_yocto: int = 0


@dataclass(frozen=True)
class Transaction:
    """Calls to one receiver, to be carried out together or not at all; `block_hash` ties it to a recent block."""

    signer_id: str
    public_key: bytes
    nonce: int
    receiver_id: str
    block_hash: bytes
    calls: tuple[FunctionCall, ...]

    def to_bytes(self) -> bytes:
        """In borsh. Raises OverflowError for a number that is too large."""
        return b"".join(
            (
                _vector(self.signer_id.encode()),
                bytes([_ED25519]),
                self.public_key,
                self.nonce.to_bytes(8, "little"),
                _vector(self.receiver_id.encode()),
                self.block_hash,
                len(self.calls).to_bytes(4, "little"),
                *map(_call_bytes, self.calls),
            )
        )

    @property
    def hash(self) -> str:
        """In base58: the chain's name for the transaction, known before it is sent."""
        return to_base58(self._digest())

    def signed_by(self, key: NearKey) -> SignedTransaction:
        """With the signature of `key`, which must be that of `public_key`; always the same bytes."""
        if key.public_bytes != self.public_key:
            raise ValueError("the key is not the one that the transaction names")
        return SignedTransaction(self, key.sign(self._digest()))

    def _digest(self) -> bytes:
        return hashlib.sha256(self.to_bytes()).digest()


@dataclass(frozen=True)
class SignedTransaction:
    """A transaction and its signature."""

    transaction: Transaction
    signature: bytes

    @property
    def hash(self) -> str:
        """The transaction's."""
        return self.transaction.hash

    def to_bytes(self) -> bytes:
        """In borsh."""
        return self.transaction.to_bytes() + bytes([_ED25519]) + self.signature

    def to_base64(self) -> str:
        """In borsh and base64, as the RPC takes it."""
        return base64.b64encode(self.to_bytes()).decode("ascii")

    @property
    def verifies(self) -> bool:
        """Whether the signature is that of the public key which the transaction names."""
        return verify_signature(self.transaction.public_key, self.transaction._digest(), self.signature)

    @classmethod
    def from_bytes(cls, content: bytes) -> SignedTransaction:
        """Read one. Raises MalformedTransaction, also for keys other than ed25519 and actions other than calls."""
        reader = _Reader(content)
        signer_id = reader.text()
        reader.expect(_ED25519, "public key")
        public_key = reader.take(_HASH_BYTES)
        nonce = reader.number(8)
        receiver_id = reader.text()
        block_hash = reader.take(_HASH_BYTES)
        calls = tuple(reader.call() for _ in range(reader.count()))
        reader.expect(_ED25519, "signature")
        signature = reader.take(_SIGNATURE_BYTES)
        reader.end()
        return cls(Transaction(signer_id, public_key, nonce, receiver_id, block_hash, calls), signature)

    @classmethod
    def from_base64(cls, text: str) -> SignedTransaction:
        """As `from_bytes`, of base64."""
        try:
            return cls.from_bytes(base64.b64decode(text, validate=True))
        except ValueError as error:
            raise MalformedTransaction(str(error)) from None


def _vector(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little") + content


def _call_bytes(call: FunctionCall) -> bytes:
    return b"".join(
        (
            bytes([_FUNCTION_CALL]),
            _vector(call.method.encode()),
            _vector(call.args),
            call.gas.to_bytes(8, "little"),
            call.deposit_yocto.to_bytes(16, "little"),
        )
    )


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._content[self._at : self._at + count]
        if len(piece) != count:
            raise MalformedTransaction("it ends too early")
        self._at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def count(self) -> int:
        count = self.number(4)
        if count > len(self._content):
            raise MalformedTransaction("it announces more than there is")
        return count

    def text(self) -> str:
        try:
            return self.take(self.count()).decode()
        except UnicodeDecodeError:
            raise MalformedTransaction("a name is not UTF-8") from None

    def expect(self, kind: int, what: str) -> None:
        found = self.number(1)
        if found != kind:
            raise MalformedTransaction(f"a {what} of the kind {found} is not read here")

    def call(self) -> FunctionCall:
        self.expect(_FUNCTION_CALL, "action")
        return FunctionCall(self.text(), self.take(self.count()), self.number(8), self.number(16))

    def end(self) -> None:
        if self._at != len(self._content):
            raise MalformedTransaction("it goes on after its end")
