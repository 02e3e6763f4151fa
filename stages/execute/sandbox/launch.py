"""The command line that leads from the worker to bubblewrap: every step takes something away.

Done by small programs of the system, one after the other in the same process, rather than by code between fork and
exec: that would run in a copy of a process with threads, where any lock may be held for ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from millrace.limits import Limits
from stages.execute.sandbox.tools import Tools

CLEAN_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
"""The whole environment of bubblewrap itself: the job can read it in /proc/1/environ."""

STACK_BYTES = 8 * 1024 * 1024
LOCKED_BYTES = 64 * 1024
VICTIM_SCORE = 800
"""The job goes first when the machine runs out of memory; a worker's own protection is not inherited."""

_VOLUNTEER = f'echo {VICTIM_SCORE} 2>/dev/null >/proc/self/oom_score_adj || :; exec "$@"'


def launch_command(tools: Tools, limits: Limits, uid: int | None, box: Sequence[str], *, grouped: bool) -> list[str]:
    """The command that runs `box` (bubblewrap and what follows it) with less than we have ourselves.

    `uid` is the user to become, None to stay who we are; `grouped` tells whether a control group limits the memory,
    else the address space of each process is limited.
    """
    return [
        *(str(tools.sh), "-c", _VOLUNTEER, "sh"),
        *_resource_limits(tools, limits, grouped=grouped),
        *_user(tools, uid),
        # A step before this one may need variables that the box must not see.
        *(str(tools.env), "-i", *(f"{name}={value}" for name, value in CLEAN_ENVIRONMENT.items())),
        *box,
    ]


def inside_command(tools: Tools, limits: Limits, job: Sequence[str], *, grouped: bool) -> list[str]:
    """The command inside the box: `job`, behind a limit on processes where no control group counts them.

    The limit has to be set inside: outside, it would count all processes of the user.
    """
    return list(job) if grouped else [str(tools.prlimit), f"--nproc={limits.processes + 1}", "--", *job]


def cpu_seconds_limit(limits: Limits) -> int:
    """CPU time of one process that no run within its wall-clock time and its cores can reach."""
    return math.ceil(limits.wall_seconds * max(1.0, limits.cpus)) + 1


def _resource_limits(tools: Tools, limits: Limits, *, grouped: bool) -> list[str]:
    cpu = cpu_seconds_limit(limits)
    command = [
        str(tools.prlimit),
        "--core=0",
        f"--fsize={limits.scratch_bytes}",
        f"--nofile={limits.open_files}",
        f"--memlock={LOCKED_BYTES}",
        f"--stack={STACK_BYTES}",
        # First the signal that tells CPU time from a kill, a second later the one that cannot be ignored.
        f"--cpu={cpu}:{cpu + 1}",
        "--msgqueue=0",
    ]
    return [*command, *([] if grouped else [f"--as={limits.memory_bytes}"]), "--"]


def _user(tools: Tools, uid: int | None) -> list[str]:
    command = [str(tools.setpriv), "--no-new-privs", "--pdeathsig", "KILL"]
    if uid is not None:
        command += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    return [*command, "--"]
