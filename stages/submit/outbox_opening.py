"""Open the outbox that the settings ask for: this machine's folder, or what the fleet shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from millrace.errors import Permanent
from millrace.settings import Settings
from stages.locks.server import connect
from stages.submit.outbox import Outbox, has_all_of
from stages.submit.outbox_fleet import FleetStore
from stages.submit.outbox_folder import FolderStore
from stages.submit.outbox_store import Kept


@contextmanager
def open_outbox(settings: Settings) -> Iterator[Outbox]:
    """The outbox; what this machine has signed before it joined a fleet goes into the fleet's first.

    Raises Permanent if the fleet's Redis makes no sense or refuses us, if two machines have signed for one job before
    they shared an outbox, or if this machine was in a fleet and shall not be any more; OutboxDamaged if that
    cannot be told; Transient if the Redis does not answer.
    """
    folder = settings.data_dir / "outbox"
    if settings.fleet_url is None:
        own = FolderStore(folder)
        if own.joined.exists():
            raise Permanent(
                "this machine's outbox is in a fleet, and MILLRACE_FLEET_URL is not set",
                hint=f"set it again; or, once the fleet has no open submission, remove {own.joined}",
            )
        yield Outbox(own)
        return
    client = connect(settings.fleet_url.get_secret_value())
    try:
        fleet = FleetStore(client)
        _join(FolderStore(folder), fleet)
        yield Outbox(fleet)
    finally:
        client.close()


def _join(own: FolderStore, fleet: FleetStore) -> None:
    """Move every record of this machine to the fleet's. Each is there before it is not here any more."""

    def compare(kept: Kept, in_fleet: bytes) -> None:
        if in_fleet != kept.content and not has_all_of(kept, in_fleet):
            raise Permanent(
                f"the fleet's outbox has another submission of the job in {kept.place}",
                hint="when the chain has ended that job, move the file away"
                if own.joined.exists()
                else "unset MILLRACE_FLEET_URL, let `millrace drain` finish what is signed here, and join then",
            )

    def check(kept: Kept) -> None:
        # A damaged one goes over as it is: it bars its own job there too, and no other.
        if (in_fleet := fleet.like(kept)) is not None:
            compare(kept, in_fleet)

    def take(kept: Kept, live: bool) -> None:
        in_fleet = fleet.adopt(kept, live=live)
        if live:
            compare(kept, in_fleet)  # once more: another machine may have been faster

    own.hand_over(check, take)
