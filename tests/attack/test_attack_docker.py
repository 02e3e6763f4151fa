"""Containers as a worker uses them: many at once, cancelled, killed from outside, and what is left behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attack_backend_docker as docker
import pytest
from attack_case import PRELUDE, limits
from docker import APIClient

from millrace.errors import Declined
from millrace.limits import MIB, Limits
from millrace.settings import SandboxSettings, Settings
from stages.execute.sandbox import Outcome, Spec, Status
from stages.execute.sandbox.containers import former, leftovers, options
from stages.execute.sandbox.containers import sandbox as containers
from stages.execute.sandbox.containers.leftovers import sweep_containers
from stages.execute.sandbox.containers.opening import open_docker
from stages.execute.sandbox.containers.options import GVISOR_BYTES, LATE_SECONDS, OWNER, since_boot
from stages.execute.sandbox.containers.sandbox import DockerSandbox
from stages.execute.sandbox.diagnosis import diagnose
from stages.execute.sandbox.selftest import ensure_working

RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(why := docker.unavailable(name)), reason=why))
    for name in ("runc", "runsc")
]
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(why := docker.unavailable("runc")), reason=why),
]


@pytest.fixture(scope="module", params=RUNTIMES)
def sandbox(request: pytest.FixtureRequest) -> DockerSandbox:
    return docker.opened(request.param)


@pytest.fixture(scope="module")
def runc() -> DockerSandbox:
    return docker.opened("runc")


@pytest.fixture
def api(runc: DockerSandbox) -> Iterator[APIClient]:
    with runc.daemon.connect() as client:
        yield client


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(runc: DockerSandbox) -> Iterator[None]:
    yield
    with runc.daemon.connect() as client:
        assert owned(client) == []


def owned(api: APIClient, pid: int | None = None) -> list[dict[str, Any]]:
    """The containers of one process, this one if None."""
    mine = f"millrace-{pid or os.getpid()}-"
    return [c for c in api.containers(all=True, filters={"label": OWNER}) if c["Labels"][OWNER].startswith(mine)]


def volumes(api: APIClient) -> set[str]:
    return {volume["Name"] for volume in api.volumes()["Volumes"] or []}


def run(sandbox: DockerSandbox, program: str, within: Limits | None = None, stdin: bytes = b"") -> Outcome:
    return sandbox.run(Spec((PRELUDE + textwrap.dedent(program)).encode(), stdin, within or limits()))


def wait_until(condition: object, seconds: float = 10.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_the_self_test_passes_and_doctor_names_runtime_and_image(sandbox: DockerSandbox) -> None:
    assert [check for check in sandbox.self_test() if not check.passed] == []
    settings = docker.settings(sandbox.daemon.runtime)
    findings = diagnose(settings)
    assert {finding.level for finding in findings} == {"ok", "weak"}
    told = "\n".join(finding.text for finding in findings)
    assert sandbox.image.id in told
    assert f" {sandbox.daemon.runtime}, " in told
    assert ("runc alone: containers share the machine's kernel" in told) is (sandbox.daemon.runtime == "runc")
    assert all(finding.remedy for finding in findings if finding.level == "weak")


def test_runs_at_once_keep_apart(sandbox: DockerSandbox) -> None:
    program = """
        mine = sys.stdin.read()
        others = os.listdir("/tmp")
        open("/tmp/" + mine, "w").close()
        print(mine, others, os.listdir("/tmp"), os.getuid())
    """
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(lambda n: run(sandbox, program, stdin=f"number{n}".encode()), range(6)))
    assert [o.stdout.decode().rpartition(" ")[0] for o in outcomes] == [f"number{n} [] ['number{n}']" for n in range(6)]
    assert all(int(o.stdout.split()[-1]) >= sandbox.slots.first_uid for o in outcomes)


def test_nothing_of_the_machine_changes_hands(sandbox: DockerSandbox) -> None:
    """gVisor gave the machine's /dev/null to `nobody` when a job had no standard input."""
    before = Path("/dev/null").stat()
    assert run(sandbox, "print(sys.stdin.read() == '')").stdout == b"True\n"
    after = Path("/dev/null").stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert after.st_ctime_ns == before.st_ctime_ns


