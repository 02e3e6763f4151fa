"""Trying the sandbox's promises out on the machine it is to run on, before the first stranger's program."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from millrace.errors import Declined, DeclineReason
from millrace.limits import MIB, Limits
from stages.execute.sandbox import probes
from stages.execute.sandbox.arguments import ENVIRONMENT
from stages.execute.sandbox.interface import Check, Outcome, Sandbox, Spec, Status
from stages.execute.sandbox.launch import CLEAN_ENVIRONMENT

CACHE_FILE = "sandbox-self-test.json"
_OWN_NETWORK = Path("/proc/self/ns/net")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LIMITS = Limits(wall_seconds=5, memory_bytes=64 * MIB, processes=16, scratch_bytes=MIB, output_bytes=64 * 1024)
_GVISOR_OPTION = "gVisor keeps our filter with --oci-seccomp among its runtimeArgs, in /etc/docker/daemon.json"
_OWN_ENVIRONMENT = {*ENVIRONMENT, "PWD"}
ROOT = frozenset({"dev", "job", "lib", "lib64", "proc", "tmp", "usr"})


class _Runs(Protocol):
    def run(self, spec: Spec) -> Outcome: ...


@dataclass(frozen=True)
class Expected:
    """What a job may see of its box, where back ends differ.

    `root` are the names it may find there, None if any; `first_environment` the variables of its first process;
    `tells_no_new_privileges` whether /proc says so; `counts_processes` whether their number is limited as such.
    """

    root: frozenset[str] | None = ROOT
    first_environment: frozenset[str] = frozenset(f"{name}={value}" for name, value in CLEAN_ENVIRONMENT.items())
    tells_no_new_privileges: bool = True
    counts_processes: bool = True


def check(sandbox: _Runs, *, grouped: bool, expected: Expected | None = None) -> list[Check]:
    """Every promise, tried out; `grouped` tells whether control groups are there to keep the memory limit."""
    expected = expected or Expected()
    hello = sandbox.run(Spec(probes.HELLO.encode(), limits=_LIMITS))
    runs = Check("runs a program", hello.stdout == b"hello from the box\n" and hello.status is Status.ok, _tell(hello))
    if not runs.passed:
        return [runs]
    return [runs, *_confinement(sandbox, expected), *_limits(sandbox, expected, grouped=grouped)]


def ensure_working(sandbox: Sandbox, state_dir: Path) -> None:
    """Return if the sandbox has passed its self-test on this boot with these settings, running it if need be.

    A pass is remembered in `state_dir`, for all processes that share it. Raises Declined(no_sandbox) naming what
    failed and what helps.
    """
    file = state_dir / CACHE_FILE
    wanted = hashlib.sha256(repr((_BOOT_ID.read_text(), sandbox.name, sandbox.fingerprint())).encode()).hexdigest()
    if _remembered(file) == wanted:
        return
    failed = [test for test in sandbox.self_test() if not test.passed]
    if failed:
        what = "; ".join(f"{test.name}: {test.detail}" if test.detail else test.name for test in failed)
        hint = remedy(what, sandbox.name)
        raise Declined(f"the sandbox does not hold here: {what}", reason=DeclineReason.no_sandbox, hint=hint)
    _remember(file, wanted)


def remedy(failure: str, backend: str = "") -> str:
    """The one thing to do about a failed self-test on this machine, of the back end with that name."""
    if backend.startswith("wasi"):
        return "get the build of Python anew with `millrace wasi fetch`; the details are in docs/sandbox.md"
    if backend.startswith("docker"):
        filtering = "filtered system calls" in failure
        return _GVISOR_OPTION if filtering else "`docker info` and the daemon's log tell more; see docs/sandbox.md"
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "AppArmor forbids user namespaces here: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if _setting("kernel/unprivileged_userns_clone") == "0":
        return "user namespaces are switched off: sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if _setting("user/max_user_namespaces") == "0":
        return "user namespaces are switched off: sudo sysctl -w user.max_user_namespaces=10000"
    if "namespace" in failure or "Operation not permitted" in failure:
        return "in a container, start it with --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    return "`millrace doctor` tells more; the details are in docs/sandbox.md"


def _confinement(sandbox: _Runs, expected: Expected) -> Iterator[Check]:
    outcome = sandbox.run(Spec(probes.FACTS.encode(), limits=_LIMITS))
    try:
        facts: dict[str, Any] = json.loads(outcome.stdout)
    except ValueError:
        yield Check("tells about itself", passed=False, detail=_tell(outcome))
        return
    first = {entry for entry in facts["first_environment"].split("\0") if entry}
    yield Check("nothing of our environment", set(facts["environment"]) <= _OWN_ENVIRONMENT)
    yield Check("nothing of our environment in its first process", first <= {*expected.first_environment, "PWD=/"})
    # An address that does not answer proves little on a machine without a network: the namespace has to be another.
    yield Check("no network", facts["connect"] != 0 and facts["network"] != str(_OWN_NETWORK.readlink()))
    yield Check("no exotic sockets", facts["vsock"] != 0 and facts["netlink"] != 0)
    yield Check("only its own processes", len(facts["pids"]) <= 3, f"{len(facts['pids'])} seen")
    own = expected.root is None or set(facts["root"]) <= expected.root
    yield Check("only its own files", own, " ".join(facts["root"]))
    yield Check("a read-only root", 0 not in (facts["write_root"], facts["write_job"], facts["write_dev"]))
    yield Check("no open files of ours", facts["descriptors"] == [0, 1, 2], str(facts["descriptors"]))
    dropped = facts["no_new_privileges"] == ("1" if expected.tells_no_new_privileges else "")
    yield Check("no privileges", facts["uid"] != 0 and facts["capabilities"] == 0 and dropped)
    yield Check("filtered system calls", facts["seccomp"] == "2" and facts["netlink"] == errno.EPERM)


def _limits(sandbox: _Runs, expected: Expected, *, grouped: bool) -> Iterator[Check]:
    memory = sandbox.run(Spec(probes.MEMORY.encode(), limits=_LIMITS))
    wanted = {Status.oom} if grouped else {Status.exit, Status.oom}
    yield Check("the memory limit", memory.status in wanted, _tell(memory))
    loop = sandbox.run(Spec(probes.LOOP.encode(), limits=_LIMITS.model_copy(update={"wall_seconds": 0.4})))
    yield Check("the time limit", loop.status is Status.timeout and loop.usage.wall_seconds < 3, _tell(loop))
    if not expected.counts_processes:
        return
    forks = sandbox.run(Spec(probes.PROCESSES.encode(), limits=_LIMITS))
    count = int(forks.stdout) if forks.status is Status.ok and forks.stdout.strip().isdigit() else -1
    yield Check("the process limit", 0 <= count < _LIMITS.processes, _tell(forks))


def _tell(outcome: Outcome) -> str:
    """What happened, in a line."""
    last = outcome.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return " ".join([outcome.status.value, outcome.detail, *last]).strip()[:400]


def _remembered(file: Path) -> str | None:
    try:
        remembered = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return remembered.get("passed") if isinstance(remembered, dict) else None


def _remember(file: Path, passed: str) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    fresh.write_text(json.dumps({"passed": passed}))
    fresh.replace(file)


def _setting(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None
