"""How this machine does, from what its processes have written down: nothing is asked of a chain or of Prefect."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deployments.enlisted import Checked, LivingWorker, Workers
from deployments.receipt_totals import ReceiptTotals, Totals
from flows.draining import at_work
from flows.lease import Lease
from flows.networks import Served, sources
from millrace.errors import MillraceError
from millrace.network import SignedSubmission
from millrace.redaction import redact
from millrace.settings import Settings
from millrace.text import printable
from stages.drain import DrainMark
from stages.execute.sandbox.containers.daemon import find_daemon
from stages.progress import Looks, Progress
from stages.submit.outbox_opening import open_outbox

_POLLS = 3
"""How many poll intervals may pass without a successful look, at least."""

_WORKER_PATIENCE_SECONDS = 120.0
"""How long a warm worker may hear nothing from the Prefect server; starting takes it some seconds."""

_WARM = "warm"


@dataclass(frozen=True)
class LastLanding:
    """A network's newest transaction of ours that is known to have landed; the time is in Unix seconds."""

    transaction_id: str
    height: int | None
    seen_at: float


@dataclass(frozen=True)
class NetworkState:
    """What is known of one network; `looks` is None if its watch has said nothing yet."""

    name: str
    served: bool
    watched: bool
    """Whether it is looked at: not if somebody else hands its jobs out."""
    looks: Looks | None
    landing: LastLanding | None
    open_submissions: int


@dataclass(frozen=True)
class Snapshot:
    """Everything that `/health` and `/metrics` tell, at `now`, in Unix seconds."""

    now: float
    networks: tuple[NetworkState, ...]
    workers: tuple[LivingWorker, ...]
    running: tuple[Lease, ...]
    totals: Totals
    damaged_submissions: int
    draining_since: float | None
    free_bytes: int
    cached_modules: tuple[int, int]
    """Compiled WASM modules in the cache, and their bytes."""
    engine: Checked | None = None
    """The Docker daemon as it was seen last; None if none is needed here, or none was looked for yet."""
    reasons: tuple[str, ...] = ()
    """Why it is not well; empty if it is."""

    def document(self) -> dict[str, Any]:
        """The body of `/health`."""
        return {
            "status": "ill" if self.reasons else "ok",
            "reasons": list(self.reasons),
            "time": _time(self.now),
            "draining": {"since": _time(self.draining_since)} if self.draining_since is not None else None,
            "networks": {each.name: _network(each, self.now) for each in self.networks},
            "workers": [_worker(each, self.now) for each in self.workers],
            "engine": _check(self.engine) if self.engine is not None else None,
            "flow_runs_at_work": len(self.running),
            "damaged_submissions": self.damaged_submissions,
            "disk_free_bytes": self.free_bytes,
        }