def test_a_flood_is_cut_and_its_container_gone_at_once(sandbox: DockerSandbox) -> None:
    """With a stream that nobody reads, killing and removing took a minute each."""
    began = time.monotonic()
    outcome = run(sandbox, "while True: os.write(1 + (time.time_ns() & 1), b'x' * 65536)", limits(wall_seconds=20))
    assert outcome.status is Status.output_limit
    assert max(len(outcome.stdout), len(outcome.stderr)) == MIB
    assert time.monotonic() - began < 15


def test_input_that_is_not_read_does_not_hold_up_the_end(sandbox: DockerSandbox) -> None:
    assert run(sandbox, "print('done')", stdin=b"x" * (4 * MIB)).stdout == b"done\n"


def test_all_of_a_large_input_arrives(sandbox: DockerSandbox) -> None:
    outcome = run(sandbox, "print(len(sys.stdin.buffer.read()))", stdin=b"x" * (4 * MIB))
    assert outcome.stdout == str(4 * MIB).encode() + b"\n"


def test_output_written_before_a_timeout_is_kept(sandbox: DockerSandbox) -> None:
    outcome = run(sandbox, "print('so far', flush=True)\nwhile True: pass", limits(wall_seconds=2))
    assert (outcome.status, outcome.returncode, outcome.stdout) == (Status.timeout, -9, b"so far\n")


def test_cpu_time_and_memory_of_a_run_are_its_own(sandbox: DockerSandbox) -> None:
    """Docker forgets what a container used when it ends; receipts had nothing to show."""
    if sandbox.daemon.meters is None:
        pytest.skip("Docker's control groups are not of version 1, or not its own")
    burning = "block = bytearray(60 << 20)\nwhile time.process_time() < 0.5: pass"
    used = run(sandbox, burning, limits(wall_seconds=30, memory_bytes=256 * MIB)).usage
    assert used.cpu_seconds is not None
    assert used.peak_memory_bytes is not None
    assert 0.5 <= used.cpu_seconds < 3
    assert 60 * MIB <= used.peak_memory_bytes < 60 * MIB + GVISOR_BYTES
    after = run(sandbox, "pass").usage
    assert after.cpu_seconds is not None
    assert after.peak_memory_bytes is not None
    assert after.cpu_seconds < 0.5
    assert after.peak_memory_bytes < 50 * MIB
    killed = run(sandbox, "while True: pass", limits(wall_seconds=1)).usage
    assert killed.cpu_seconds is not None
    assert killed.cpu_seconds > 0.3


def test_cancelling_ends_the_container(sandbox: DockerSandbox, api: APIClient) -> None:
    cancel = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sandbox.run, Spec((PRELUDE + "time.sleep(60)").encode()), cancel)
        assert wait_until(lambda: any(c["State"] == "running" for c in owned(api)))
        cancel.set()
        outcome = running.result(timeout=20)
    assert (outcome.status, outcome.returncode, outcome.detail) == (Status.sandbox_error, None, "cancelled")


def test_an_interrupted_run_leaves_no_container(runc: DockerSandbox, api: APIClient) -> None:
    class Interrupt(threading.Event):
        def is_set(self) -> bool:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runc.run(Spec((PRELUDE + "time.sleep(60)").encode()), Interrupt())
    assert owned(api) == []


def test_a_container_that_does_not_start_is_our_fault_and_says_why(runc: DockerSandbox) -> None:
    gone = replace(runc, image=replace(runc.image, id="sha256:" + "0" * 64))
    outcome = run(gone, "print('hi')")
    assert (outcome.status, outcome.returncode) == (Status.sandbox_error, None)
    assert "No such image" in outcome.detail
    away = replace(runc, daemon=replace(runc.daemon, address="unix:///nowhere/docker.sock"))
    assert run(away, "print('hi')").status is Status.sandbox_error


def test_runs_leave_no_open_files_and_no_volumes_behind(runc: DockerSandbox, api: APIClient) -> None:
    run(runc, "pass")
    kept = volumes(api)
    files = len(list(Path("/proc/self/fd").iterdir()))
    run(runc, "os.kill(os.getpid(), 9)")
    run(runc, "print('x' * 3000000)")
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    assert volumes(api) <= kept


