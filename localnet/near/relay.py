"""A contract that passes calls on, as those of users do that call OffchainVM for somebody."""

from __future__ import annotations

from typing import Any

from localnet.near.contract_state import parsed, text, to_json
from localnet.near.environment import Environment, Promise, panic
from protocols.near.transactions import FunctionCall


class RelayContract:
    """`relay{receiver_id, method, args}` calls `method` of `receiver_id` with its own deposit."""

    def __init__(self) -> None:
        self.state: Any = None

    def call(self, method: str, args: bytes, env: Environment) -> bytes | Promise:
        """Pass the call on. Raises ContractError."""
        if method != "relay":
            raise panic(f"no method {method}")
        document = parsed(args)
        call = FunctionCall(text(document, "method"), to_json(document.get("args")), deposit_yocto=env.deposit_yocto)
        return env.call(text(document, "receiver_id"), call)

    def view(self, method: str, args: bytes) -> bytes:
        """There is nothing to see."""
        raise panic(f"no method {method}")
