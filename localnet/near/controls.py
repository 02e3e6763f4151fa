"""The actions of `POST /_localnet` at the local NEAR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from localnet.near.chain import Chain

ACTIONS = (
    "height",
    "make_block",
    "freeze",
    "thaw",
    "set_block_seconds",
    "skip_heights",
    "fund",
    "balance",
    "add_key",
    "delete_key",
    "request",
    "cancel",
    "pending",
    "sent_by",
    "result_of",
    "pause",
    "add_project",
    "refuse_resumes",
    "reject_next",
    "drop_next",
    "take_nonce",
    "rollback",
    "restart",
    "track_no_receipts",
    "fail",
    "clear_faults",
)
"""The methods of `Chain` that can be called by name; their parameters are the other members of the document."""


def actions(chain: Chain) -> dict[str, Callable[..., Any]]:
    """What may be done to the chain, by name."""
    named: dict[str, Callable[..., Any]] = {name: getattr(chain, name) for name in ACTIONS}
    return {**named, "calls": lambda: dict(chain.calls), "served": lambda: dict(chain.faults.served)}
