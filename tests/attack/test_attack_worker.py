"""Whole runs: many at once, from any thread, cancelled, killed from outside, and what is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from attack_case import PRELUDE, limits

from millrace.limits import MIB, Limits
from millrace.settings import SandboxSettings, Settings
from stages.execute.sandbox import Outcome, Spec, Status, missing_tools, open_sandbox
from stages.execute.sandbox.bubblewrap import BubblewrapSandbox
from stages.execute.sandbox.cgroup import Group
from stages.execute.sandbox.cgroup_v1 import HierarchiesV1
from stages.execute.sandbox.owner import pid_namespace

MISSING = missing_tools()
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}: apt install bubblewrap libseccomp2 python3"),
]

CONTROLLERS_V1 = ("memory", "pids", "cpu", "cpuacct")
NAME_ITSELF = "libc.prctl(15, b'{name}', 0, 0, 0)\n"


@pytest.fixture(scope="module")
def sandbox() -> BubblewrapSandbox:
    return open_sandbox(Settings(_env_file=None))


@pytest.fixture
def grouped(sandbox: BubblewrapSandbox) -> BubblewrapSandbox:
    if sandbox.hierarchy is None:
        pytest.skip("needs control groups: run as root, or as a systemd service with Delegate=yes")
    return sandbox


def run(sandbox: BubblewrapSandbox, program: str, within: Limits | None = None, stdin: bytes = b"") -> Outcome:
    return sandbox.run(Spec((PRELUDE + textwrap.dedent(program)).encode(), stdin, within or limits()))


def processes_called(name: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() == name:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until(condition: object, seconds: float = 5.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def runs_sleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/bin/sleep")


def groups_of_this_process() -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/millrace-{os.getpid()}-*"))


def test_an_outcome_tells_what_was_used(grouped: BubblewrapSandbox) -> None:
    outcome = run(grouped, "kept = bytearray(b'x' * (30 << 20))\nwhile time.process_time() < 0.2: pass\nprint('ab')")
    assert outcome.status is Status.ok
    assert outcome.returncode == 0
    assert (outcome.usage.stdout_bytes, outcome.usage.stderr_bytes) == (3, 0)
    assert 0.2 <= outcome.usage.wall_seconds < 5
    assert 0.2 <= (outcome.usage.cpu_seconds or 0) < 1
    assert 30 << 20 < (outcome.usage.peak_memory_bytes or 0) < 128 << 20
    assert outcome.backend.startswith("bubblewrap 0.")


def test_parallel_no_crosstalk(sandbox: BubblewrapSandbox) -> None:
    """A hundred runs, thirty at a time: each sees its own input, an empty /tmp, and nobody else's processes."""
    program = """
        mine = sys.stdin.read()
        others = os.listdir("/tmp"), [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) > 2]
        open("/tmp/" + mine, "w").close()
        time.sleep(0.05)
        print(mine, others, os.listdir("/tmp"))
    """
    with ThreadPoolExecutor(30) as pool:
        outcomes = list(pool.map(lambda n: run(sandbox, program, stdin=f"number{n}".encode()), range(100)))
    wanted = [f"number{n} ([], []) ['number{n}']\n" for n in range(100)]
    assert [o.stdout.decode() for o in outcomes] == wanted
    assert not groups_of_this_process()


def test_runs_at_once_have_users_of_their_own(sandbox: BubblewrapSandbox) -> None:
    if sandbox.slots is None:
        pytest.skip("needs root: an ordinary user cannot become anybody else")
    with ThreadPoolExecutor(3) as pool:
        runs = [
            pool.submit(
                run, sandbox, NAME_ITSELF.format(name=f"slots-{n}") + "time.sleep(30)", limits(wall_seconds=1.5)
            )
            for n in range(3)
        ]
        assert wait_until(lambda: all(processes_called(f"slots-{n}") for n in range(3)))
        uids = {Path(f"/proc/{processes_called(f'slots-{n}')[0]}").stat().st_uid for n in range(3)}
        assert all(future.result().status is Status.timeout for future in runs)
    assert len(uids) == 3
    assert min(uids) >= sandbox.slots.first_uid


