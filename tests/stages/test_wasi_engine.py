"""The `wasi` back end with small modules in CPython's place: verdicts, limits, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import wasmtime
from wasi_modules import ECHO, LOOP, SLEEP, module, opening, sandbox_with, saying, writing

from millrace.limits import MIB, Limits
from stages.execute.sandbox import Outcome, Spec, Status
from stages.execute.sandbox.wasi import engine
from stages.execute.sandbox.wasi.compiled import engine_command
from stages.execute.sandbox.wasi.leftovers import end_orphans
from stages.execute.sandbox.wasi.sandbox import WasiSandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: sealed files and pidfds")

SMALL = Limits(wall_seconds=10, memory_bytes=16 * MIB, output_bytes=64 * 1024)


def run(wat: str, folder: Path, limits: Limits = SMALL, stdin: bytes = b"") -> Outcome:
    return sandbox_with(wat, folder).run(Spec(b"", stdin, limits))


def engines(name: str = "") -> list[Path]:
    """The /proc folders of living engines, of this process if no name is given."""
    script, owner = os.fsencode(engine.__file__), os.fsencode(name or f"millrace-{os.getpid()}-")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if script in words and words[words.index(script) + 1].startswith(owner):
            found.append(folder)
    return found


def wait_until(condition: object, seconds: float = 10.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def threads_filtered(folder: Path) -> bool:
    try:
        lines = [(task / "status").read_text().split("\n") for task in (folder / "task").iterdir()]
    except OSError:
        return False
    return len(lines) > 1 and all("Seccomp:\t2" in status for status in lines)


@pytest.mark.parametrize(
    ("start", "status", "returncode", "word"),
    [
        ("", Status.ok, 0, ""),
        ("(call $exit (i32.const 0))", Status.ok, 0, ""),
        ("(call $exit (i32.const 3))", Status.exit, 3, "3"),
        ("(call $exit (i32.const 126))", Status.exit, 126, "126"),
        ("(call $exit (i32.const 999))", Status.exit, 999 & 0xFF, "231"),
        ("(call $exit (i32.const -1))", Status.exit, 255, "255"),
        ("(call $exit (i32.const 137))", Status.signal, -9, "SIGKILL"),
        ("unreachable", Status.signal, -6, "unreachable"),
        ("(drop (i32.load (i32.const -8)))", Status.signal, -11, "memory out of bounds"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", Status.signal, -8, "division by zero"),
        (f"(drop {opening(-1)})", Status.signal, -31, "bad call of wasi"),
        ("(call $start)", Status.signal, -11, "stack overflow"),
    ],
)
def test_an_end_is_called_what_it_would_be_of_a_native_program(
    tmp_path: Path, start: str, status: Status, returncode: int, word: str
) -> None:
    outcome = run(module(start), tmp_path)
    assert (outcome.status, outcome.returncode) == (status, returncode)
    assert word in outcome.detail


@pytest.mark.parametrize("start", [LOOP, SLEEP], ids=["busy", "asleep in a call of WASI"])
def test_time_that_is_up_ends_a_program_whatever_it_does(tmp_path: Path, start: str) -> None:
    outcome = run(module(start), tmp_path, SMALL.model_copy(update={"wall_seconds": 0.6}))
    assert (outcome.status, outcome.returncode) == (Status.timeout, -9)
    assert 0.6 <= outcome.usage.wall_seconds < 5
    used = outcome.usage.cpu_seconds or 0
    assert used > 0.05 if start == LOOP else used < 0.5, "what the kernel knows of an engine that was killed"
    assert (outcome.usage.peak_memory_bytes or 0) > 10 * MIB


def test_a_share_of_a_core_is_kept_as_a_sum(tmp_path: Path) -> None:
    outcome = run(module(LOOP), tmp_path, SMALL.model_copy(update={"cpus": 0.05}))
    assert (outcome.status, outcome.returncode) == (Status.timeout, -9)
    assert 0.5 <= (outcome.usage.cpu_seconds or 0) < 2
    assert "CPU time" in outcome.detail


def test_a_module_that_begins_larger_than_its_limit_is_out_of_memory(tmp_path: Path) -> None:
    outcome = run(module("", pages=16 * 16 + 1), tmp_path)
    assert (outcome.status, outcome.returncode) == (Status.oom, -9)
    assert "memory" in outcome.detail


@pytest.mark.parametrize(("pages", "answer"), [(100, 1), (16 * 16, 255)])
def test_growing_beyond_the_limit_fails_inside(tmp_path: Path, pages: int, answer: int) -> None:
    assert run(saying(f"(memory.grow (i32.const {pages}))"), tmp_path).returncode == answer


def test_copies_that_the_engine_makes_are_bounded_by_what_the_program_has(tmp_path: Path) -> None:
    fill = "(loop $l (drop (call $random (i32.const 0) (i32.const 15000000))) (br $l))"
    outcome = run(module(fill, pages=250), tmp_path, SMALL.model_copy(update={"wall_seconds": 1, "cpus": 0.5}))
    assert outcome.status is Status.timeout
    assert (outcome.usage.peak_memory_bytes or 0) < 2 * SMALL.memory_bytes + 64 * MIB


def test_many_and_wrong_arguments_of_a_call_cost_the_engine_little(tmp_path: Path) -> None:
    for call, status in (
        ("(drop (call $write (i32.const 1) (i32.const 0) (i32.const 2000000) (i32.const 15999900)))", Status.ok),
        ("(drop (call $poll (i32.const 0) (i32.const 8000000) (i32.const 160000) (i32.const 15999900)))", Status.ok),
        ("(drop (call $random (i32.const 0) (i32.const -1)))", Status.signal),
        ("(drop (call $write (i32.const 1) (i32.const -4) (i32.const 1) (i32.const 8)))", Status.signal),
    ):
        outcome = run(module(call, pages=250), tmp_path)
        assert outcome.status is status, outcome
        assert (outcome.usage.peak_memory_bytes or 0) < 200 * MIB


@pytest.mark.parametrize("fd", [1, 2])
def test_a_flood_is_cut_at_the_limit(tmp_path: Path, fd: int) -> None:
    outcome = run(writing("ab", fd, for_ever=True), tmp_path)
    assert (outcome.status, outcome.returncode) == (Status.output_limit, -9)
    kept, cut = (outcome.stdout, outcome.stdout_cut) if fd == 1 else (outcome.stderr, outcome.stderr_cut)
    assert (kept, cut) == (b"ab" * (SMALL.output_bytes // 2), True)


def test_a_program_reads_its_own_input_and_then_its_end(tmp_path: Path) -> None:
    assert run(ECHO, tmp_path, stdin=b"some input").stdout == b"some input"
    assert run(ECHO, tmp_path).stdout == b""


def test_there_is_no_folder_no_variable_and_no_descriptor(tmp_path: Path) -> None:
    path = '(data (i32.const 64) "/etc")'
    for fd in (3, 4, 7):
        outcome = run(module(f"(call $exit {opening(fd, rights=0)})", more=path), tmp_path)
        assert outcome.returncode == 8, "EBADF"
    count = "(drop (call $environ (i32.const 0) (i32.const 4))) (call $exit (i32.load (i32.const 0)))"
    assert run(module(count), tmp_path).returncode == 0


def test_a_build_that_the_engine_cannot_run_is_our_fault_and_says_why(tmp_path: Path) -> None:
    for wat, word in (
        ('(module (import "host" "door" (func)) (memory (export "memory") 1) (func (export "_start")))', "door"),
        ('(module (memory (export "memory") 1))', "_start"),
    ):
        outcome = run(wat, tmp_path)
        assert (outcome.status, outcome.returncode) == (Status.sandbox_error, None)
        assert word in outcome.detail or word in outcome.stderr.decode()
    outcome = run('(module (memory i64 1) (func (export "_start")))', tmp_path)
    assert outcome.status is Status.sandbox_error
    assert "does not compile" in outcome.detail


def test_cancelling_kills_the_run_at_once(tmp_path: Path) -> None:
    sandbox, cancel = sandbox_with(module(SLEEP), tmp_path), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sandbox.run, Spec(b"", limits=SMALL), cancel)
        assert wait_until(engines)
        cancel.set()
        outcome = running.result(timeout=3)
    assert (outcome.status, outcome.detail) == (Status.sandbox_error, "cancelled")
    assert not engines()


def asleep(sandbox: WasiSandbox, pool: ThreadPoolExecutor) -> Path:
    """Start a run of a module that sleeps; returns its engine's folder in /proc once the module has begun."""
    sandbox.compiled.descriptor()
    pool.submit(sandbox.run, Spec(b"", limits=SMALL))
    assert wait_until(lambda: engines() and threads_filtered(engines()[0]))
    return engines()[0]


