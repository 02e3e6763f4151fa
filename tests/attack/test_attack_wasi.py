"""Programs on CPython as WASM: the same results as on the default sandbox's Python, or the difference that is told."""

from __future__ import annotations

import os
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from attack_backend_wasi import SETTINGS, not_fetched

from millrace.limits import MIB, Limits
from stages.execute.python import run_python
from stages.execute.sandbox import Outcome, Spec, Status
from stages.execute.sandbox.diagnosis import diagnose
from stages.execute.sandbox.selftest import CACHE_FILE, ensure_working
from stages.execute.sandbox.wasi import engine
from stages.execute.sandbox.wasi.opening import open_wasi
from stages.execute.sandbox.wasi.probes import GUARD
from stages.execute.sandbox.wasi.sandbox import WasiSandbox

pytestmark = pytest.mark.skipif(bool(not_fetched()), reason=not_fetched())

SMALL = Limits(wall_seconds=10, memory_bytes=64 * MIB, output_bytes=64 * 1024)


@pytest.fixture(scope="module")
def sandbox() -> WasiSandbox:
    opened = open_wasi(SETTINGS)
    opened.compiled.descriptor()
    return opened


def run(sandbox: WasiSandbox, program: str | bytes, stdin: bytes = b"", limits: Limits = SMALL) -> Outcome:
    source = program if isinstance(program, bytes) else (GUARD + textwrap.dedent(program)).encode()
    return sandbox.run(Spec(source, stdin, limits))


def test_this_machine_passes_the_self_test_and_remembers_it(sandbox: WasiSandbox, tmp_path: Path) -> None:
    began = time.monotonic()
    assert [test for test in sandbox.self_test() if not test.passed] == []
    assert time.monotonic() - began < 10
    ensure_working(sandbox, tmp_path)
    assert (tmp_path / CACHE_FILE).exists()


def test_the_doctor_says_what_is_weaker_and_slower(sandbox: WasiSandbox) -> None:
    findings = diagnose(SETTINGS)
    assert {finding.level for finding in findings} == {"ok", "weak"}
    said = " ".join(finding.text for finding in findings)
    assert all(word in said for word in ("three to eleven times", "threads", "MemoryError"))
    assert all(finding.remedy for finding in findings if finding.level == "weak")


def test_exact_bytes_come_out_and_go_in(sandbox: WasiSandbox) -> None:
    program = """
        import sys
        sys.stdout.buffer.write(bytes(range(256)) * 40)
        sys.stderr.write("é")
        print(sys.stdin.read(), end="", file=sys.stderr)
    """
    outcome = run(sandbox, program, "input: ü\n".encode())
    assert outcome.status is Status.ok
    assert outcome.stdout == bytes(range(256)) * 40
    assert outcome.stderr == "éinput: ü\n".encode()


def test_input_is_at_its_end_at_once_if_there_is_none(sandbox: WasiSandbox) -> None:
    assert run(sandbox, "import sys; print(repr(sys.stdin.read()))").stdout == b"''\n"


def test_a_program_is_a_script_like_any_other(sandbox: WasiSandbox) -> None:
    program = """
        import pickle, sys
        class Mine: pass
        print(__name__, __file__, sys.argv, type(pickle.loads(pickle.dumps(Mine()))) is Mine, "_load" in globals())
        print(sys.flags.isolated, sys.flags.no_site, sys.dont_write_bytecode, sys.stdout.encoding)
    """
    outcome = run(sandbox, program)
    assert outcome.stdout.decode() == ("__main__ /job/main.py ['/job/main.py'] True False\n1 1 True utf-8\n"), (
        outcome.stderr
    )


def test_an_uncaught_error_begins_in_the_program(sandbox: WasiSandbox) -> None:
    outcome = run(
        sandbox, b"def f():\n  1 / 0\ntry:\n  f()\nexcept ZeroDivisionError as e:\n  raise ValueError('x') from e"
    )
    assert (outcome.status, outcome.returncode) == (Status.exit, 1)
    assert outcome.stderr.decode().startswith('Traceback (most recent call last):\n  File "/job/main.py", line 4')
    assert "<string>" not in outcome.stderr.decode()
    assert outcome.stderr.endswith(b"ValueError: x\n")


@pytest.mark.parametrize(
    ("source", "word"),
    [
        (b"x = (\n", b"was never closed"),
        (b"print(1)\0", b"null bytes"),
        (b"\xff\xfe", b"codec can't decode"),
        (b"# coding: no-such\n", b"no-such"),
        (b"import numpy", b"No module named 'numpy'"),
        (b"import threading; threading.Thread(target=print).start()", b"can't start new thread"),
        (b"import subprocess; subprocess.run(['true'])", b"does not support processes"),
        (b"import socket; socket.create_connection(('127.0.0.1', 1))", b"Error"),
        (b"open('/tmp/file', 'w')", b"FileNotFoundError"),
        (b"def f(): f()\nf()", b"RecursionError"),
        (b"x = b'x' * (1 << 30)", b"MemoryError"),
    ],
)
def test_what_cannot_be_had_is_an_error_of_the_program(sandbox: WasiSandbox, source: bytes, word: bytes) -> None:
    outcome = run(sandbox, source)
    assert (outcome.status, outcome.returncode) == (Status.exit, 1)
    assert word in outcome.stderr.strip().splitlines()[-1], outcome.stderr


