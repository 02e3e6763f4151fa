"""How far each network has come, told by whoever knows it and read by whoever asks, in small files.

state/progress/looks-<network>.json      its watch: the last look that succeeded, and the last trouble
state/progress/landings-<network>.json   its jobs: the transaction that landed last

They are advice: what cannot be written is logged, and nothing fails for it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from millrace.text import printable
from protocols.ipfs.atomic import write_atomically

_logger = logging.getLogger(__name__)

_LONGEST_TROUBLE = 500
"""Characters; an RPC node's error page may be longer."""


class Looks(BaseModel):
    """What the watch of one network has seen. Times are Unix seconds."""

    model_config = ConfigDict(frozen=True)

    looked_at: float | None = Field(default=None, description="When a look succeeded last")
    head: int | None = Field(default=None, description="Height of the chain then, if it told")
    pending: int = Field(default=0, description="Jobs that the chain wanted done then")
    given_up: int = Field(default=0, description="Of these, jobs that are left for a person")
    trouble: str = Field(default="", description="Why the newest look did not succeed; empty if it did")
    trouble_at: float | None = None
    full_at: float | None = Field(default=None, description="When there was no room for more last, and no look for it")


class Landing(BaseModel):
    """A transaction of ours that the chain has taken. The time is in Unix seconds, and ours."""

    model_config = ConfigDict(frozen=True)

    job_key: str
    transaction_id: str
    height: int | None
    seen_at: float


M = TypeVar("M", bound=BaseModel)


class Progress:
    """The files of all networks, in `data_dir`. Reading one that is missing or damaged gives None."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "state" / "progress"

    def looked(self, network: str, *, now: float, head: int | None, pending: int, given_up: int) -> None:
        """A look at the network succeeded."""
        self._write("looks", network, Looks(looked_at=now, head=head, pending=pending, given_up=given_up))

    def full(self, network: str, *, now: float) -> None:
        """There is no room for more, and so no look."""
        known = self.looks(network) or Looks()
        self._write("looks", network, known.model_copy(update={"full_at": now, "trouble": ""}))

    def could_not_look(self, network: str, *, now: float, trouble: str) -> None:
        """A look did not succeed, for this reason; it must hold no secret."""
        known = self.looks(network) or Looks()
        told = printable(trouble, _LONGEST_TROUBLE)
        self._write("looks", network, known.model_copy(update={"trouble": told, "trouble_at": now}))

    def landed(self, network: str, landing: Landing) -> None:
        """A transaction of ours was seen on the chain."""
        self._write("landings", network, landing)

    def looks(self, network: str) -> Looks | None:
        """What the network's watch has seen; None if it has said nothing yet."""
        return self._read("looks", network, Looks)

    def landing(self, network: str) -> Landing | None:
        """The network's transaction that landed last; None if none is known."""
        return self._read("landings", network, Landing)

    def _write(self, what: str, network: str, fact: BaseModel) -> None:
        try:
            write_atomically(self._path(what, network), [fact.model_dump_json().encode()])
        except OSError as error:
            _logger.warning("the progress of %s cannot be noted: %s", network, error)

    def _read(self, what: str, network: str, kind: type[M]) -> M | None:
        try:
            return kind.model_validate_json(self._path(what, network).read_bytes())
        except (OSError, ValidationError):
            return None

    def _path(self, what: str, network: str) -> Path:
        return self._folder / f"{what}-{network}.json"