def test_the_engine_has_no_rights_by_the_time_the_program_begins(tmp_path: Path) -> None:
    sandbox = sandbox_with(module(SLEEP), tmp_path)
    if sandbox.seccomp_program is None:
        pytest.skip("needs libseccomp: apt install libseccomp2")
    with ThreadPoolExecutor(1) as pool:
        folder = asleep(sandbox, pool)
        for task in (folder / "task").iterdir():
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line)
            assert (status["Seccomp"].strip(), status["NoNewPrivs"].strip()) == ("2", "1")
            if os.geteuid() == 0:
                assert int(status["Uid"].split()[0]) >= 61_000
                assert status["CapEff"].strip() == status["CapPrm"].strip() == "0" * 16
        assert (folder / "environ").read_bytes() == b""
        assert (folder / "stat").read_text().split()[5] == folder.name, "a session of its own"
        shown = {fd.readlink().name.split(" ")[0] for fd in (folder / "fd").iterdir()}
        assert not any(name.endswith((".json", ".wasm", ".cwasm", ".lock")) for name in shown), shown
        kept = (folder / "limits").read_text().splitlines()
        hard = {line[:26].strip(): line[26:].split()[1] for line in kept[1:]}
        assert (hard["Max file size"], hard["Max core file size"], hard["Max locked memory"]) == ("0", "0", "0")
        assert int(hard["Max data size"]) < 2 * SMALL.memory_bytes + 300 * MIB
        os.kill(int(folder.name), signal.SIGKILL)


