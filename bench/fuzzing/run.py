"""Fuzz one decoder in a process of its own: the fuzzer never gives one back."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from bench.fuzzing.decoder import Decoder, Disagreement

_SLOWEST_CPU_SECONDS = 1.0
"""For one input of at most a few kilobytes; the usual is a ten-thousandth of this."""

_STUCK_SECONDS = 20
_MOST_MEGABYTES = 1024


@dataclass(frozen=True)
class Fuzzed:
    """What came of fuzzing one decoder. `edges` are those that the inputs reached in the code under test."""

    decoder: str
    inputs: int
    seconds: float
    edges: int
    defect: str = ""
    saved: str = ""


class Job:
    """A decoder being fuzzed, until `inputs` were tried, `seconds` (if any) passed or a defect was found.

    Inputs, the fuzzer's log and what breaks the decoder are kept in `folder`. The process is forked from this one,
    where the code under test must have been imported with atheris' instrumentation.
    """

    def __init__(
        self, decoder: Decoder, inputs: int | None, seconds: float | None, folder: Path, seed: int = 0
    ) -> None:
        self.decoder = decoder
        self.folder = folder / decoder.name.replace(" ", "-")
        self._inputs = inputs
        self._seed = seed
        self._seconds = seconds
        self._started = time.monotonic()
        corpus = self.folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        (self.folder / "result.json").unlink(missing_ok=True)
        for valid in decoder.seeds():
            (corpus / hashlib.sha256(valid).hexdigest()).write_bytes(valid)
        self.pid = os.fork()
        if self.pid == 0:
            self._fuzz(corpus)

    def result(self) -> Fuzzed:
        """What came of it, once the process has ended."""
        log = (self.folder / "log").read_text(errors="replace")
        edges = max(map(int, re.findall(r"cov: (\d+)", log)), default=0)
        told = self.folder / "result.json"
        if told.exists():
            return Fuzzed(**{**json.loads(told.read_text()), "edges": edges})
        # It was ended from outside Python: out of time or memory, or a crash in native code.
        saved = sorted(str(path) for path in self.folder.glob("*-*"))  # `timeout-…`, `oom-…` or `crash-…`
        seconds = round(time.monotonic() - self._started, 1)
        defect = f"it hung, took too much memory or crashed: see {self.folder / 'log'}"
        return Fuzzed(self.decoder.name, 0, seconds, edges, defect, saved[0] if saved else "")

    def _fuzz(self, corpus: Path) -> NoReturn:
        try:
            self._fuzz_in_child(corpus)
        except BaseException:  # noqa: BLE001 - a forked child must not run its parent's code
            traceback.print_exc()
        finally:
            os._exit(3)

    def _fuzz_in_child(self, corpus: Path) -> None:
        import atheris

        log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        logging.disable(logging.CRITICAL)
        os.environ["RUST_BACKTRACE"] = "0"  # solders panics over some answers, and that is caught
        options = {
            "seed": self._seed,
            "max_len": self.decoder.longest,
            "timeout": _STUCK_SECONDS,
            "rss_limit_mb": _MOST_MEGABYTES,
            "artifact_prefix": f"{self.folder}/",
            "close_fd_mask": 3,  # the log is the fuzzer's own: a million warnings would bury it
        }
        self._tried = 0
        self._started = time.monotonic()
        atheris.Setup(["fuzz", *(f"-{name}={value}" for name, value in options.items()), str(corpus)], self._try)
        atheris.Fuzz()

    def _try(self, given: bytes) -> None:
        self._tried += 1
        started = time.thread_time()
        try:
            self.decoder.check(given)
            if (took := time.thread_time() - started) > _SLOWEST_CPU_SECONDS:
                raise Disagreement(f"one input took {took:.1f} s of CPU time")
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is a defect
            self._end(given, error)
        if self._inputs is not None and self._tried >= self._inputs:
            self._end()
        if self._seconds is not None and time.monotonic() - self._started > self._seconds:
            self._end()

    def _end(self, given: bytes = b"", error: BaseException | None = None) -> NoReturn:
        seconds = round(time.monotonic() - self._started, 2)
        defect, saved = "", ""
        if error is not None:
            defect = f"{type(error).__name__}: {error}"[:500]
            path = self.folder / f"defect-{hashlib.sha256(given).hexdigest()[:16]}"
            path.write_bytes(given)
            path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)), errors="backslashreplace")
            saved = str(path)
        fuzzed = Fuzzed(self.decoder.name, self._tried, seconds, 0, defect, saved)
        (self.folder / "result.json").write_text(json.dumps(asdict(fuzzed)))
        os._exit(0)