def test_a_source_in_another_encoding_is_read_as_it_says(sandbox: WasiSandbox) -> None:
    assert run(sandbox, b"# coding: latin-1\nprint('\xe9')").stdout == "é\n".encode()


@pytest.mark.parametrize(
    ("source", "status", "returncode"),
    [
        ("import sys; sys.exit(7)", Status.exit, 7),
        ("import sys; sys.exit(999)", Status.exit, 231),
        ("import sys; sys.exit(200)", Status.exit, 200),
        ("import os; os._exit(5)", Status.exit, 5),
        ("import sys; sys.exit('why')", Status.exit, 1),
        ("import os; os.abort()", Status.signal, -6),
        ("import sys; sys.setrecursionlimit(10**8)\nclass A:\n  def __getattr__(s, n): return getattr(s, n)\nA().x",
         Status.signal, -11),
    ],
)  # fmt: skip
def test_an_end_has_the_code_that_it_has_elsewhere(
    sandbox: WasiSandbox, source: str, status: Status, returncode: int
) -> None:
    outcome = run(sandbox, source)
    assert (outcome.status, outcome.returncode) == (status, returncode)


def test_output_written_before_a_timeout_is_kept(sandbox: WasiSandbox) -> None:
    program = "print('so far', flush=True)\nwhile True: pass"
    outcome = run(sandbox, program, limits=SMALL.model_copy(update={"wall_seconds": 1.5}))
    assert (outcome.status, outcome.stdout) == (Status.timeout, b"so far\n")


def test_runs_at_once_keep_apart(sandbox: WasiSandbox) -> None:
    program = "import sys; mine = sys.stdin.read(); print(mine, 'kept' in globals()); kept = mine"
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda n: run(sandbox, program, f"number{n}".encode()), range(12)))
    assert [outcome.stdout.decode() for outcome in outcomes] == [f"number{n} False\n" for n in range(12)]


def test_a_forked_child_can_run_programs_of_its_own(sandbox: WasiSandbox) -> None:
    """The worker forks flow runs from a process that may have run programs; threads do not survive a fork."""
    run(sandbox, "pass")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if run(sandbox, "print('child')").stdout == b"child\n" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_execution_says_which_python_it_was(sandbox: WasiSandbox) -> None:
    execution = run_python(GUARD.encode() + b"print('hi')", SMALL, sandbox=sandbox, clock=lambda: 0.0)
    assert execution.backend.startswith("wasi: CPython 3.12.0, wasmtime ")
    assert '"stdout": "hi\\n"' in execution.result_json


ENGINE = Path(engine.__file__)


STREAMS = "wasi.inherit_stdout()"


@pytest.mark.parametrize(
    ("defence", "instead", "failing"),
    [
        (STREAMS, "wasi.env = [('WALLET', 'x')]", "nothing of our environment"),
        (STREAMS, "wasi.preopen_dir({folder!r}, '/etc')", "no file of the machine"),
        (STREAMS, "wasi.preopen_dir({folder!r}, '/etc')", "no open files of ours"),
        (STREAMS, "wasi.preopen_dir({folder!r}, '/tmp')", "nothing to write to"),
        ('memory_size=task["memory_bytes"], ', "", "the memory limit"),
    ],
)
def test_with_a_defence_taken_away_the_self_test_fails(
    sandbox: WasiSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defence: str, instead: str, failing: str
) -> None:
    """Negative control: what the self-test finds held is held by the defence, not by accident."""
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "passwd").write_text("a file of the machine, for this test alone")
    weakened, strong = tmp_path / "engine.py", ENGINE.read_text()
    assert defence in strong
    kept = f"{STREAMS}; " if defence == STREAMS else ""
    weakened.write_text(strong.replace(defence, kept + instead.format(folder=str(shown))))
    monkeypatch.setattr(engine, "__file__", str(weakened))
    # The filter and the other user would hold alone what this takes away: they are the second wall, tested elsewhere.
    alone = replace(sandbox, seccomp_program=None, slots=None)
    assert failing in {test.name for test in alone.self_test() if not test.passed}


def test_the_filter_alone_keeps_a_program_from_writing(
    sandbox: WasiSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Had the engine a folder to give away, no file in it could be opened."""
    if sandbox.seccomp_program is None:
        pytest.skip("needs libseccomp: apt install libseccomp2")
    shown = tmp_path / "shown"
    shown.mkdir()
    weakened = tmp_path / "engine.py"
    weakened.write_text(ENGINE.read_text().replace(STREAMS, f"{STREAMS}; wasi.preopen_dir({str(shown)!r}, '/tmp')"))
    monkeypatch.setattr(engine, "__file__", str(weakened))
    filtered = replace(sandbox, slots=None)
    outcome = run(filtered, "open('/tmp/left-behind', 'wb')")
    assert b"Error" in outcome.stderr
    assert not list(shown.iterdir())
    assert run(replace(filtered, seccomp_program=None), "open('/tmp/left-behind', 'wb')").status is Status.ok
    assert [path.name for path in shown.iterdir()] == ["left-behind"]