def test_a_forked_child_can_run_containers_of_its_own(runc: DockerSandbox) -> None:
    """The worker forks flow runs from a process that may have run jobs; connections do not survive a fork."""
    run(runc, "pass")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if run(runc, "print('child')").stdout == b"child\n" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def worker(runtime: str) -> list[str]:
    """The command of a worker whose job sleeps."""
    program = PRELUDE + "os.fork()\ntime.sleep(300)"
    script = textwrap.dedent(f"""
        from millrace.settings import SandboxSettings, Settings
        from stages.execute.sandbox import Spec, open_sandbox
        settings = Settings(_env_file=None, sandbox=SandboxSettings(backend="docker", runtime={runtime!r}))
        open_sandbox(settings).run(Spec({program!r}.encode()))
    """)
    return [sys.executable, "-c", script]


@contextmanager
def killed_worker(api: APIClient, runtime: str) -> Iterator[int]:
    """The pid of a worker that was killed while its job ran."""
    with subprocess.Popen(worker(runtime)) as process:
        assert wait_until(lambda: any(c["State"] == "running" for c in owned(api, process.pid)), 30)
        process.send_signal(signal.SIGKILL)
        process.wait()
    yield process.pid


def test_a_killed_worker_s_container_is_swept(sandbox: DockerSandbox, api: APIClient) -> None:
    before = volumes(api)
    with killed_worker(api, sandbox.daemon.runtime) as pid:
        (left,) = owned(api, pid)
        first = api.inspect_container(left["Id"])["State"]["Pid"]
        assert Path(f"/proc/{first}").exists()
        assert sandbox.sweep() == [left["Labels"][OWNER]]
        assert owned(api, pid) == []
        assert not Path(f"/proc/{first}").exists()
        assert volumes(api) <= before


def test_the_next_run_sweeps_as_well(runc: DockerSandbox, api: APIClient) -> None:
    """A worker lives long: what one of its flow runs left behind must not run until the next start."""
    with killed_worker(api, "runc") as pid:
        assert run(runc, "print('next')").stdout == b"next\n"
        assert owned(api, pid) == []


def test_a_worker_killed_in_another_container_leaves_its_job_no_more_than_its_time(
    runc: DockerSandbox, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could tell that it was dead, so its container ran until the machine's end."""
    known = {container["Id"] for container in api.containers(all=True)}

    def left() -> list[dict[str, Any]]:
        return [c for c in api.containers(filters={"label": OWNER}) if c["Id"] not in known]

    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *worker("runc")]) as process:
        assert wait_until(lambda: bool(left()), 30)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (container,) = left()
    assert runc.sweep() == []
    monkeypatch.setattr(leftovers, "since_boot", lambda: since_boot() + Limits().wall_seconds + LATE_SECONDS + 1)
    assert runc.sweep() == [container["Labels"][OWNER]]
    assert left() == []


def test_sweeping_leaves_living_runs_and_other_people_s_containers_alone(runc: DockerSandbox, api: APIClient) -> None:
    other = api.create_container(runc.image.id, ["/usr/bin/python3", "-V"], name="millrace-1-0-1")["Id"]
    try:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run, runc, "time.sleep(1.5); print('undisturbed')")
            assert wait_until(lambda: any(c["State"] == "running" for c in owned(api)))
            assert sweep_containers(api) == []
            assert running.result().stdout == b"undisturbed\n"
        assert api.inspect_container(other)["State"]["Status"] == "created", "it has our name, but not our label"
    finally:
        api.remove_container(other)


