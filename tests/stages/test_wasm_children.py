"""The children: ready ahead of time, one job each, and none that outlives its worker or its owner."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from wasm_world import ECHO, EMPTY, LOOP, SMALL, opened

from stages.execute.wasm.cache import cache_key
from stages.execute.wasm.interface import Call, Cancelled, Runtime, RuntimeFault, Status
from stages.execute.wasm.nursery import Pool
from stages.execute.wasm.runtime import WasmtimeRuntime
from stages.execute.wasm.stage import execute_wasm
from stages.execute.wasm.watch import Running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: sealed files, pidfds, seccomp")

ROOT = Path(__file__).parents[2]
FOR_EVER = SMALL.model_copy(update={"max_instructions": 2**62, "wall_seconds": 60})


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[WasmtimeRuntime]:
    found = opened(tmp_path, Pool(children=4, idle=2))
    yield found
    found.close()


def children(runtime: WasmtimeRuntime) -> list[int]:
    listed = Path(f"/proc/{runtime.nursery.forker_pid}/task/{runtime.nursery.forker_pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_children_wait_for_jobs_and_each_does_one(runtime: WasmtimeRuntime) -> None:
    runtime.warm_up()
    assert eventually(lambda: len(children(runtime)) == 2)
    before = set(children(runtime))
    assert runtime.execute(Call(EMPTY, limits=SMALL)).status is Status.ok, "one compiles, one runs"
    assert eventually(lambda: len(children(runtime)) == 2 and not before & set(children(runtime)))


def test_a_waiting_child_is_filtered_already(runtime: WasmtimeRuntime) -> None:
    runtime.warm_up()

    def filtered() -> bool:
        states = [Path(f"/proc/{pid}/status").read_text() for pid in children(runtime)]
        return len(states) == 2 and all("Seccomp:\t2" in state and "NoNewPrivs:\t1" in state for state in states)

    assert eventually(filtered)


def test_nothing_of_the_worker_enters_the_forker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_SECRET", "of the worker")
    inheritable, other = os.pipe()
    os.set_inheritable(inheritable, True)
    runtime = opened(tmp_path)
    runtime.warm_up()
    folder = Path(f"/proc/{runtime.nursery.forker_pid}")
    assert (folder / "environ").read_bytes() == b""
    held = {str(path.readlink()) for path in (folder / "fd").iterdir()}
    assert str(Path(f"/proc/self/fd/{inheritable}").readlink()) not in held
    runtime.close()
    os.close(inheritable)
    os.close(other)


def test_many_jobs_at_once_wait_for_children_and_do_not_mix(runtime: WasmtimeRuntime) -> None:
    def echo(number: int) -> bool:
        given = f"input {number} ".encode() * 500
        return runtime.execute(Call(ECHO, given, limits=SMALL)).output == given

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(echo, range(60)))
    assert eventually(lambda: len(children(runtime)) == 2)


def test_a_job_that_gets_no_child_in_time_is_a_fault_of_ours(tmp_path: Path) -> None:
    runtime = opened(tmp_path, Pool(children=1, idle=1))
    runtime.execute(Call(LOOP, limits=SMALL))
    cancel = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(runtime.execute, Call(LOOP, limits=FOR_EVER), cancel)
        assert eventually(lambda: any(_threads(pid) > 1 for pid in children(runtime)))
        runtime.patience_seconds = 0.2
        with pytest.raises(RuntimeFault, match="no child was free"):
            runtime.execute(Call(LOOP, limits=SMALL))
        cancel.set()
        with pytest.raises(Cancelled):
            busy.result()
    runtime.patience_seconds = 10
    assert runtime.execute(Call(LOOP, limits=SMALL)).status is Status.out_of_fuel
    runtime.close()


def _threads(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except FileNotFoundError:
        return 0


async def test_a_cancelled_task_leaves_no_execution_behind(runtime: WasmtimeRuntime) -> None:
    assert (await execute_wasm(LOOP, b"", SMALL, runtime=runtime)).status is Status.out_of_fuel
    task = asyncio.ensure_future(execute_wasm(LOOP, b"", FOR_EVER, runtime=runtime))
    await asyncio.to_thread(eventually, lambda: any(_threads(pid) > 1 for pid in children(runtime)))
    (busy,) = (pid for pid in children(runtime) if _threads(pid) > 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(busy)


def _handed(runtime: WasmtimeRuntime) -> Running:
    """An execution without an end, in the hands of the forker."""
    runtime.execute(Call(LOOP, limits=SMALL))
    digest = hashlib.sha256(LOOP).hexdigest()
    module, cached = runtime.cache.descriptor(cache_key(digest, component=False), lambda: b"")
    assert cached
    limits = {**FOR_EVER.model_dump(), "cpu_seconds": 60, "process_bytes": 1 << 30}
    task = {"act": "run", "abi": "wasi_p1", "environment": [], **limits}
    try:
        return runtime.nursery.run(task, module, b"", stdout_bytes=1, stderr_bytes=1)
    finally:
        os.close(module)


def test_who_gives_up_before_hearing_of_a_child_leaves_none_at_work(runtime: WasmtimeRuntime) -> None:
    """It was left to the forker to kill it, which did so a moment after everybody was told that it was dead."""
    with _handed(runtime):
        assert eventually(lambda: any(_threads(pid) > 1 for pid in children(runtime)))
        (busy,) = (pid for pid in children(runtime) if _threads(pid) > 1)
        assert runtime.nursery.forker_pid is not None
        os.kill(runtime.nursery.forker_pid, signal.SIGSTOP)
    try:
        assert not alive(busy)
    finally:
        os.kill(runtime.nursery.forker_pid, signal.SIGCONT)
    assert runtime.execute(Call(EMPTY, limits=SMALL)).status is Status.ok


def test_who_gives_up_before_there_is_a_child_gets_none(runtime: WasmtimeRuntime) -> None:
    runtime.execute(Call(LOOP, limits=SMALL))
    assert eventually(lambda: len(children(runtime)) == 2)
    before = set(children(runtime))
    assert runtime.nursery.forker_pid is not None
    os.kill(runtime.nursery.forker_pid, signal.SIGSTOP)
    module = os.open(os.devnull, os.O_RDONLY)
    with runtime.nursery.run({"act": "run"}, module, b"", stdout_bytes=1, stderr_bytes=1):
        os.close(module)
    os.kill(runtime.nursery.forker_pid, signal.SIGCONT)
    assert runtime.execute(Call(LOOP, limits=SMALL)).status is Status.out_of_fuel
    assert len(before & set(children(runtime))) == 1, "one child was used, for the second"


async def test_the_stage_hands_everything_on(runtime: WasmtimeRuntime) -> None:
    as_interface: Runtime = runtime
    ended = await execute_wasm(ECHO, b"abc", SMALL, runtime=as_interface, environment={"A": "b"}, target="wasm32-wasi")
    assert (ended.output, ended.limits, ended.runtime) == (b"abc", SMALL, runtime.name)
    assert ended.fuel
    assert ended.peak_memory_bytes == 2 * 65_536
    assert ended.milliseconds > 0


def test_a_child_that_is_killed_from_outside_is_no_failure_of_the_job(runtime: WasmtimeRuntime) -> None:
    runtime.execute(Call(LOOP, limits=SMALL))
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(runtime.execute, Call(LOOP, limits=FOR_EVER))
        assert eventually(lambda: any(_threads(pid) > 1 for pid in children(runtime)))
        (pid,) = (pid for pid in children(runtime) if _threads(pid) > 1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RuntimeFault, match="signal 9"):
            busy.result()


def test_a_forker_that_died_is_replaced(runtime: WasmtimeRuntime) -> None:
    runtime.execute(Call(LOOP, limits=SMALL))
    first = runtime.nursery.forker_pid
    assert first is not None
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(runtime.execute, Call(LOOP, limits=FOR_EVER))
        assert eventually(lambda: any(_threads(pid) > 1 for pid in children(runtime)))
        theirs = children(runtime)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(RuntimeFault, match="forks children ended"):
            busy.result()
    assert eventually(lambda: not any(alive(pid) for pid in theirs)), "children die with it"
    assert runtime.execute(Call(LOOP, limits=SMALL)).status is Status.out_of_fuel
    assert runtime.nursery.forker_pid != first


def test_closing_ends_every_process_and_lets_nothing_begin(tmp_path: Path) -> None:
    runtime = opened(tmp_path)
    runtime.warm_up()
    assert eventually(lambda: len(children(runtime)) == 2)
    processes = [*children(runtime), runtime.nursery.forker_pid or 0]
    runtime.close()
    runtime.close()
    assert eventually(lambda: not any(alive(pid) for pid in processes))
    with pytest.raises(RuntimeFault, match="closed"):
        runtime.execute(Call(EMPTY, limits=SMALL))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_process_that_is_forked_shares_the_children_and_outlives_nothing(runtime: WasmtimeRuntime) -> None:
    """Flow runs are forked from a process that has imported everything: they find the children warm."""
    runtime.execute(Call(ECHO, b"", limits=SMALL))
    before = runtime.nursery.forker_pid
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = runtime.execute(Call(ECHO, b"from the fork", limits=SMALL)).output
        os.write(writing, told if runtime.nursery.forker_pid == before else b"another forker")
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with open(reading, "rb") as pipe:  # noqa: PTH123
        assert pipe.read() == b"from the fork"
    assert runtime.execute(Call(ECHO, b"still here", limits=SMALL)).output == b"still here"


FILTERED = textwrap.dedent("""
    import json, os, resource, signal, socket, sys
    from stages.execute.sandbox.wasi import engine
    from stages.execute.sandbox.wasi.system_calls import engine_filter
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"job"], [0])
    allowed, program = {}, engine_filter(awaiting=True)
    if sys.argv[1] == "filtered":
        engine.prctl(engine.NO_NEW_PRIVS, 1)
        engine.filter_system_calls(program)
    def attempt(name, work):
        try:
            work()
            allowed[name] = True
        except OSError:
            allowed[name] = False
    attempt("take a job", lambda: socket.recv_fds(theirs, 8, 1))
    attempt("lower its own limits", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    attempt("another's limits", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE))
    attempt("socket", socket.socket)
    attempt("open", lambda: os.open("/dev/null", os.O_RDONLY))
    attempt("hand files on", lambda: socket.send_fds(ours, [b"x"], [0]))
    attempt("file in memory", lambda: os.memfd_create("x"))
    attempt("signal", lambda: os.kill(os.getppid(), 0))
    attempt("fork", lambda: os.fork() or os._exit(0))
    attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)).close())
    os.write(1, json.dumps(allowed).encode())