def test_without_a_slot_the_job_is_the_workers_own_user_outside_the_box(sandbox: BubblewrapSandbox) -> None:
    """Negative control: what the box calls user 1000 is root to the machine, unless a slot's user is taken first."""
    if sandbox.slots is None:
        pytest.skip("needs root: an ordinary user cannot become anybody else")
    name = f"slotless-{os.getpid()}"
    with ThreadPoolExecutor(1) as pool:
        program = NAME_ITSELF.format(name=name) + "time.sleep(0.6)"
        running = pool.submit(run, replace(sandbox, slots=None), program)
        assert wait_until(lambda: processes_called(name))
        uid = Path(f"/proc/{processes_called(name)[0]}").stat().st_uid
        assert running.result().status is Status.ok
    assert uid == 0


def test_a_run_is_not_disturbed_by_threads_that_end_beside_it(sandbox: BubblewrapSandbox) -> None:
    """The parent-death signal is sent when a thread ends: boxes started from pool threads were killed at random."""
    long: list[Outcome] = []
    waiting = threading.Thread(target=lambda: long.append(run(sandbox, "time.sleep(0.6); print('whole')")))
    waiting.start()
    for _ in range(5):
        short = threading.Thread(target=lambda: run(sandbox, "pass"))
        short.start()
        short.join()
    waiting.join()
    assert long[0].stdout == b"whole\n"


def test_a_pool_may_be_closed_while_a_run_of_it_goes_on(sandbox: BubblewrapSandbox) -> None:
    """The thread that starts a box is the one that waits for it: it cannot end before the run does."""
    pool = ThreadPoolExecutor(1)
    running = pool.submit(run, sandbox, "time.sleep(0.5); print('whole')")
    pool.shutdown(wait=False)
    assert running.result().stdout == b"whole\n"


def test_a_process_dies_with_the_thread_that_started_it_not_only_with_the_worker(sandbox: BubblewrapSandbox) -> None:
    """Why a box is never handed from one thread to another: to the kernel, the starting thread is its parent."""
    started: list[subprocess.Popen[bytes]] = []
    command = [str(sandbox.tools.setpriv), "--pdeathsig", "KILL", "--", "/bin/sleep", "60"]

    def start() -> None:
        started.append(subprocess.Popen(command))
        assert wait_until(lambda: runs_sleep(started[0].pid))

    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
    with started[0] as process:
        assert wait_until(lambda: process.poll() is not None)
        assert process.returncode == -signal.SIGKILL


def test_cancelling_kills_the_run_at_once(sandbox: BubblewrapSandbox) -> None:
    cancel = threading.Event()
    name = f"cancel-{os.getpid()}"
    program = PRELUDE + NAME_ITSELF.format(name=name) + "time.sleep(60)"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sandbox.run, Spec(program.encode(), limits=limits(wall_seconds=60)), cancel)
        assert wait_until(lambda: processes_called(name))
        cancel.set()
        outcome = running.result(timeout=5)
    assert (outcome.status, outcome.returncode, outcome.detail) == (Status.sandbox_error, None, "cancelled")
    assert not processes_called(name)


def test_an_interrupted_run_is_killed_before_the_interrupt_goes_on(sandbox: BubblewrapSandbox) -> None:
    name = f"interrupt-{os.getpid()}"

    class Interrupt(threading.Event):
        def is_set(self) -> bool:
            if processes_called(name):
                raise KeyboardInterrupt
            return False

    with pytest.raises(KeyboardInterrupt):
        sandbox.run(Spec((PRELUDE + NAME_ITSELF.format(name=name) + "time.sleep(60)").encode()), Interrupt())
    assert not processes_called(name)
    assert not groups_of_this_process()


def test_nothing_a_program_left_behind_lives_on(sandbox: BubblewrapSandbox) -> None:
    name = f"daemon-{os.getpid()}"
    program = NAME_ITSELF.format(name=name) + (
        "for _ in range(5):\n    if os.fork() == 0: os.setsid(); signal.signal(15, signal.SIG_IGN); time.sleep(60)\n"
    )
    outcome = run(sandbox, program)
    assert outcome.status is Status.ok
    assert not processes_called(name)


def test_output_written_before_a_timeout_is_kept(sandbox: BubblewrapSandbox) -> None:
    outcome = run(sandbox, "print('so far', flush=True)\nwhile True: pass", limits(wall_seconds=0.6))
    assert (outcome.status, outcome.stdout) == (Status.timeout, b"so far\n")


