"""Trying the promises of the `wasi` back end out on the machine it is to run on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

from millrace.limits import MIB, Limits
from stages.execute.sandbox.interface import Check, Outcome, Spec, Status
from stages.execute.sandbox.wasi import probes

_LIMITS = Limits(wall_seconds=5, memory_bytes=64 * MIB, output_bytes=64 * 1024)
_SHORT = _LIMITS.model_copy(update={"wall_seconds": 0.5})


class _Runs(Protocol):
    def run(self, spec: Spec) -> Outcome: ...


def check(sandbox: _Runs) -> list[Check]:
    """Every promise, tried out. The first run may have to compile the build."""
    hello = sandbox.run(Spec(probes.HELLO.encode(), limits=_LIMITS))
    greeted = hello.stdout == b"hello from the module\n" and hello.status is Status.ok
    runs = Check("runs a program", greeted, _tell(hello))
    return [runs, *_confinement(sandbox), *_limits(sandbox)] if greeted else [runs]


def _confinement(sandbox: _Runs) -> Iterator[Check]:
    outcome = sandbox.run(Spec(probes.FACTS.encode(), stdin=b"its input", limits=_LIMITS))
    try:
        facts: dict[str, Any] = json.loads(outcome.stdout)
    except ValueError:
        yield Check("tells about itself", passed=False, detail=_tell(outcome))
        return
    yield Check("nothing of our environment", facts["environment"] == [], str(facts["environment"]))
    yield Check("its own input and no more", facts["input"] == "its input")
    yield Check("no file of the machine", facts["read"] == [], str(facts["read"]))
    yield Check("nothing to write to", facts["write"] == [], str(facts["write"]))
    yield Check("no network", not facts["connect"] and not facts["listen"])
    yield Check("no processes", facts["processes"] == [], str(facts["processes"]))
    yield Check("no open files of ours", facts["descriptors"] == [], str(facts["descriptors"]))


def _limits(sandbox: _Runs) -> Iterator[Check]:
    memory = sandbox.run(Spec(probes.MEMORY.encode(), limits=_LIMITS))
    yield Check("the memory limit", memory.status in (Status.exit, Status.oom), _tell(memory))
    for name, program in (("the time limit", probes.LOOP), ("the time limit, asleep", probes.SLEEP)):
        stopped = sandbox.run(Spec(program.encode(), limits=_SHORT))
        yield Check(name, stopped.status is Status.timeout and stopped.usage.wall_seconds < 3, _tell(stopped))
    flood = sandbox.run(Spec(probes.FLOOD.encode(), limits=_LIMITS))
    kept = len(flood.stdout) == _LIMITS.output_bytes
    yield Check("the output limit", flood.status is Status.output_limit and kept, _tell(flood))


def _tell(outcome: Outcome) -> str:
    """What happened, in a line."""
    last = outcome.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return " ".join([outcome.status.value, outcome.detail, *last]).strip()[:400]
