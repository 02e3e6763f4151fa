"""What running a program in each sandbox costs over running it with plain Python.

    python -m bench.sandbox [--rounds 30]

The same one-line program is run by every contender once a round, so that whatever else the machine does meets them
all. Each back end is opened as a worker opens it, with the settings of this environment (for containers, DOCKER_HOST);
one that does not open here is named with the reason. Exits with 1 if bubblewrap costs 20 ms or more at the median, or
cannot be measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from pydantic import ValidationError

from bench.report import print_report
from millrace.errors import MillraceError
from millrace.settings import SandboxSettings, Settings, load_settings
from stages.execute.sandbox import Sandbox, Spec, Status, open_sandbox
from stages.execute.sandbox.interpreter import find_interpreter

PROGRAM = b"print('hi')\n"
BAR_MILLISECONDS = 20.0
PLAIN, DEFAULT = "plain Python", "bubblewrap"
BACK_ENDS: dict[str, dict[str, str]] = {
    DEFAULT: {"backend": "bubblewrap"},
    "docker, runc": {"backend": "docker", "runtime": "runc"},
    "docker, runsc": {"backend": "docker", "runtime": "runsc"},
    "wasi": {"backend": "wasi"},
}

Run = Callable[[], None]


@dataclass(frozen=True)
class Cost:
    """What one contender took, in milliseconds of wall-clock time."""

    contender: str
    median: float
    p95: float
    fastest: float
    over_plain: float


class NotHere(Exception):
    """This contender cannot be measured on this machine."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what each sandbox costs over plain Python.")
    parser.add_argument("--rounds", type=int, default=30, help="runs of each contender")
    return measure(load_settings(), max(2, parser.parse_args().rounds))


def measure(settings: Settings, rounds: int) -> int:
    runs, absent = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        runs[PLAIN] = plain(settings, Path(folder))
        for name, fields in BACK_ENDS.items():
            try:
                runs[name] = sandboxed(settings, fields)
            except NotHere as reason:
                absent[name] = str(reason)
        costs = compare(interleaved(runs, rounds))
    good = any(cost.contender == DEFAULT and cost.over_plain < BAR_MILLISECONDS for cost in costs)
    for name, why in absent.items():
        print(f"not measured: {name}: {why}")
    print_report(
        f"One program that prints a word, milliseconds, {rounds} rounds",
        [asdict(cost) for cost in costs],
        {
            "bench": "sandbox",
            "rounds": rounds,
            "milliseconds": {cost.contender: asdict(cost) for cost in costs},
            "not_measured": absent,
            "bar": BAR_MILLISECONDS,
            "ok": good,
        },
    )
    return 0 if good else 1


def plain(settings: Settings, folder: Path) -> Run:
    """The interpreter that the sandboxes use, started with the same flags and pipes, and nothing around it."""
    python, program = find_interpreter(settings.sandbox.python), folder / "main.py"
    program.write_bytes(PROGRAM)
    command = [str(python), "-I", "-S", "-B", str(program)]

    def run() -> None:
        subprocess.run(command, capture_output=True, env={}, cwd=folder, check=True, stdin=subprocess.DEVNULL)

    return run


def sandboxed(settings: Settings, fields: dict[str, str]) -> Run:
    """A run in the sandbox with these settings. Raises NotHere if it does not open or does not run the program."""
    try:
        wanted = SandboxSettings.model_validate({**settings.sandbox.model_dump(), **fields})
        sandbox = open_sandbox(settings.model_copy(update={"sandbox": wanted}))
    except ValidationError:
        raise NotHere("this version has no such back end") from None
    except MillraceError as error:
        raise NotHere(str(error)) from None
    once(sandbox)
    return lambda: once(sandbox)


def once(sandbox: Sandbox) -> None:
    outcome = sandbox.run(Spec(PROGRAM))
    if outcome.status is not Status.ok or outcome.stdout != b"hi\n":
        raise NotHere(f"it does not run a program: {outcome.status} {outcome.detail}")


def interleaved(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every run, all contenders once a round, in turns of order."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in sorted(runs, reverse=bool(number % 2)):
            began = time.perf_counter()
            runs[name]()
            taken[name].append((time.perf_counter() - began) * 1000)
    return taken


def compare(taken: dict[str, list[float]]) -> list[Cost]:
    base = median(taken[PLAIN])
    return [
        Cost(
            contender=name,
            median=round(median(times), 1),
            p95=round(quantiles(times, n=20, method="inclusive")[-1], 1),
            fastest=round(min(times), 1),
            over_plain=round(median(times) - base, 1),
        )
        for name, times in taken.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