def test_without_our_filter_the_same_probes_get_through(runc: DockerSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: Docker's own list would let them pass."""
    program = (
        "print(refused(lambda: socket.socket(16, 3, 0)) == errno.EPERM, call('memfd_create', b'x', 0) == errno.EPERM)"
    )
    assert run(runc, program).stdout == b"True True\n"
    monkeypatch.setattr(options, "seccomp_profile", lambda daemon: "unconfined")
    assert run(runc, program).stdout == b"False False\n"


def test_the_worker_s_proxies_do_not_enter(
    runc: DockerSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = {"proxies": {"default": {"httpProxy": "http://user:correct-horse@proxy:1"}}}
    (tmp_path / "config.json").write_text(json.dumps(proxy))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    program = "print('correct-horse' in str(os.environ))"
    assert run(runc, program).stdout == b"False\n"
    asked = containers.container_options
    monkeypatch.setattr(containers, "container_options", lambda *a, **k: {**asked(*a, **k), "use_config_proxy": True})
    assert run(runc, program).stdout == b"True\n", "without the defence the same probe must find the secret"


def test_a_runtime_that_does_not_keep_our_filter_is_refused(
    runc: DockerSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gVisor ignores the filter unless it is told not to; here runc is made to do without."""
    monkeypatch.setattr(options, "seccomp_profile", lambda daemon: "unconfined")
    with pytest.raises(Declined, match="filtered system calls") as caught:
        ensure_working(runc, tmp_path)
    assert "--oci-seccomp" in caught.value.hint


def test_the_command_line_makes_the_image_and_prints_its_id(runc: DockerSandbox, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deployments", "docker", "image"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)
    assert told.stdout == f"{runc.image.id} with {runc.image.python}\n"


def imported(api: APIClient, *changes: str, repository: str = "millrace-test", tag: str = "moving") -> str:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    told = api.import_image(layer.getvalue(), repository=repository, tag=tag, changes=list(changes))
    return str(json.loads(told.strip().splitlines()[-1])["status"])


def with_image(reference: str) -> Settings:
    return Settings(_env_file=None, sandbox=SandboxSettings(backend="docker", image=reference))


def test_an_image_of_the_operator_s_must_be_pinned_here_and_without_volumes(
    api: APIClient, runc: DockerSandbox
) -> None:
    moving = imported(api)
    try:
        with pytest.raises(Declined, match="tag, which can move") as caught:
            open_docker(with_image("millrace-test:moving"))
        assert f"MILLRACE_SANDBOX__IMAGE={moving}" in caught.value.hint
        with pytest.raises(Declined, match="is not on this machine") as caught:
            open_docker(with_image("python@sha256:" + "0" * 64))
        assert "docker pull" in caught.value.hint
        with_volume = imported(api, "VOLUME /anywhere")
        with pytest.raises(Declined, match="/anywhere"):
            open_docker(with_image(with_volume))
        api.remove_image(with_volume)
    finally:
        api.remove_image(moving)
    pinned = open_docker(with_image(runc.image.id))
    assert pinned.image.id == runc.image.id
    assert [check for check in pinned.self_test() if not check.passed] == []


def test_the_own_image_is_made_once(api: APIClient, runc: DockerSandbox) -> None:
    before = {image["Id"] for image in api.images()}
    assert docker.opened("runc").image == runc.image
    assert {image["Id"] for image in api.images()} == before


def test_an_image_is_made_where_there_is_none(api: APIClient, runc: DockerSandbox) -> None:
    api.remove_image(runc.image.id, force=True)
    made = docker.opened("runc")
    assert made.image.id in {image["Id"] for image in api.images()}
    assert (
        run(made, "import sqlite3, ssl, zoneinfo; print(zoneinfo.ZoneInfo('Europe/Rome').key)").stdout
        == b"Europe/Rome\n"
    )


def test_a_former_image_goes_a_month_after_somebody_last_opened_it(api: APIClient) -> None:
    """Each update of the system's Python left an image of 76 MB behind, for ever."""
    former_image = imported(api, "LABEL millrace.files=former", repository=former.REPOSITORY, tag="former")
    others = imported(api, "LABEL millrace.files=others", tag="kept")
    listed = [
        image for image in api.images(filters={"label": "millrace.files"}) if image["Id"] in (former_image, others)
    ]
    in_use = api.create_container(former_image, ["/nothing"])["Id"]
    now = datetime.now(UTC)
    try:
        assert former.remove_former(api, listed, now + former.KEPT - timedelta(hours=1)) == []
        late = now + former.KEPT + timedelta(hours=1)
        assert former.remove_former(api, listed, late) == [], "one has a container, the other a name of somebody's own"
        api.remove_container(in_use)
        assert former.remove_former(api, listed, late) == [former_image]
        assert former.remove_former(api, listed, late) == [], "another worker was first"
        left = {image["Id"] for image in api.images()}
        assert former_image not in left
        assert others in left
    finally:
        api.remove_image(others)


def test_an_image_that_is_opened_does_not_grow_old(api: APIClient) -> None:
    """Docker does not tell when one was last used: another worker's would be removed under its jobs."""
    opened = imported(api, "LABEL millrace.files=opened", repository=former.REPOSITORY, tag="opened")
    try:
        before = former._last_named(api, opened)
        former.note_use(api, opened, "opened", before + timedelta(hours=23))
        assert former._last_named(api, opened) == before
        former.note_use(api, opened, "opened", before + timedelta(hours=25))
        assert former._last_named(api, opened) > before
    finally:
        api.remove_image(opened)