def test_worker_sigkill_leaves_no_process(sandbox: BubblewrapSandbox, tmp_path: Path) -> None:
    name = f"orphan-{os.getpid()}"
    program = PRELUDE + NAME_ITSELF.format(name=name) + "os.fork()\ntime.sleep(120)"
    worker = textwrap.dedent(f"""
        from millrace.settings import SandboxSettings, Settings
        from stages.execute.sandbox import Spec, open_sandbox
        open_sandbox(Settings(_env_file=None)).run(Spec({program!r}.encode()))
    """)
    with subprocess.Popen([sys.executable, "-c", worker]) as process:
        assert wait_until(lambda: len(processes_called(name)) == 2, 20)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert wait_until(lambda: not processes_called(name))
    if sandbox.hierarchy is not None:
        left = [path.name for path in Path("/sys/fs/cgroup").glob(f"**/millrace-{process.pid}-*")]
        assert left, "the dead worker's groups should still be there to be swept"
        assert set(left) <= set(sandbox.sweep())
        assert not list(Path("/sys/fs/cgroup").glob(f"**/millrace-{process.pid}-*"))


def test_sweeping_leaves_a_living_run_alone(grouped: BubblewrapSandbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, grouped, "time.sleep(0.8); print('undisturbed')")
        assert wait_until(groups_of_this_process)
        mine = {path.name for path in groups_of_this_process()}
        assert not mine & set(grouped.sweep())
        assert running.result().stdout == b"undisturbed\n"


@pytest.fixture
def stale(grouped: BubblewrapSandbox) -> Iterator[Callable[[str], Group]]:
    """Makes groups with any name, and removes in the end what the test has left of them."""
    hierarchy = grouped.hierarchy
    assert hierarchy is not None
    made: list[Group] = []

    def make(name: str) -> Group:
        made.append(hierarchy.create(name, limits()))
        return made[-1]

    yield make
    for group in made:
        group.kill()
        group.close()


def folders_of(name: str) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/{name}"))


def test_stale_cgroups_are_swept_by_owner(grouped: BubblewrapSandbox, stale: Callable[[str], Group]) -> None:
    """A dead worker's group is swept with all that runs in it; nothing else is, however it is called."""
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    here = pid_namespace()
    swept = f"millrace-{dead.pid}-1-1-{here}"
    kept = [
        f"millrace-{dead.pid}-1-2-{here + 1}",  # of a worker in another pid namespace, where its pid lives
        "millrace-other",  # somebody else's software with our name
        f"millrace-{dead.pid}-1-3-{here}.scope",
    ]
    leftover = stale(swept)
    with subprocess.Popen(leftover.wrap(["/bin/sleep", "60"])) as process:
        leftover.take(process.pid)
        for name in kept:
            stale(name)
        assert wait_until(lambda: runs_sleep(process.pid))
        assert grouped.sweep() == [swept]
        assert process.wait(5) == -signal.SIGKILL
    assert not folders_of(swept)
    assert all(folders_of(name) for name in kept)


def test_stale_cgroups_of_another_user_are_left_alone(
    grouped: BubblewrapSandbox, stale: Callable[[str], Group]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a group to somebody else")
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    name = f"millrace-{dead.pid}-1-1-{pid_namespace()}"
    stale(name)
    for folder in folders_of(name):
        os.chown(folder, 65_534, 65_534)
    assert name not in grouped.sweep()
    assert folders_of(name)
    for folder in folders_of(name):
        os.chown(folder, 0, 0)
    assert name in grouped.sweep()


def test_a_box_that_does_not_start_is_our_fault_and_says_why(sandbox: BubblewrapSandbox, tmp_path: Path) -> None:
    gone = replace(sandbox, tools=replace(sandbox.tools, bwrap=tmp_path / "bwrap"))
    nothing = tmp_path / "nothing"
    no_python = replace(sandbox, interpreter=replace(sandbox.interpreter, binds=((nothing, nothing),)))
    for broken, word in ((gone, "bwrap"), (no_python, "nothing")):
        outcome = run(broken, "print('hi')")
        assert (outcome.status, outcome.returncode) == (Status.sandbox_error, None)
        assert word in outcome.detail
    assert not groups_of_this_process()


def test_a_run_killed_from_outside_is_not_the_jobs_fault(sandbox: BubblewrapSandbox) -> None:
    name = f"outside-{os.getpid()}"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, sandbox, NAME_ITSELF.format(name=name) + "time.sleep(60)")
        assert wait_until(lambda: processes_called(name))
        fields = Path(f"/proc/{processes_called(name)[0]}/stat").read_text().split()
        first = int(fields[3])
        outer = int(Path(f"/proc/{first}/stat").read_text().split()[3])
        assert "bwrap" in Path(f"/proc/{outer}/comm").read_text()
        os.kill(outer, signal.SIGKILL)
        assert running.result().status is Status.sandbox_error
    assert not processes_called(name)


