"""The actions of `POST /_localnet` at the local Solana."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from localnet.solana.accounts import StoredAccount
from localnet.solana.chain import Chain

ACTIONS = (
    "airdrop",
    "advance",
    "freeze",
    "thaw",
    "drop_next",
    "hold_next",
    "rollback",
    "fail",
    "clear_faults",
    "set_priority_fee",
    "landed",
    "slot",
)
"""The methods of `Chain` that can be called by name; their parameters are the other members of the document."""


def actions(chain: Chain) -> dict[str, Callable[..., Any]]:
    """What may be done to the chain, by name."""
    named: dict[str, Callable[..., Any]] = {name: getattr(chain, name) for name in ACTIONS}
    return {
        **named,
        "calls": lambda: dict(chain.calls),
        "served": lambda: dict(chain.faults.served),
        "seed_accounts": lambda accounts: _seed(chain, accounts),
    }


def _seed(chain: Chain, accounts: list[dict[str, Any]]) -> int:
    """Accounts as {address, owner, lamports, content (base64)}."""
    return chain.seed_accounts(
        (
            each["address"],
            StoredAccount(each["lamports"], each["owner"], base64.b64decode(each["content"], validate=True)),
        )
        for each in accounts
    )
