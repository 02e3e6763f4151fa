"""An access key as a lane: which nonce comes next, and which transaction can land no more.

Each key has a nonce of its own, so that an account with several keys can have as many transactions under way that do
not wait for each other. Within a lane, one is signed at a time.
"""

from __future__ import annotations

from collections.abc import Iterable

VALIDITY_BLOCKS = 86_400
"""How many blocks after the one it names a transaction can land: nearcore's transaction_validity_period."""


def next_nonce(chain_nonce: int, unsettled: Iterable[int] = ()) -> int:
    """The nonce to sign with.

    Arguments: `chain_nonce` is the key's in the newest block, `unsettled` those of transactions that may have yet to
    land. Gaps are allowed, but a transaction cannot land any more once one with a larger nonce has.
    """
    return max((chain_nonce, *unsettled)) + 1


def cannot_land(nonce: int, block_height: int, *, final_nonce: int, final_height: int) -> bool:
    """Whether a transaction can land no more, if it has not yet: look it up once more after this is true.

    Arguments: `nonce` is the transaction's and `block_height` that of the block it names; `final_nonce` is the key's
    nonce in the final block at `final_height`, for only what is final cannot be taken back.
    """
    return final_nonce >= nonce or final_height - block_height > VALIDITY_BLOCKS