def test_without_our_filter_the_engine_has_none(tmp_path: Path) -> None:
    """Negative control: it is ours that the test above has seen."""
    inherited = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Seccomp:"))
    if not inherited.endswith("0"):
        pytest.skip("this process is filtered itself")
    sandbox = replace(sandbox_with(module(SLEEP), tmp_path), seccomp_program=None)
    sandbox.compiled.descriptor()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sandbox.run, Spec(b"", limits=SMALL))
        assert wait_until(lambda: engines() and len(list((engines()[0] / "task").iterdir())) > 1)
        assert not threads_filtered(engines()[0])
        assert any("libseccomp" in text for text in sandbox.describe())
        os.kill(int(engines()[0].name), signal.SIGKILL)


def test_an_engine_killed_from_outside_is_not_the_jobs_fault(tmp_path: Path) -> None:
    sandbox = sandbox_with(module(SLEEP), tmp_path)
    with ThreadPoolExecutor(1) as pool:
        sandbox.compiled.descriptor()
        running = pool.submit(sandbox.run, Spec(b"", limits=SMALL))
        assert wait_until(lambda: engines() and threads_filtered(engines()[0]))
        os.kill(int(engines()[0].name), signal.SIGKILL)
        outcome = running.result(timeout=5)
    assert (outcome.status, outcome.returncode) == (Status.sandbox_error, None)