""")


@pytest.mark.parametrize("how", ["filtered", "free"])
def test_a_child_may_take_its_job_and_do_nothing_to_the_machine(how: str) -> None:
    """`free` is the control: without the filter, all of it works."""
    answer = subprocess.run(
        [sys.executable, "-c", FILTERED, how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    allowed = json.loads(answer.stdout)
    assert allowed.pop("take a job"), answer.stderr
    assert allowed.pop("lower its own limits")
    assert set(allowed.values()) == {how == "free"}, allowed
    assert len(allowed) == 8


WORKER = textwrap.dedent("""
    import sys, threading, time
    from pathlib import Path
    import wasmtime
    from millrace.settings import Settings
    from stages.execute.wasm.interface import Call, WasmLimits
    from stages.execute.wasm.opening import open_wasmtime
    runtime = open_wasmtime(Settings(_env_file=None, data_dir=Path(sys.argv[1])))
    loop = bytes(wasmtime.wat2wasm('(module (func (export "_start") (loop $l (br $l))))'))
    print(runtime.execute(Call(loop, limits=WasmLimits(max_instructions=1000))).status, flush=True)
    print(runtime.nursery.forker_pid, flush=True)
    if len(sys.argv) > 2:
        runtime.execute(Call(loop, limits=WasmLimits(max_instructions=2**62, wall_seconds=60)))
    runtime.close()
