"""The events that a node streams: `data: {JSON}` lines between comments. Hints, and nothing more."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_DATA = b"data:"


class Event(BaseModel):
    """A node says that a transaction is in a block, or that it gave one up."""

    model_config = ConfigDict(frozen=True)

    type: Literal["tx_confirmed", "tx_failed"]
    tx_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    block_height: int | None = Field(default=None, ge=0, lt=1 << 63)
    error: str | None = None


def event_in(line: bytes) -> Event | None:
    """The event that a line of the stream holds; None for a comment, or anything that is no event known here."""
    if not line.startswith(_DATA):
        return None
    try:
        return Event.model_validate_json(line[len(_DATA) :])
    except ValidationError:
        return None
