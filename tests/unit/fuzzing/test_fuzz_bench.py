"""The fuzzing bench: every decoder stands a few inputs, and a planted defect is found."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench.fuzzing.controls import CONTROLS
from bench.fuzzing.decoder import Decoder
from bench.fuzzing.every import DECODERS

needs_atheris = pytest.mark.skipif(
    find_spec("atheris") is None, reason="atheris has wheels for Linux on x86-64 only: `make test` there runs this"
)


def fuzz(*options: str) -> tuple[int, dict[str, Any], str]:
    run = subprocess.run(
        [sys.executable, "-m", "bench.fuzz", "--seed", "1", "--skip-import", *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return run.returncode, json.loads(run.stdout.splitlines()[-1]), run.stderr


@pytest.mark.parametrize("decoder", DECODERS, ids=[decoder.name for decoder in DECODERS])
def test_every_seed_is_read_whole_cut_and_with_a_flipped_bit(decoder: Decoder) -> None:
    seeds = list(decoder.seeds())
    assert seeds
    for seed in seeds:
        assert len(seed) <= decoder.longest
        for given in (seed, seed[: len(seed) // 2], seed[:-1], seed[:1] + bytes([seed[-1] ^ 4]) + seed[2:]):
            decoder.check(given)


@needs_atheris
def test_every_decoder_stands_a_thousand_inputs_and_both_planted_defects_are_found(tmp_path: Path) -> None:
    code, summary, told = fuzz("--inputs", "1000", "--folder", str(tmp_path))
    assert code == 0, told
    assert summary["ok"]
    assert {row["decoder"] for row in summary["decoders"]} == {decoder.name for decoder in DECODERS}
    assert min(row["inputs"] for row in summary["decoders"]) >= 1000
    assert [row["defect"].partition(":")[0] for row in summary["controls"]] == ["IndexError", "Disagreement"]


@needs_atheris
@pytest.mark.parametrize("control", CONTROLS, ids=[control.name for control in CONTROLS])
def test_a_defect_fails_the_bench_which_says_where_the_input_is(tmp_path: Path, control: Decoder) -> None:
    code, summary, told = fuzz("--inputs", "1000000", "--decoders", control.name, "--folder", str(tmp_path))
    (found,) = summary["decoders"]
    assert (code, summary["ok"]) == (1, False)
    assert found["saved"] in told
    with pytest.raises(Exception, match=found["defect"].partition(": ")[2]):
        control.check(Path(found["saved"]).read_bytes())
    assert "Traceback" in Path(found["saved"]).with_suffix(".txt").read_text()


def test_the_import_is_measured_against_sha256() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bench.fuzzing.import_speed", "--mebibytes", "4"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    figures = json.loads(run.stdout)
    assert figures["ratio"] == pytest.approx(figures["import_cpu_seconds"] / figures["sha256_cpu_seconds"], rel=0.05)
    assert figures["ratio"] > 0.9
