"""What running a module in a child of its own costs over bare wasmtime, and what an interpreter would cost instead.

    python -m bench.wasm [--rounds 30]

Every contender runs the same jobs. Those of a process that is warm take turns, once a round, so that whatever else the
machine does meets them all; then those that start one, in a fifth of the rounds:

- bare: wasmtime in this process, with the module compiled and in memory, on which nothing can improve;
- warm: as a worker runs a module it has run before, in a child that was forked ahead of it;
- cold: a worker's first job, of a module that an earlier worker has compiled;
- new: as cold, but the module must be compiled;
- pulley: wasmtime's own interpreter, bare in this process;
- wasm-interp: wabt's interpreter, where it is installed, in a process of its own.

Exits with 1 if warm costs more than 30 ms over bare at the median of any job.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import wasmtime

from bench.report import print_report
from bench.sandbox import interleaved
from millrace.settings import Settings, load_settings
from stages.execute.wasm import configuration
from stages.execute.wasm.interface import Call, Status, WasmLimits
from stages.execute.wasm.opening import open_wasmtime
from stages.execute.wasm.runtime import WasmtimeRuntime

BAR_MILLISECONDS = 30.0
BARE, WARM = "bare", "warm"
LIMITS = WasmLimits(max_instructions=10**12)
PULLEY = "pulley64"

Run = Callable[[], None]


@dataclass(frozen=True)
class Job:
    """A module that exports `execute`, and the most instructive thing about it."""

    name: str
    module: bytes


@dataclass(frozen=True)
class Cost:
    """What one contender took for one job, in milliseconds of wall-clock time."""

    job: str
    contender: str
    median: float
    p95: float
    fastest: float
    over_bare: float


def jobs() -> list[Job]:
    answer = "(i32.store (i32.const 16) (i32.const 4)) (i32.store (i32.const 20) (local.get 1)) (i32.const 16)"
    loop = f"""(local i32) (local.set 2 (i32.const 10000000))
        (loop $l (local.set 1 (i32.xor (i32.mul (local.get 1) (i32.const 1664525)) (local.get 2)))
          (br_if $l (local.tee 2 (i32.sub (local.get 2) (i32.const 1))))) {answer}"""
    step = "(local.set 0 (i32.xor (i32.rotl (local.get 0) (i32.const 5)) (i32.mul (local.get 0) (i32.const 77))))"
    many = "".join(f"(func (param i32) (result i32) {step * 10} (local.get 0))" for _ in range(3_000))
    return [
        Job("small", _module(answer)),
        Job("3,000 functions", _module(answer, many)),
        Job("10 million rounds", _module(loop)),
    ]


def _module(body: str, more: str = "") -> bytes:
    text = f"""(module (memory (export "memory") 1) {more}
        (func $execute (export "execute") (param i32 i32) (result i32) {body})
        (func (export "interpreted") (result i32) (call $execute (i32.const 4096) (i32.const 0))))"""
    return bytes(wasmtime.wat2wasm(text))


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what a child of its own costs a WASM module.")
    parser.add_argument("--rounds", type=int, default=30, help="runs of each contender")
    parser.add_argument("--jobs", type=int, default=len(jobs()), help="only so many of the jobs, the shortest first")
    asked = parser.parse_args()
    return measure(load_settings(), max(2, asked.rounds), jobs()[: max(1, asked.jobs)])


def measure(settings: Settings, rounds: int, jobs: Sequence[Job]) -> int:
    costs: list[Cost] = []
    absent = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own = settings.model_copy(update={"data_dir": folder})
        warm = open_wasmtime(own)
        stack.callback(warm.close)
        interpreter = shutil.which("wasm-interp")
        if interpreter is None:
            absent["wasm-interp"] = "not installed (apt install wabt)"
        for job in jobs:
            runs: dict[str, Run] = {
                BARE: bare(job, target=None),
                WARM: partial(once, warm, job),
                "pulley": bare(job, target=PULLEY),
            }
            starts: dict[str, Run] = {"cold": partial(first, own, job), "new": partial(anew, own, job, folder)}
            if interpreter is not None:
                starts["wasm-interp"] = interpreted(job, interpreter, folder)
            for run in runs.values():
                run()
            # Those that take long follow, in fewer rounds: a worker that ends is still being cleared away when the
            # next run begins.
            taken = interleaved(runs, rounds) | interleaved(starts, max(2, rounds // 5))
            costs += compare(job.name, taken)
    over = {cost.job: cost.over_bare for cost in costs if cost.contender == WARM}
    good = all(value <= BAR_MILLISECONDS for value in over.values())
    for name, why in absent.items():
        print(f"not measured: {name}: {why}")
    print_report(
        f"One execution of a WASM module, milliseconds, {rounds} rounds",
        [asdict(cost) for cost in costs],
        {
            "bench": "wasm",
            "rounds": rounds,
            "wasmtime": warm.name,
            "milliseconds": list(map(asdict, costs)),
            "warm_over_bare": over,
            "not_measured": absent,
            "bar": BAR_MILLISECONDS,
            "ok": good,
        },
    )
    return 0 if good else 1


def bare(job: Job, target: str | None) -> Run:
    """The module in this process with our limits and nothing around it; `target` is the machine it is compiled for."""
    config = wasmtime.Config()
    for name, value in configuration.CORE.items():
        setattr(config, name, value)
    if target is not None:
        config.target = target
    engine = wasmtime.Engine(config)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    module = wasmtime.Module(engine, job.module)

    def run() -> None:
        store = wasmtime.Store(engine)
        store.set_fuel(LIMITS.max_instructions)
        store.set_limits(memory_size=LIMITS.memory_bytes)
        store.set_epoch_deadline(1)
        store.set_wasi(wasmtime.WasiConfig())
        exports: Any = linker.instantiate(store, module).exports(store)
        at = exports["execute"](store, 65_536, 0)
        require(bytes(exports["memory"].read(store, at, at + 1)) == b"\x04")

    return run


def once(runtime: WasmtimeRuntime, job: Job) -> None:
    ended = runtime.execute(Call(job.module, limits=LIMITS))
    require(ended.status is Status.ok and len(ended.output) == 4)


def first(settings: Settings, job: Job) -> None:
    """In a runtime that has to be started."""
    runtime = open_wasmtime(settings)
    try:
        once(runtime, job)
    finally:
        runtime.close()


def anew(settings: Settings, job: Job, folder: Path) -> None:
    """In a runtime that has to be started and whose cache is empty."""
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        first(settings.model_copy(update={"data_dir": Path(empty)}), job)


def interpreted(job: Job, interpreter: str, folder: Path) -> Run:
    path = folder / "job.wasm"
    # It calls what takes no arguments.
    command = [interpreter, str(path), "--run-all-exports"]

    def run() -> None:
        path.write_bytes(job.module)
        said = subprocess.run(command, capture_output=True, env={}, check=True, stdin=subprocess.DEVNULL)
        require(b"interpreted() => i32:16" in said.stdout)

    return run


def require(right: bool) -> None:
    if not right:
        raise RuntimeError("a contender gave another answer than the job has")


def compare(job: str, taken: dict[str, list[float]]) -> Iterator[Cost]:
    base = median(taken[BARE])
    for name, times in taken.items():
        yield Cost(
            job=job,
            contender=name,
            median=round(median(times), 2),
            p95=round(quantiles(times, n=20, method="inclusive")[-1], 2),
            fastest=round(min(times), 2),
            over_bare=round(median(times) - base, 2),
        )


if __name__ == "__main__":
    sys.exit(main())
