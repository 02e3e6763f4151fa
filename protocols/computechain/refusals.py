"""Why a node does not take a transaction, in its own words, as errors of ours."""

from __future__ import annotations

from millrace.errors import Declined, DeclineReason, MillraceError, Permanent, Transient, UnknownOutcome
from millrace.text import printable


class Refused(Permanent):
    """The node refuses the transaction, and would refuse it again."""


class LookFirst(UnknownOutcome):
    """The nonce has been used: by this very transaction, or by another. The chain knows which."""


TAKEN_ALREADY = "already_in_pool"

_BUSY = ("mempool_full", "sender_limit_exceeded", "queued_limit_exceeded")
_HINTS = {
    "gas_price": "MILLRACE_COMPUTECHAIN__GAS_PRICE is below the network's minimum; 0 takes the minimum",
    "gas_limit": "a defect of Millrace, please report it",
    "fee": "a defect of Millrace, please report it",
    "unknown_tx_type": "is this node of the network that the worker is meant for?",
    "missing_sig_or_key": "a defect of Millrace, please report it",
    "pub_key_mismatch": "does the key belong to the address? `millrace keys computechain show <name>`",
    "invalid_key_format": "does the key belong to the address? `millrace keys computechain show <name>`",
    "invalid_signature": "does the key belong to the address? `millrace keys computechain show <name>`",
    "crypto_error": "does the key belong to the address? `millrace keys computechain show <name>`",
}


def refusal(words: str) -> MillraceError:
    """The error for the node's `words` in an answer with the status `rejected`."""
    told = f"the node refuses the transaction: {printable(words, 300)}"
    first = words.replace(":", " ").split(" ", 1)[0]
    if first in _BUSY:
        return Transient(told)
    if first == "nonce_too_low":
        return LookFirst(told, hint="the chain is asked which transaction used the nonce")
    if first == "insufficient_balance":
        hint = "send CPC to the worker's address: `millrace keys computechain list` shows it"
        return Declined(told, reason=DeclineReason.too_poor, hint=hint)
    return Refused(told, hint=_HINTS.get(first, "the reason says what to change"))
