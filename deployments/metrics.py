"""`/metrics`: the machine's state as Prometheus reads it. No label holds a job's text, address or key.

Counters come from the receipts, so they go on where they were after a restart. Money is in the chain's smallest unit,
as a float, which is Prometheus's only number: exact up to 2^53.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from deployments.health import NetworkState, Snapshot
from deployments.receipt_totals import Histogram

CONTENT_TYPE = CONTENT_TYPE_LATEST

_Sample = tuple[Sequence[str], float | None]


def metrics_page(snapshot: Snapshot) -> bytes:
    """The page for this state."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(snapshot))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from _machine(self._snapshot)
        yield from _networks(self._snapshot)
        yield from _workers(self._snapshot)
        if self._snapshot.totals.complete:
            yield from _receipts(self._snapshot)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are those that `collect` gives."""
        return []


def _machine(snapshot: Snapshot) -> Iterator[Metric]:
    modules, module_bytes = snapshot.cached_modules
    yield _gauge("millrace_healthy", "1 if /health answers 200.", [((), not snapshot.reasons)])
    yield _gauge("millrace_draining", "1 while the machine takes nothing new.", [((), _is(snapshot.draining_since))])
    yield _gauge("millrace_disk_free_bytes", "Where the data folder is.", [((), snapshot.free_bytes)])
    yield _gauge("millrace_module_cache_bytes", "Compiled WASM modules that are kept.", [((), module_bytes)])
    yield _gauge("millrace_module_cache_modules", "Compiled WASM modules that are kept.", [((), modules)])
    yield _gauge(
        "millrace_damaged_submissions", "Files of the outbox that cannot be read.", [((), snapshot.damaged_submissions)]
    )
    if snapshot.engine is not None:
        yield _gauge("millrace_engine_ok", "1 if the Docker daemon answers.", [((), snapshot.engine.level == "ok")])
    flows = Counter(lease.flow for lease in snapshot.running)
    yield _gauge(
        "millrace_flow_runs_at_work",
        "Flow runs of jobs and single stages that have a process.",
        [((flow,), count) for flow, count in sorted(flows.items())],
        "flow",
    )


def _networks(snapshot: Snapshot) -> Iterator[Metric]:
    now, served = snapshot.now, [each for each in snapshot.networks if each.served]
    looked = [(each, each.looks) for each in served if each.looks is not None]
    landed = [(each, each.landing) for each in served if each.landing is not None]

    def gauge(name: str, told: str, samples: Iterable[tuple[NetworkState, float | None]]) -> Metric:
        return _gauge(name, told, [((each.name,), value) for each, value in samples], "network")

    yield gauge("millrace_network_served", "Networks of the settings.", [(each, 1) for each in served])
    yield gauge(
        "millrace_last_look_age_seconds",
        "Since the last successful look at the chain.",
        [(each, _age(now, looks.looked_at)) for each, looks in looked],
    )
    yield gauge(
        "millrace_look_failing",
        "1 if the newest look did not succeed.",
        [(each, bool(looks.trouble)) for each, looks in looked],
    )
    yield gauge("millrace_head_height", "Height of the chain.", [(each, looks.head) for each, looks in looked])
    yield gauge("millrace_pending_jobs", "Jobs that the chain wants done.", [(e, looks.pending) for e, looks in looked])
    yield gauge(
        "millrace_given_up_jobs",
        "Of these, jobs that are left for a person.",
        [(each, looks.given_up) for each, looks in looked],
    )
    yield gauge(
        "millrace_open_submissions",
        "Signed submissions whose fate is not final.",
        [(each, each.open_submissions) for each in served],
    )
    yield gauge(
        "millrace_last_landed_age_seconds",
        "Since our last transaction landed.",
        [(each, _age(now, landing.seen_at)) for each, landing in landed],
    )
    yield gauge(
        "millrace_last_landed_height",
        "Height at which it landed.",
        [(each, landing.height) for each, landing in landed],
    )


def _workers(snapshot: Snapshot) -> Iterator[Metric]:
    living = Counter(worker.told.pool for worker in snapshot.workers)
    yield _gauge("millrace_workers", "Workers that live.", [((pool,), n) for pool, n in sorted(living.items())], "pool")
    checks: dict[tuple[str, str], bool] = {}
    for worker in snapshot.workers:
        for check in worker.told.checks:
            key = (worker.told.pool, check.name)
            checks[key] = checks.get(key, True) and check.level != "missing"
    yield _gauge(
        "millrace_check_ok",
        "1 if what a worker tried out when it started worked: sandbox, builder, WASM runtime.",
        [(key, ok) for key, ok in sorted(checks.items())],
        "pool",
        "check",
    )


def _receipts(snapshot: Snapshot) -> Iterator[Metric]:
    totals = snapshot.totals
    jobs = CounterMetricFamily(
        "millrace_jobs", "Jobs that have a receipt, by how they ended.", labels=("network", "outcome")
    )
    for (network, outcome), count in sorted(totals.jobs.items()):
        jobs.add_metric((network, outcome.value), count)
    yield jobs
    fees = CounterMetricFamily("millrace_fees", "Transaction fees paid, smallest unit.", labels=("network",))
    prices = CounterMetricFamily(
        "millrace_prices", "Prices of the jobs we settled, smallest unit.", labels=("network",)
    )
    for family, sums in ((fees, totals.fees), (prices, totals.prices)):
        for network, amount in sorted(sums.items()):
            family.add_metric((network,), amount)
        yield family
    stages = HistogramMetricFamily(
        "millrace_stage_seconds", "Wall time of a job's stages.", labels=("network", "stage")
    )
    for key, histogram in sorted(totals.stages.items()):
        stages.add_metric(key, _buckets(histogram), histogram.total)
    yield stages
    fuel = HistogramMetricFamily("millrace_wasm_instructions", "Fuel that a job's module burnt.", labels=("network",))
    for network, histogram in sorted(totals.fuel.items()):
        fuel.add_metric((network,), _buckets(histogram), histogram.total)
    yield fuel
    yield CounterMetricFamily("millrace_unreadable_receipts", "Lines that are no receipt.", value=totals.unreadable)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [
        (repr(float(bound)), float(count)) for bound, count in zip(histogram.bounds, histogram.counts, strict=True)
    ]
    return [*bounds, ("+Inf", float(histogram.count))]


def _gauge(name: str, told: str, samples: Iterable[_Sample], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, told, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, float(value))
    return family


def _age(now: float, then: float | None) -> float | None:
    return None if then is None else max(0.0, now - then)


def _is(fact: object) -> bool:
    return fact is not None