""")


def test_nothing_outlives_a_worker_that_is_killed(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path), "for ever"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline().strip() == "out_of_fuel"
    forker = int(worker.stdout.readline())
    listing = Path(f"/proc/{forker}/task/{forker}/children")
    assert eventually(lambda: any(_threads(int(pid)) > 1 for pid in listing.read_text().split()))
    processes = [forker, *map(int, listing.read_text().split())]
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert eventually(lambda: not any(alive(pid) for pid in processes))


SYSTEM_PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
NEEDED = (
    *("pydantic", "pydantic_core", "pydantic_settings", "dotenv", "annotated_types", "typing_inspection", "wasmtime"),
    *("pyseccomp.py", "typing_extensions.py"),
)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else; the others run as whoever you are")
@pytest.mark.skipif(not SYSTEM_PYTHON.exists(), reason=f"needs {SYSTEM_PYTHON}, which everybody can start")
def test_it_works_for_an_ordinary_user() -> None:
    """Without uids of their own, children still are filtered and limited."""
    site = Path(sysconfig.get_path("purelib"))
    folder = Path(tempfile.mkdtemp(prefix="millrace-nobody-"))
    try:
        for package in ("millrace", "stages"):
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in (*NEEDED, *(path.name for path in site.glob("wasmtime-*.dist-info"))):
            copy = shutil.copytree if (site / name).is_dir() else shutil.copy
            copy(site / name, folder / name)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (folder / "data").mkdir(mode=0o755)
        os.chown(folder / "data", 65_534, 65_534)
        become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
        answer = subprocess.run(
            [*become, SYSTEM_PYTHON, "-B", "-c", WORKER, str(folder / "data")],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder)},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert answer.stdout.startswith("out_of_fuel"), answer.stderr
        assert answer.returncode == 0, answer.stderr
    finally:
        shutil.rmtree(folder)
