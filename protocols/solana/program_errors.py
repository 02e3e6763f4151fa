"""What the chain's refusals mean, for a person and for the worker."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from millrace.text import printable

_LONGEST_WORDS = 300


class Refusal(StrEnum):
    """What a refusal means for the worker. None of them is worth a blind retry."""

    closed = "closed"  # the job ended otherwise: read the account, it says how
    our_fault = "our_fault"  # what we sent cannot be accepted
    wrong_account = "wrong_account"  # the address is not that of a job of this program
    too_poor = "too_poor"  # the fee payer cannot pay
    stale = "stale"  # the blockhash is unknown to this node: too old, or not seen yet
    repeated = "repeated"  # this very transaction is on the chain already
    other = "other"


@dataclass(frozen=True)
class ProgramError:
    """One error code of the job program, or one of Anchor's that it raises."""

    code: int
    name: str
    meaning: str
    refusal: Refusal


PROGRAM_ERRORS = {
    error.code: error
    for error in (
        ProgramError(2006, "ConstraintSeeds", "the address is not that of this job", Refusal.wrong_account),
        ProgramError(3004, "AccountDidNotSerialize", "title and CIDs do not fit the account", Refusal.our_fault),
        ProgramError(3007, "AccountOwnedByWrongProgram", "the account is another program's", Refusal.wrong_account),
        ProgramError(3012, "AccountNotInitialized", "there is no job at that address", Refusal.wrong_account),
        ProgramError(6000, "InvalidTitle", "the title is empty or too long", Refusal.our_fault),
        ProgramError(6001, "InvalidCID", "the CID is empty or over 100 bytes", Refusal.our_fault),
        ProgramError(6002, "InvalidCost", "the cost is zero", Refusal.our_fault),
        ProgramError(6003, "JobAlreadyCompleted", "the job was completed already", Refusal.closed),
        ProgramError(6004, "JobCancelled", "its owner cancelled the job", Refusal.closed),
        ProgramError(6005, "JobAlreadyCancelled", "its owner cancelled the job already", Refusal.closed),
        ProgramError(6006, "InvalidStatusTransition", "the job's state does not allow it", Refusal.closed),
        ProgramError(6007, "AlreadyPaid", "the job is marked as paid already", Refusal.other),
        ProgramError(6008, "Unauthorized", "only the job's owner may do this", Refusal.our_fault),
    )
}

_RUNTIME = {
    "AccountNotFound": ("the fee payer has no balance", Refusal.too_poor),
    "InsufficientFundsForFee": ("the fee payer cannot pay the fee", Refusal.too_poor),
    "InsufficientFundsForRent": ("the fee would leave the payer below the rent-exempt reserve", Refusal.too_poor),
    "InvalidAccountForFee": ("the fee payer's account cannot pay fees", Refusal.too_poor),
    "BlockhashNotFound": ("the node does not know the blockhash", Refusal.stale),
    "AlreadyProcessed": ("the chain has this transaction already", Refusal.repeated),
}


def explain(error: Any) -> tuple[str, Refusal]:
    """A TransactionError as the RPC encodes it, in words that are safe to print, and what it means for the worker."""
    words, refusal = _explain(error)
    return printable(words, _LONGEST_WORDS), refusal


def _explain(error: Any) -> tuple[str, Refusal]:
    match error:
        case str():
            meaning, refusal = _RUNTIME.get(error, ("the runtime refused it", Refusal.other))
            return f"{error}: {meaning}", refusal
        case {"InstructionError": [int(index), {"Custom": int(code)}]}:
            known = PROGRAM_ERRORS.get(code)
            if known is None:
                return f"program error {code} in instruction {index}", Refusal.other
            return f"{known.code} {known.name}: {known.meaning}", known.refusal
        case {"InstructionError": [int(index), cause]}:
            return f"instruction {index} failed: {cause}", Refusal.other
        case {"InsufficientFundsForRent": _}:
            meaning, refusal = _RUNTIME["InsufficientFundsForRent"]
            return f"InsufficientFundsForRent: {meaning}", refusal
    return f"the runtime refused it: {error}", Refusal.other