WORKER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from wasi_modules import SLEEP, module, sandbox_with
from millrace.limits import Limits
from stages.execute.sandbox import Spec
sandbox_with(module(SLEEP), Path({folder!r})).run(Spec(b"", limits=Limits(wall_seconds={wall})))
"""


def test_a_killed_worker_leaves_no_engine(tmp_path: Path) -> None:
    code = textwrap.dedent(WORKER).format(tests=str(Path(__file__).parent), folder=str(tmp_path), wall=120)
    with subprocess.Popen([sys.executable, "-c", code]) as worker:
        assert wait_until(lambda: any(map(threads_filtered, engines(f"millrace-{worker.pid}-"))), 30)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        assert wait_until(lambda: not engines(f"millrace-{worker.pid}-"))


def test_an_engine_whose_worker_is_stopped_ends_a_busy_program_itself(tmp_path: Path) -> None:
    code = textwrap.dedent(WORKER).replace("SLEEP", "LOOP")
    code = code.format(tests=str(Path(__file__).parent), folder=str(tmp_path), wall=4)
    with subprocess.Popen([sys.executable, "-c", code]) as worker:
        assert wait_until(lambda: any(map(threads_filtered, engines(f"millrace-{worker.pid}-"))), 30)
        worker.send_signal(signal.SIGSTOP)
        try:
            state = engines(f"millrace-{worker.pid}-")[0] / "stat"
            assert wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z", 10)
        finally:
            worker.send_signal(signal.SIGCONT)
        assert worker.wait(timeout=10) == 0


def test_sweeping_ends_engines_of_the_dead_and_no_others(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    orphan = f"millrace-{gone.pid}-1-1"
    with subprocess.Popen(
        engine_command(orphan, {"act": "compile"}), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as left:
        assert wait_until(lambda: engines(orphan))
        sandbox = sandbox_with(module(SLEEP), tmp_path)
        with ThreadPoolExecutor(1) as pool:
            living = asleep(sandbox, pool)
            half = sandbox.compiled.folder / f"{'0' * 32}.cwasm.{orphan}"
            half.write_bytes(b"half")
            assert sandbox.sweep() == [orphan, half.name]
            assert left.wait(timeout=5) == -signal.SIGKILL
            assert living.exists()
            os.kill(int(living.name), signal.SIGKILL)
    assert end_orphans() == []


def test_runs_leave_no_open_files_behind(tmp_path: Path) -> None:
    sandbox = sandbox_with(writing("x" * 3000, for_ever=True), tmp_path)
    sandbox.run(Spec(b"", limits=SMALL))
    before = len(list(Path("/proc/self/fd").iterdir()))
    sandbox.run(Spec(b"", limits=SMALL))
    sandbox.run(Spec(b"", limits=SMALL.model_copy(update={"wall_seconds": 0.01})))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_many_at_once_keep_apart_from_any_thread(tmp_path: Path) -> None:
    sandbox = sandbox_with(ECHO, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: sandbox.run(Spec(b"", f"number {n}".encode(), SMALL)), range(16)))
    assert [outcome.stdout.decode() for outcome in outcomes] == [f"number {n}" for n in range(16)]


def test_an_outcome_tells_what_was_used(tmp_path: Path) -> None:
    outcome = run(writing("abc"), tmp_path)
    assert outcome.usage.stdout_bytes == 3
    assert 0 < (outcome.usage.cpu_seconds or 0) < 5
    assert 10 * MIB < (outcome.usage.peak_memory_bytes or 0) < 200 * MIB
    assert outcome.backend == "wasi: a module, wasmtime " + json.dumps(outcome.backend.split()[-1]).strip('"')


def test_every_trap_that_is_told_apart_is_one_of_wasmtimes() -> None:
    names = {code.name for code in wasmtime.TrapCode}
    assert {name for name, _ in engine.TRAPS[:-2]} <= names
