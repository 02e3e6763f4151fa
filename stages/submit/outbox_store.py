"""Where an outbox keeps its records: what every place must promise, whatever the records say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Place = Path | str
"""Where a record is, for a person who has to look at it: a file, or a key."""

Step = Callable[["Kept | None"], bytes | None]
"""From a job's record, None if there is none, to what shall be kept in its place; None to change nothing."""


@dataclass(frozen=True)
class Kept:
    """One job's record as it is kept."""

    name: str
    place: Place
    content: bytes


class Store(Protocol):
    """Records by job, of which those not yet settled are live; used by several processes at once.

    All but the folder's own raise Transient where the place does not answer: whether a change was made is then not
    known, and has to be read before anything is built on it. The folder's does once it is a fleet's: nothing was made.
    """

    def read(self, job_key: str) -> Kept | None:
        """The job's record, live or settled; None if there is none."""

    def live(self) -> Iterator[Kept]:
        """The records of jobs that are not settled, in the order of their names."""

    def all(self) -> Iterator[Kept]:
        """Every record there is."""

    def change(self, job_key: str, step: Step, *, revive: bool = False) -> None:
        """Put what `step` makes of the job's record in its place, unless another changed it in between.

        It is durable when this returns. `step` may be called again with what another wrote. With `revive`, a record
        that is changed is live from then on, whatever it was. Raises what `step` raises; Transient if a lock that we
        hold is not ours any more.
        """

    def settle(self, job_key: str) -> None:
        """Make the job's record a settled one, if there is a live one. Raises Transient as `change` does."""

    def lock(self, job_key: str) -> AbstractAsyncContextManager[None]:
        """The job's lock, which is waited for, and is let go when its holder dies."""

    def lane_lock(self, lane: str) -> AbstractAsyncContextManager[None]:
        """As `lock`, for a lane."""

    def followers_turn(self) -> AbstractAsyncContextManager[bool]:
        """Whether it is this machine's turn to see who follows the live submissions; never waited for."""


def name_of(key: str) -> str:
    """The name under which something about that job, or that lane, is kept."""
    return hashlib.sha256(key.encode()).hexdigest()
