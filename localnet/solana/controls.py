"""What tests may do to the chain, for tests that run in another process: `POST /_localnet`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from localnet.solana.accounts import StoredAccount
from localnet.solana.chain import Chain

CONTROL_PATH = "/_localnet"
ACTIONS = (
    "airdrop",
    "advance",
    "freeze",
    "thaw",
    "drop_next",
    "hold_next",
    "fail",
    "clear_faults",
    "set_priority_fee",
    "landed",
    "slot",
)
"""The methods of `Chain` that can be called by name; their parameters are the other members of the document."""


def control(chain: Chain, document: Any) -> tuple[int, dict[str, Any]]:
    """Do `document["action"]`; returns an HTTP status and the answer, whose `result` is the method's."""
    if not isinstance(document, dict):
        return 400, {"error": "send an object with an action"}
    parameters = {name: value for name, value in document.items() if name != "action"}
    action = _actions(chain).get(str(document.get("action")))
    if action is None:
        return 400, {"error": f"no such action; known: {', '.join(sorted(_actions(chain)))}"}
    try:
        return 200, {"result": action(**parameters)}
    except (TypeError, ValueError, KeyError) as error:
        return 400, {"error": f"{document['action']}: {error}"}


def _actions(chain: Chain) -> dict[str, Callable[..., Any]]:
    named: dict[str, Callable[..., Any]] = {name: getattr(chain, name) for name in ACTIONS}
    return {**named, "calls": lambda: dict(chain.calls), "seed_accounts": lambda accounts: _seed(chain, accounts)}


def _seed(chain: Chain, accounts: list[dict[str, Any]]) -> int:
    """Accounts as {address, owner, lamports, content (base64)}."""
    return chain.seed_accounts(
        (
            each["address"],
            StoredAccount(each["lamports"], each["owner"], base64.b64decode(each["content"], validate=True)),
        )
        for each in accounts
    )
