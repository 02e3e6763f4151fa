"""The actions of `POST /_localnet` at the local coordinator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from localnet.coordinator.board import Board

ACTIONS = (
    "create_task",
    "create_execution",
    "push",
    "reports",
    "heartbeats",
    "job_states",
    "queue_lengths",
    "held_locks",
    "put_wasm",
    "damage_wasm",
    "deactivate_tokens",
    "require_sessions",
    "fail",
    "clear_faults",
)
"""The methods of `Board` that can be called by name; their parameters are the other members of the document."""


def actions(board: Board) -> dict[str, Callable[..., Any]]:
    """What may be done to the coordinator, by name."""
    named: dict[str, Callable[..., Any]] = {name: getattr(board, name) for name in ACTIONS}
    return {**named, "calls": lambda: dict(board.calls)}
