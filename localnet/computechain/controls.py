"""The actions of `POST /_localnet` at the local ComputeChain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from localnet.computechain.chain import Chain

ACTIONS = (
    "height",
    "landed",
    "make_block",
    "freeze",
    "thaw",
    "set_block_seconds",
    "fund",
    "transfer",
    "take_nonce",
    "restart",
    "rollback",
    "reject_next",
    "drop_next",
    "stick_receipts",
    "forge_receipt",
    "delay_storage",
    "silence_events",
    "fail",
    "clear_faults",
)
"""The methods of `Chain` that can be called by name; their parameters are the other members of the document."""


def actions(chain: Chain) -> dict[str, Callable[..., Any]]:
    """What may be done to the chain, by name."""
    named: dict[str, Callable[..., Any]] = {name: getattr(chain, name) for name in ACTIONS}
    return {**named, "calls": lambda: dict(chain.calls), "served": lambda: dict(chain.faults.served)}
