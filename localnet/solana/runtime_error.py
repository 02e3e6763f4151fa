"""A transaction's error as the RPC tells it: as JSON, and in the runtime's words."""

from __future__ import annotations

import re
from typing import Any

_TRANSACTION = {
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "AlreadyProcessed": "This transaction has already been processed",
    "BlockhashNotFound": "Blockhash not found",
    "InsufficientFundsForFee": "Insufficient funds for fee",
    "InvalidAccountForFee": "This account may not be used to pay transaction fees",
    "InvalidProgramForExecution": "This program may not be used for executing instructions",
    "ProgramAccountNotFound": "Attempt to load a program that does not exist",
    "SanitizeFailure": "Transaction failed to sanitize accounts offsets correctly",
    "SignatureFailure": "Transaction did not pass signature verification",
}
_INSTRUCTION = {
    "ComputationalBudgetExceeded": "Computational budget exceeded",
    "InsufficientFunds": "insufficient funds for instruction",
    "InvalidAccountData": "invalid account data for instruction",
    "InvalidArgument": "invalid program argument",
    "MissingAccount": "An account required by the instruction is missing",
    "MissingRequiredSignature": "missing required signature for instruction",
    "PrivilegeEscalation": "Cross-program invocation with unauthorized signer or writable account",
    "ProgramFailedToComplete": "Program failed to complete",
}


def words(error: Any) -> str:
    """One sentence for a transaction error in its JSON form."""
    if isinstance(error, str):
        return _TRANSACTION.get(error, _spaced(error))
    ((kind, detail),) = error.items()
    if kind == "InstructionError":
        index, cause = detail
        return f"Error processing Instruction {index}: {_instruction_words(cause)}"
    if kind == "InsufficientFundsForRent":
        return f"Transaction results in an account ({detail['account_index']}) with insufficient funds for rent"
    return f"{_spaced(kind)}: {detail}"


def _instruction_words(cause: Any) -> str:
    if isinstance(cause, dict) and "Custom" in cause:
        return f"custom program error: {cause['Custom']:#x}"
    return _INSTRUCTION.get(cause, _spaced(cause)) if isinstance(cause, str) else str(cause)


def _spaced(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()
