"""One JSON-RPC request's configuration object, read the way every method reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from localnet.solana.chain import Chain
from localnet.solana.rpc_error import MIN_CONTEXT_SLOT_NOT_REACHED, RpcError, invalid
from localnet.solana.slots import COMMITMENT_LAG
from localnet.solana.wire import count_of

API_VERSION = "3.1.10"


@dataclass(frozen=True)
class View:
    """The chain as a request wants to see it: a commitment level's newest slot, and the rest of its config."""

    slot: int
    commitment: str
    config: dict[str, Any]

    def with_context(self, value: Any) -> dict[str, Any]:
        """The answer together with the slot it was read at."""
        return {"context": {"apiVersion": API_VERSION, "slot": self.slot}, "value": value}


def view_of(chain: Chain, config: Any, *, commitment_field: str = "commitment", at_least: str = "processed") -> View:
    """Read a config object, or its old form, the bare name of a commitment level.

    Raises RpcError -32602 for an unknown or too low commitment, -32016 if the chain is not yet at the
    `minContextSlot` asked for.
    """
    fields = {} if config is None else {commitment_field: config} if isinstance(config, str) else config
    if not isinstance(fields, dict):
        raise invalid("Invalid params: the configuration must be an object.")
    commitment = fields.get(commitment_field) or "finalized"
    if commitment not in COMMITMENT_LAG:
        known = ", ".join(f"`{name}`" for name in COMMITMENT_LAG)
        raise invalid(f"Invalid params: unknown variant `{commitment}`, expected one of {known}.")
    if COMMITMENT_LAG[commitment] < COMMITMENT_LAG[at_least]:
        raise invalid(f"Method does not support commitment below `{at_least}`")
    slot = chain.slot(commitment)
    wanted = fields.get("minContextSlot")
    if wanted is not None and slot < count_of(wanted):
        raise RpcError(MIN_CONTEXT_SLOT_NOT_REACHED, "Minimum context slot has not been reached", {"contextSlot": slot})
    return View(slot, commitment, fields)


def list_of(values: Any, most: int) -> list[Any]:
    """A list of at most so many inputs; RpcError -32602 otherwise."""
    if not isinstance(values, list):
        raise invalid("Invalid params: invalid type, expected a sequence.")
    if len(values) > most:
        raise invalid(f"Too many inputs provided; max {most}")
    return values
