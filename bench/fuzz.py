"""Whether any bytes break a reader of strangers' bytes, and whether importing a file costs much more than its hash.

    python -m bench.fuzz [--inputs 1000000] [--seconds 60] [--decoders car,dag] [--jobs 2] [--folder F] [--skip-import]

Coverage-guided fuzzing: every decoder gets inputs that are made from valid ones and kept if they reach new code. It
may return, and then its oracle must agree, or raise an error that its docstring names. Anything else is a defect; so
is an input that takes a second of CPU time. Two decoders with a planted defect go along: if that is not found, the rest
means nothing. With `--seconds`, no decoder is fuzzed for longer, and without `--inputs` as well any number will do.

Exits with 1 for a defect, a planted one that was not found, a decoder with fewer inputs than asked for, or an import of
100 MiB that takes more than 1.5 times its SHA-256; with 2 where atheris is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report import print_report

if TYPE_CHECKING:
    from bench.fuzzing.decoder import Decoder
    from bench.fuzzing.run import Fuzzed

INPUTS = 1_000_000
CONTROL_INPUTS = 1_000_000
MOST_TIMES_SHA256 = 1.5


def main() -> int:
    arguments = parsed_arguments()
    inputs = INPUTS if arguments.inputs is None and arguments.seconds is None else arguments.inputs
    # Before the fuzzers, which would take its processor away.
    imported = {} if arguments.skip_import else import_speed()
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: its wheels are for Linux on x86-64", file=sys.stderr)
        return 2
    instrumented = ["millrace", "protocols", "stages", "bench.fuzzing.controls"]
    with (
        contextlib.redirect_stderr(io.StringIO()),  # it tells the name of every module
        atheris.instrument_imports(include=instrumented, enable_loader_override=False),
    ):
        from bench.fuzzing.every import CONTROLS, DECODERS
    known = {decoder.name: decoder for decoder in (*DECODERS, *CONTROLS)}
    if unknown := set(arguments.decoders) - set(known):
        print(f"no decoder is called {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    chosen = [known[name] for name in arguments.decoders] or DECODERS
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="millrace-fuzz-"))
    controls = fuzz_all(CONTROLS, CONTROL_INPUTS, None, folder / "controls", arguments)
    fuzzed = fuzz_all(chosen, inputs, arguments.seconds, folder, arguments)
    return report(controls, fuzzed, imported, inputs, folder)


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz every decoder of strangers' bytes.")
    parser.add_argument("--inputs", type=int, help=f"for each decoder; {INPUTS:,} unless --seconds is given")
    parser.add_argument("--seconds", type=float, help="longest time for each decoder")
    parser.add_argument("--decoders", type=names, default=[], help="their names with commas; all if left out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="decoders at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzzer's choices; another one every time if 0")
    parser.add_argument("--folder", type=Path, help="where inputs, logs and defects are kept; else a new one in /tmp")
    parser.add_argument("--skip-import", action="store_true", help="do not measure the import of a file")
    return parser.parse_args()


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def import_speed() -> dict[str, Any]:
    measured = subprocess.run([sys.executable, "-m", "bench.fuzzing.import_speed"], check=True, stdout=subprocess.PIPE)
    figures: dict[str, Any] = json.loads(measured.stdout)
    return figures


def fuzz_all(
    decoders: Sequence[Decoder], inputs: int | None, seconds: float | None, folder: Path, arguments: argparse.Namespace
) -> list[Fuzzed]:
    """Fuzz `decoders`, as many at a time as `arguments` say."""
    from bench.fuzzing.run import Job

    waiting = list(decoders)
    running: dict[int, Job] = {}
    done: dict[str, Fuzzed] = {}
    while waiting or running:
        while waiting and len(running) < arguments.jobs:
            job = Job(waiting.pop(0), inputs, seconds, folder, arguments.seed)
            running[job.pid] = job
        ended, _ = os.wait()
        if (finished := running.pop(ended, None)) is not None:
            done[finished.decoder.name] = finished.result()
            print(f"{finished.decoder.name}: {done[finished.decoder.name].inputs:,} inputs", file=sys.stderr)
    return [done[decoder.name] for decoder in decoders]


def report(
    controls: Sequence[Fuzzed], fuzzed: Sequence[Fuzzed], imported: dict[str, Any], inputs: int | None, folder: Path
) -> int:
    defects = [result for result in fuzzed if result.defect]
    blind = [result.decoder for result in controls if not result.defect]
    short = [result.decoder for result in fuzzed if result.inputs < (inputs or 1) and not result.defect]
    slow = imported.get("ratio", 0) > MOST_TIMES_SHA256
    good = not (defects or blind or short or slow)
    for result in defects:
        print(f"{result.decoder}: {result.defect}\n  the input is in {result.saved}", file=sys.stderr)
    for name in blind:
        print(f"{name}: not found, so that the rest shows nothing", file=sys.stderr)
    for name in short:
        print(f"{name}: fewer inputs than asked for", file=sys.stderr)
    if slow:
        print(f"an import takes {imported['ratio']} times SHA-256", file=sys.stderr)
    print_report(
        f"Every decoder of strangers' bytes, fuzzed (kept in {folder})",
        [row(result) for result in (*controls, *fuzzed)],
        {
            "bench": "fuzz",
            "inputs": sum(result.inputs for result in fuzzed),
            "decoders": [asdict(result) for result in fuzzed],
            "controls": [asdict(result) for result in controls],
            "import": imported,
            "ok": good,
        },
    )
    return 0 if good else 1


def row(result: Fuzzed) -> dict[str, object]:
    return {
        "decoder": result.decoder,
        "inputs": result.inputs,
        "seconds": result.seconds,
        "inputs a second": round(result.inputs / result.seconds) if result.seconds else 0,
        "edges": result.edges,
        "defect": bool(result.defect),
    }


if __name__ == "__main__":
    sys.exit(main())
