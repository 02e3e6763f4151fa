"""What a container is created with: everything that Docker can take away from it."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import time
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.types import LogConfig, Mount, Ulimit

from millrace.limits import MIB, Limits
from stages.execute.sandbox.arguments import ENVIRONMENT, PROGRAM
from stages.execute.sandbox.cgroup import CPU_PERIOD_MICROSECONDS, quota_microseconds
from stages.execute.sandbox.containers.daemon import Daemon
from stages.execute.sandbox.containers.image import Image
from stages.execute.sandbox.containers.meter import Meter
from stages.execute.sandbox.launch import LOCKED_BYTES, STACK_BYTES, VICTIM_SCORE, cpu_seconds_limit
from stages.execute.sandbox.seccomp import Argument, Rule, docker_profile

OWNER, USER, BOOT, UNTIL = "millrace.owner", "millrace.user", "millrace.boot", "millrace.until"
"""Labels of a container: which process's it is (see `owner.new_name`), which user's, on which boot, and when its time
is over whatever became of that process, in seconds since that boot."""

LATE_SECONDS = 60
"""How long after its job's time a container may still be there: it took time to start, and takes some to end."""

OWN_PROCESSES = 1
"""Docker's own first process in each container."""
GVISOR_BYTES = 64 * MIB
"""What gVisor's kernel needs beside the job, in the same control group."""
GVISOR_THREADS = 1024
"""The control group counts gVisor's threads and not the job's; without enough of them it gives up, with exit code 2."""

_TIOCSPGRP = 0x5410
# The container's first process, which collects orphans and passes signals on, asks for the terminal before it starts
# the job: that there is none lets it go on, that it may not ask would end it.
_INIT_RULE = Rule(("ioctl",), Argument(1, _TIOCSPGRP), refusal=errno.ENOTTY)
# gVisor of 2022 knows `pselect6`, which is what `select` is made of, by this name alone.
_GVISOR_RULE = Rule(("pselect",))
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def seccomp_profile(daemon: Daemon) -> str:
    """Our list of system calls for that runtime.

    gVisor's filter (its option --oci-seccomp) knows no error but EPERM. There the calls that we answer with another
    one go to gVisor's kernel, which has no terminal to give away, and whose namespaces are its own invention.
    """
    return docker_profile([_INIT_RULE, *([_GVISOR_RULE] if daemon.gvisor else [])], own_errors=not daemon.gvisor)


def realm() -> dict[str, str]:
    """Labels that tell where the pid of an owner means something to us."""
    return {USER: str(os.geteuid()), BOOT: _BOOT_ID.read_text().strip()}


def since_boot() -> float:
    """Seconds since this machine started, the same in all its containers; nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def container_options(
    api: APIClient, daemon: Daemon, image: Image, limits: Limits, *, name: str, uid: int, meter: Meter | None = None
) -> Mapping[str, Any]:
    """The arguments of `create_container` for one run of the program that will lie at /job/main.py."""
    return hardened_options(
        api,
        daemon,
        image,
        [image.python, "-I", "-S", "-B", PROGRAM],
        limits,
        name=name,
        uid=uid,
        environment=ENVIRONMENT,
        # A volume of Docker's, as files cannot be put into a read-only root; the job's user can only read it.
        mounts=[Mount(str(Path(PROGRAM).parent), None, type="volume", no_copy=True)],
        meter=meter,
    )


def hardened_options(
    api: APIClient,
    daemon: Daemon,
    image: Image,
    command: Sequence[str],
    limits: Limits,
    *,
    name: str,
    uid: int,
    environment: Mapping[str, str],
    mounts: Sequence[Mount] = (),
    meter: Meter | None = None,
) -> Mapping[str, Any]:
    """The arguments of `create_container` for `command` as the user `uid`, with /tmp as all that it can write to.

    `environment` is all that it sees of variables.
    """
    # A name without a value takes the variable away; Docker itself would set HOSTNAME.
    variables = [*(f"{key}={value}" for key, value in environment.items())]
    variables += sorted({"HOSTNAME", *image.variables} - set(environment))
    return {
        "name": name,
        "image": image.id,
        "entrypoint": list(command[:1]),
        "command": list(command[1:]),
        "user": f"{uid}:{uid}",
        "working_dir": "/tmp",  # noqa: S108 the container's own
        "hostname": "sandbox",
        "environment": variables,
        # Else the SDK hands the worker's proxies, with their passwords, to the container.
        "use_config_proxy": False,
        "healthcheck": {"test": ["NONE"]},
        "labels": {OWNER: name, **realm(), UNTIL: str(ceil(since_boot() + limits.wall_seconds + LATE_SECONDS))},
        # Also for a job that is given nothing to read: else its input is the machine's own /dev/null, which gVisor
        # (20221219) gives to the user `nobody`, outside as well as inside.
        "stdin_open": True,
        "host_config": _host_config(api, daemon, limits, uid, mounts, meter),
    }


def program_archive(program: bytes) -> bytes:
    """The archive that puts the program where it is run: the job can read it and change nothing about it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo(Path(PROGRAM).name)
        entry.size, entry.mode = len(program), 0o444
        archive.addfile(entry, io.BytesIO(program))
    return file.getvalue()


_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/scsi"),
    *("/proc/sched_debug", "/proc/timer_list", "/proc/timer_stats", "/sys", "/dev/mqueue"),
)
"""Docker's own list, and /sys, which tells about the machine's devices, and a file system nobody may write to."""


def _host_config(
    api: APIClient, daemon: Daemon, limits: Limits, uid: int, mounts: Sequence[Mount], meter: Meter | None
) -> Any:
    memory = limits.memory_bytes + (GVISOR_BYTES if daemon.gvisor else 0)
    pids = limits.processes + (GVISOR_THREADS if daemon.gvisor else OWN_PROCESSES)
    config: dict[str, Any] = api.create_host_config(
        runtime=daemon.runtime,
        cgroup_parent=meter.parent if meter else None,
        init=True,
        network_mode="none",
        # Docker would copy the machine's name servers and search domains into the container.
        dns=["127.0.0.1"],
        dns_search=["."],
        ipc_mode="none",
        cgroupns="private",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true", f"seccomp={seccomp_profile(daemon)}"],
        read_only=True,
        tmpfs={"/tmp": f"rw,exec,nosuid,nodev,mode=0700,uid={uid},gid={uid},size={limits.scratch_bytes}"},  # noqa: S108
        mounts=list(mounts),
        mem_limit=memory,
        memswap_limit=memory,
        pids_limit=pids,
        cpu_period=CPU_PERIOD_MICROSECONDS,
        cpu_quota=quota_microseconds(limits.cpus),
        oom_score_adj=VICTIM_SCORE,
        ulimits=_resource_limits(limits),
        # What a job writes is read as it comes; a log would fill the machine's disk.
        log_config=LogConfig(type="none", config={}),
    )
    # Writable, /proc would let the job write to the memory of the container's first process.
    return {**config, "MaskedPaths": list(_MASKED), "ReadonlyPaths": ["/proc"]}


def _resource_limits(limits: Limits) -> list[Ulimit]:
    cpu = cpu_seconds_limit(limits)
    both = {
        "core": 0,
        "fsize": limits.scratch_bytes,
        "nofile": limits.open_files,
        "memlock": LOCKED_BYTES,
        "stack": STACK_BYTES,
        "msgqueue": 0,
    }
    # First the signal that tells CPU time from a kill, a second later the one that cannot be ignored.
    return [Ulimit(name="cpu", soft=cpu, hard=cpu + 1), *(Ulimit(name=n, soft=v, hard=v) for n, v in both.items())]
