"""A short soak, as CI can afford it: the whole one is `python -m bench.soak`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from bench.soak import Verdict, judge
from bench.soaking.leftovers import leftovers
from bench.soaking.machine import Machine
from bench.soaking.market import Market, SoakJob
from bench.soaking.reaper import Reaper
from flows.lease import hold_lease
from millrace.receipt import JobOutcome, Receipt
from millrace.receipt_log import ReceiptLog
from stages.execute.sandbox import missing_tools
from stages.submit.outbox import Outbox

_COUNTED = ("lost", "doubled", "wrong", "orphans")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dozen_jobs_survive_a_kill_every_few_seconds() -> None:
    if missing := missing_tools():
        pytest.skip(f"needs {', '.join(what for what, _ in missing)}; install it and this runs")
    options = ["--jobs", "12", "--seed", "3", "--seconds-between-kills", "8", "--deadline-seconds", "420"]
    run = subprocess.run(
        [sys.executable, "-m", "bench.soak", *options], capture_output=True, text=True, timeout=590, check=False
    )
    summary = json.loads(run.stdout.splitlines()[-1])
    assert {name: summary[name] for name in _COUNTED} == dict.fromkeys(_COUNTED, 0), run.stdout + run.stderr
    assert run.returncode == 0
    assert summary["kills"] >= 3


@dataclass
class PlantedMarket:
    """What a market says in the end, as a test wants it."""

    receipts: ReceiptLog
    jobs: list[SoakJob]
    counted: Counter[str] = field(default_factory=Counter)
    strange: dict[str, str] = field(default_factory=dict)
    unaccounted: list[str] = field(default_factory=list)

    def made(self, network: str) -> int:
        return sum(job.network == network for job in self.jobs)

    def answers(self) -> Counter[str]:
        return self.counted

    def surplus(self) -> list[str]:
        return self.unaccounted

    def faults(self, job: SoakJob, receipt: Receipt) -> Iterator[str]:
        if job.key in self.strange:
            yield self.strange[job.key]


@pytest.fixture
def planted(tmp_path: Path) -> PlantedMarket:
    """Two jobs, each settled once."""
    market = PlantedMarket(ReceiptLog(tmp_path), [SoakJob("cloudmesh", name, f"cloudmesh/x/{name}") for name in "ab"])
    for job in market.jobs:
        market.receipts.append(
            Receipt(job_key=job.key, network="cloudmesh", outcome=JobOutcome.settled, settled_at=datetime.now(UTC))
        )
        market.counted[job.key] = 1
    return market


def judged(market: PlantedMarket, wanted: int = 2) -> Verdict:
    verdict = Verdict()
    judge(cast("Market", market), {"cloudmesh": wanted, "computechain": 0, "offchainvm": 0}, verdict)
    return verdict


def test_the_soak_finds_nothing_where_nothing_is_wrong(planted: PlantedMarket) -> None:
    assert judged(planted) == Verdict()


def test_the_soak_finds_what_is_lost_doubled_or_wrong(planted: PlantedMarket) -> None:
    """A soak that cannot fail proves nothing."""
    a, b = (job.key for job in planted.jobs)
    planted.counted[a] = 0
    assert judged(planted).lost == [f"{a}: no answer on its chain"]
    planted.counted[a] = 2
    assert judged(planted).doubled == [f"{a}: 2 answers on its chain"]
    planted.counted[a] = 1
    planted.strange[b] = "the chain has another result"
    assert judged(planted).wrong == [f"{b}: the chain has another result"]
    planted.strange.clear()
    planted.unaccounted.append("4f")
    assert judged(planted).doubled == ["transaction 4f landed and is in no receipt"]
    planted.unaccounted.clear()
    planted.jobs.append(SoakJob("cloudmesh", "c", "cloudmesh/x/c"))
    assert judged(planted, 4).lost == ["cloudmesh: a job that was never made", "cloudmesh/x/c: no receipt"]


def test_the_soak_finds_a_log_of_receipts_that_does_not_verify(planted: PlantedMarket) -> None:
    lines = planted.receipts.path.read_text().splitlines(keepends=True)
    planted.receipts.path.write_text("".join(reversed(lines)))
    (wrong,) = judged(planted).wrong
    assert "does not verify" in wrong


async def test_the_soak_finds_processes_locks_leases_and_files(tmp_path: Path) -> None:
    assert leftovers(tmp_path) == []
    outbox = Outbox(tmp_path / "outbox")
    (tmp_path / "outbox" / "job.tmp").touch()
    environment = {**os.environ, "MILLRACE_DATA_DIR": str(tmp_path)}
    orphan = await asyncio.create_subprocess_exec("sleep", "60", env=environment)
    try:
        async with outbox.lock("cloudmesh/x/a"):
            with hold_lease(tmp_path / "leases", "run"):
                found = await asyncio.to_thread(leftovers, tmp_path, {os.getpid()})
    finally:
        orphan.kill()
        await orphan.wait()
    kinds = Counter(line.partition(":")[0].partition(" ")[0] for line in found)
    assert kinds == {"process": 1, "lock": 2, "lease": 1, "temporary": 1}, found


class _PlantedMachine:
    """What is up, by its age in seconds; notes what is killed."""

    def __init__(self, ages: dict[str, float]) -> None:
        self.ages = ages
        self.fronts = {"cloudmesh": (1, 2)}
        self.workers = ["worker"]
        self.killed: list[str] = []

    def age_seconds(self, name: str) -> float:
        return self.ages.get(name, 0.0)

    def flow_processes(self) -> list[Any]:
        return []

    def kill(self, name: str, *, family: bool, back_after_seconds: float) -> None:
        self.killed.append(name)
        self.ages[name] = 0.0


def strikes(seed: int, ages: dict[str, float], times: int = 200) -> tuple[_PlantedMachine, list[str], int]:
    machine, lost = _PlantedMachine(dict(ages)), []
    reaper = Reaper(cast("Machine", machine), seed, {"cloudmesh": lambda: lost.append("what waited")})
    told = [reaper.strike() for _ in range(times)]
    assert reaper.kills.total() == sum(bool(words) for words in told)
    return machine, told, len(lost)


def test_the_same_seed_kills_the_same_and_another_does_not() -> None:
    ages = {"worker": 60.0, "prefect-server": 60.0, "cloudmesh": 60.0}
    assert strikes(1, ages)[1] == strikes(1, ages)[1]
    assert strikes(1, ages)[1] != strikes(2, ages)[1]


def test_what_has_just_started_is_let_come_up_and_a_killed_node_forgets_what_waited() -> None:
    machine, _, lost = strikes(1, {"worker": 60.0, "prefect-server": 1.0, "cloudmesh": 60.0})
    assert sorted(machine.killed) == ["cloudmesh", "worker"], "each once: what came back is young"
    assert lost == 1
