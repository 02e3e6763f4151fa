"""Who is killed next: drawn from a seed, so that a run that found something can be drawn again."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping

import psutil

from bench.soaking.machine import SERVER, Machine

_WEIGHTS = {"flow run": 60, "worker": 12, "worker with all below": 8, "server": 8, "node": 12}

_AT_LEAST_SECONDS = 25.0
"""So long a server, worker or node is let be after its start: a slow machine would have none that ever comes up."""


class Reaper:
    """Kills by SIGKILL what the seed says.

    Arguments: `lose_pool` has, by network, what makes its chain forget the transactions that wait for a block: they
    were in the memory of the node that is killed.
    """

    def __init__(self, machine: Machine, seed: int, lose_pool: Mapping[str, Callable[[], object]]) -> None:
        self._machine = machine
        self._random = random.Random(seed)
        self._lose_pool = lose_pool
        self.kills: Counter[str] = Counter()

    def strike(self) -> str:
        """Kill one; returns what was killed in words, empty if there is nothing just now.

        A flow run is killed in the place of what does not run, or has not run for long.
        """
        kind = self._random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        draw, seconds = self._random.random(), self._random.uniform(0.5, 4.0)
        struck = "" if kind == "flow run" else self._kill_named(kind, draw, seconds)
        if not struck:
            kind, struck = "flow run", self._kill_flow_run(draw)
        if struck:
            self.kills[kind] += 1
        return struck

    def _kill_flow_run(self, draw: float) -> str:
        alive = self._machine.flow_processes()
        if not alive:
            return ""
        process = alive[int(draw * len(alive))]
        self._machine.killed.add(process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        return f"flow run in process {process.pid}"

    def _kill_named(self, kind: str, draw: float, seconds: float) -> str:
        choices = {"server": [SERVER], "node": list(self._machine.fronts)}.get(kind, self._machine.workers)
        name = choices[int(draw * len(choices))]
        if self._machine.age_seconds(name) < _AT_LEAST_SECONDS:
            return ""
        self._machine.kill(name, family=kind != "worker", back_after_seconds=seconds)
        if kind == "node":
            self._lose_pool.get(name, lambda: None)()
        return f"{name}{', with all below it' if kind == 'worker with all below' else ''}"