class Examiner:
    """Looks at the data folder of these settings again and again.

    `pools` are those for which a worker is missed on this machine; where the watches run, in the pool `cpu`, their
    looks are missed too, unless the settings say otherwise.
    """

    def __init__(self, settings: Settings, pools: Sequence[str]) -> None:
        self._settings = settings
        self._pools = tuple(pools)
        self._receipts = ReceiptTotals(settings.data_dir / "receipts" / "receipts.jsonl")
        self._engine: Checked | None = None

    def try_engine(self, now: float) -> None:
        """See whether the Docker daemon answers, if this machine needs one; it may take a minute to say nothing."""
        settings, builds = self._settings, sources()["offchainvm"]
        compiles = builds.configured(settings) and bool(settings.compile.image) and builds.pool in self._pools
        if not compiles and settings.sandbox.backend != "docker":
            return
        try:
            daemon = find_daemon(settings.sandbox)
            self._engine = Checked(name="engine", level="ok", text=f"Docker {daemon.version}, {daemon.runtime}", at=now)
        except MillraceError as error:
            told = printable(redact(error.message), 300)
            self._engine = Checked(name="engine", level="missing", text=told, at=now)

    def look(self, now: float) -> Snapshot:
        """The state of things. OSError if the data folder cannot be read."""
        settings = self._settings
        totals = self._receipts.refresh()
        unsettled, damaged, trouble = _submissions(settings)
        states = tuple(self._network(name, unsettled, totals) for name in sources())
        workers = tuple(Workers(settings.data_dir).living())
        draining = DrainMark(settings.data_dir).since()
        reasons = [*self._worker_reasons(workers, now)]
        if draining is None and settings.health.looks and "cpu" in self._pools:
            reasons += [why for state in states for why in self._look_reasons(state, now)]
        if self._engine is not None and self._engine.level == "missing":
            reasons.append(f"engine: {self._engine.text}")
        if damaged:
            reasons.append(f"outbox: {damaged} files cannot be read: their jobs' fate is not known")
        if trouble:
            reasons.append(f"outbox: {trouble}")
        return Snapshot(
            now=now,
            networks=states,
            workers=workers,
            running=tuple(at_work(settings)),
            totals=totals,
            damaged_submissions=damaged,
            draining_since=draining,
            free_bytes=shutil.disk_usage(settings.data_dir).free if settings.data_dir.is_dir() else 0,
            cached_modules=self._cached_modules(),
            engine=self._engine,
            reasons=tuple(reasons),
        )

    def _network(self, name: str, unsettled: Sequence[SignedSubmission], totals: Totals) -> NetworkState:
        progress = Progress(self._settings.data_dir)
        source = sources()[name]
        served = source.configured(self._settings)
        return NetworkState(
            name=name,
            served=served,
            watched=served and not (isinstance(source, Served) and source.handed_out(self._settings)),
            looks=progress.looks(name),
            landing=_last_landing(progress, totals, name),
            open_submissions=sum(submission.network == name for submission in unsettled),
        )

    def _look_reasons(self, state: NetworkState, now: float) -> list[str]:
        if not state.watched:
            return []
        looks = state.looks or Looks()
        why = f": {looks.trouble}" if looks.trouble else ""
        well_at = max((at for at in (looks.looked_at, looks.full_at) if at is not None), default=None)
        if well_at is None:
            return [f"{state.name}: no look has succeeded yet{why}"]
        patience = max(self._settings.health.patience_seconds, _POLLS * self._settings.poll_interval_seconds)
        if now - well_at > patience:
            return [f"{state.name}: no look has succeeded for {now - well_at:.0f} s{why}"]
        return []

    def _worker_reasons(self, workers: Sequence[LivingWorker], now: float) -> list[str]:
        alive = {worker.told.pool for worker in workers}
        reasons = [f"worker: none of the pool {pool} lives" for pool in self._pools if pool not in alive]
        for worker in workers:
            pool, silent = worker.told.pool, now - worker.looked_at
            if worker.told.kind == _WARM and silent > _WORKER_PATIENCE_SECONDS:
                reasons.append(f"worker: that of the pool {pool} has not heard from the server for {silent:.0f} s")
            reasons += [
                f"worker of the pool {pool}: {check.name}: {check.text}"
                for check in worker.told.checks
                if check.level == "missing"
            ]
        return reasons

    def _cached_modules(self) -> tuple[int, int]:
        sizes = [path.stat().st_size for path in (self._settings.data_dir / "wasm").glob("*.cwasm")]
        return len(sizes), sum(sizes)


def _last_landing(progress: Progress, totals: Totals, name: str) -> LastLanding | None:
    """The newest one: as a job's flow run noted it, or as a receipt says, which is there for ever."""
    found = []
    if noted := progress.landing(name):
        found.append(LastLanding(noted.transaction_id, noted.height, noted.seen_at))
    if receipt := totals.last.get(name):
        found.append(LastLanding(receipt.transaction_id, receipt.height, receipt.settled_at.timestamp()))
    if len(found) == 2 and found[0].transaction_id == found[1].transaction_id:
        return found[0]
    return max(found, key=lambda landing: landing.seen_at, default=None)


def _network(state: NetworkState, now: float) -> dict[str, Any]:
    looks, landing = state.looks or Looks(), state.landing
    return {
        "served": state.served,
        "last_look_seconds_ago": _ago(now, looks.looked_at),
        "head": looks.head,
        "pending_jobs": looks.pending,
        "given_up_jobs": looks.given_up,
        "trouble": looks.trouble or None,
        "trouble_seconds_ago": _ago(now, looks.trouble_at) if looks.trouble else None,
        "open_submissions": state.open_submissions,
        "last_landed": landing
        and {
            "transaction_id": landing.transaction_id,
            "height": landing.height,
            "seconds_ago": _ago(now, landing.seen_at),
        },
    }


def _worker(worker: LivingWorker, now: float) -> dict[str, Any]:
    told = worker.told
    return {
        "pool": told.pool,
        "kind": told.kind,
        "pid": told.pid,
        "started": _time(told.began_at),
        "last_look_seconds_ago": _ago(now, worker.looked_at) if told.kind == _WARM else None,
        "checks": [_check(check) for check in told.checks],
    }


def _check(check: Checked) -> dict[str, Any]:
    return {"name": check.name, "level": check.level, "text": check.text, "at": _time(check.at)}


def _ago(now: float, then: float | None) -> float | None:
    return None if then is None else round(max(0.0, now - then), 1)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _submissions(settings: Settings) -> tuple[list[SignedSubmission], int, str]:
    """The open submissions, how many records cannot be read, and why it cannot be told if it cannot."""
    if settings.fleet_url is None and not (settings.data_dir / "outbox").is_dir():
        return [], 0, ""
    try:
        with open_outbox(settings) as outbox:
            return outbox.unsettled(), len(outbox.damaged_live()), ""
    except MillraceError as error:
        return [], 0, printable(redact(error.message), 300)