MEMORY_V1 = Path("/sys/fs/cgroup/memory")
FILL = "kept = []\nfor _ in range(300): kept.append(bytearray(b'x' * (1 << 20)))\nprint('BROKEN: had 300 MB')\n"


@pytest.mark.skipif(
    not os.access(MEMORY_V1 / "memory.use_hierarchy", os.W_OK),
    reason="needs root and control groups of version 1, to put a limit above the run's own",
)
@pytest.mark.parametrize(
    ("own", "above", "status"), [(512, 96, Status.sandbox_error), (64, 200, Status.oom)], ids=["above", "own"]
)
def test_only_its_own_memory_limit_makes_a_job_oom(
    sandbox: BubblewrapSandbox, own: int, above: int, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job within its own limit was called `oom` when a limit above it, or the machine, made the kernel kill it."""
    parent = f"test-millrace-{os.getpid()}-{own}"
    plain = HierarchiesV1._group
    monkeypatch.setattr(HierarchiesV1, "_group", lambda self, name: plain(self, f"{parent}/{name}"))
    folders = [folder / parent for folder in {Path("/sys/fs/cgroup", n).resolve() for n in CONTROLLERS_V1}]
    for folder in folders:
        folder.mkdir()
    try:
        (MEMORY_V1 / parent / "memory.limit_in_bytes").write_text(str(above * MIB))
        outcome = run(sandbox, FILL, limits(memory_bytes=own * MIB))
    finally:
        for folder in folders:
            folder.rmdir()
    assert outcome.status is status, outcome
    assert ("the machine ran out of memory" in outcome.detail) == (status is Status.sandbox_error)


def test_the_next_run_removes_the_groups_of_the_dead(grouped: BubblewrapSandbox, stale: Callable[[str], Group]) -> None:
    """They stayed until a worker was started, which may be never."""
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    left = f"millrace-{dead.pid}-1-1-{pid_namespace()}"
    stale(left)
    assert folders_of(left)
    assert run(grouped, "print('ran')").stdout == b"ran\n"
    assert not folders_of(left)


@pytest.mark.parametrize("program", ["sys.exit(152)", "os.kill(os.getpid(), signal.SIGXCPU)"])
def test_a_job_cannot_have_a_timeout_stated_that_was_none(sandbox: BubblewrapSandbox, program: str) -> None:
    outcome = run(sandbox, program)
    assert (outcome.status, outcome.returncode) == (Status.signal, -signal.SIGXCPU)


def test_runs_leave_no_open_files_behind(sandbox: BubblewrapSandbox) -> None:
    run(sandbox, "pass")
    before = len(list(Path("/proc/self/fd").iterdir()))
    run(sandbox, "os.kill(os.getpid(), 9)")
    run(sandbox, "print('x' * 3000000)")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_forked_child_can_run_boxes_of_its_own(sandbox: BubblewrapSandbox) -> None:
    """The worker forks flow runs from a process that may have run boxes; threads do not survive a fork."""
    run(sandbox, "pass")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if run(sandbox, "print('child')").stdout == b"child\n" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_interpreter_at_another_place_works_and_shows_nothing_installed_beside_it(
    sandbox: BubblewrapSandbox,
) -> None:
    """Worker's own packages lie in the library's folder of an interpreter that was built or unpacked by hand."""
    version = ".".join(sandbox.interpreter.version.split(".")[:2])
    library = Path(f"/usr/lib/python{version}")
    if not library.is_dir():
        pytest.skip("needs the system's own Python below /usr: apt install python3")
    prefix = Path(tempfile.mkdtemp(prefix="millrace-python-", dir="/var/tmp"))
    try:
        prefix.chmod(0o755)
        (prefix / "bin").mkdir()
        shutil.copy(sandbox.interpreter.executable, prefix / "bin/python3")
        copied = prefix / library.relative_to("/usr")
        shutil.copytree(
            library, copied, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "test", "config-*")
        )
        (copied / "site-packages").mkdir()
        (copied / "site-packages/secret.py").write_text("found = True")
        settings = Settings(_env_file=None, sandbox=SandboxSettings(python=prefix / "bin/python3"))
        there = f"sys.executable == '{prefix}/bin/python3' and os.listdir('{copied}/site-packages') == []"
        outcome = run(open_sandbox(settings), f"import sqlite3, ssl\nheld({there})")
        assert (outcome.stdout, outcome.stderr) == (b"held\n", b"")
    finally:
        shutil.rmtree(prefix)
