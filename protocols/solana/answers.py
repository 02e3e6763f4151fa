"""The parts of Solana's JSON-RPC answers that we read."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from solders.pubkey import Pubkey

T = TypeVar("T")

U64 = Annotated[int, Field(ge=0, lt=1 << 64)]
"""Every amount, slot and height on the chain; nodes write numbers of any length."""


def _hash(text: str) -> str:
    return str(Pubkey.from_string(text))  # a hash has an address's form


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, extra="ignore")


class Context(_Answer):
    """Which slot an answer is about."""

    slot: U64


class AtSlot(_Answer, Generic[T]):
    """An answer together with the slot it is about."""

    context: Context
    value: T


class Account(_Answer):
    """An account, its content in base64."""

    lamports: U64
    owner: str
    data: tuple[str, Literal["base64"]]

    def content(self) -> bytes:
        """The account's bytes; ValueError if they are not base64."""
        try:
            return base64.b64decode(self.data[0], validate=True)
        except binascii.Error as error:
            raise ValueError(str(error)) from None

    def program(self) -> Pubkey:
        """The program that owns the account; ValueError if it is not an address."""
        return Pubkey.from_string(self.owner)


class LatestBlockhash(_Answer):
    """A blockhash and the last block height at which a transaction with it can land."""

    blockhash: Annotated[str, AfterValidator(_hash)]
    last_valid_block_height: U64


class Simulation(_Answer):
    """What a transaction would do."""

    err: Any = None
    logs: list[str] | None = None
    units_consumed: U64 | None = None


class PriorityFee(_Answer):
    """What a recent block took, in micro-lamports per compute unit."""

    prioritization_fee: U64


class SignatureStatus(_Answer):
    """Where a transaction is; `err` is None if it succeeded."""

    slot: U64
    err: Any = None
    confirmation_status: Literal["processed", "confirmed", "finalized"] | None = None


class EpochInfo(_Answer):
    """The head of the chain: a slot, and how many blocks there are up to it."""

    absolute_slot: U64
    block_height: U64


class TransactionMeta(_Answer):
    """What a transaction cost, in lamports."""

    fee: U64
    err: Any = None


class ConfirmedTransaction(_Answer):
    """A transaction in a block."""

    slot: U64
    meta: TransactionMeta | None = None
