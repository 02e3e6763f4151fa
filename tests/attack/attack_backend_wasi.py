"""The `wasi` back end in the corpus, and where a program that is a WASM module ends differently.

There is no kernel that such a program could speak to: most attacks end because what they would use does not exist.
Where there is another way to try the same, the table has a program that takes it.
"""

from __future__ import annotations

from pathlib import Path

from attack_case import EXIT, HELD, SIGNAL, TIMEOUT, Difference, Differences, complains_of, limits

from millrace.errors import Declined
from millrace.settings import SandboxSettings, Settings
from stages.execute.sandbox.interface import Outcome, Sandbox
from stages.execute.sandbox.wasi.opening import open_wasi
from stages.execute.sandbox.wasi.probes import GUARD

SETTINGS = Settings(
    _env_file=None, data_dir=Path(__file__).parents[2] / ".millrace", sandbox=SandboxSettings(backend="wasi")
)

TOOLS = """
import errno, os, platform, signal, socket, sys, time
def refused(attempt):
    try:
        attempt()
    except OSError as error:
        return error.errno or True
    return 0
def call(name, *arguments):
    import ctypes
raw = call
def status(pid):
    lines = open(f"/proc/{pid}/status").read().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
def held(condition, *what):
    print("held" if condition else f"BROKEN {what}")
"""
PRELUDE = GUARD + TOOLS


def not_fetched() -> str:
    """Why the build cannot be used here and what would change that; empty if it can."""
    try:
        open_wasi(SETTINGS)
    except Declined as error:
        return f"{error.message}: run `{error.hint}` in the repository's folder"
    return ""


def open_fetched() -> Sandbox:
    """The back end with the build that lies in this checkout, compiled."""
    sandbox = open_wasi(SETTINGS)
    sandbox.compiled.descriptor()
    return sandbox


def _without(what: str, word: str) -> Difference:
    return Difference(f"there is no {what}", EXIT, complains_of(word))


def _instead(reason: str, program: str) -> Difference:
    return Difference(reason, judge=HELD, program=program)


def _a_twentieth_of_a_core(outcome: Outcome) -> bool:
    return outcome.returncode == -9 and 0.5 <= (outcome.usage.cpu_seconds or 0) < 1.5


_SEES_IT = Difference("the module's memory does not grow: the program sees MemoryError", EXIT)

_FORKS = "fork_bomb_count mem_bomb_children daemon_grandchild"
_SIGNALS = "kills_itself kill_init kill_all kill_outside"
_CALLS = """
    memfd_bomb sys_mount sys_userns clone_into_namespace clone3 sys_ptrace other_memory sys_kernel_surface
"""
_PROC = """
    proc1_environ proc_cmdline cgroup_escape own_processes_only own_namespaces first_process_is_no_way_up setuid_binary
    proc_oom_adj
"""
_FOLDERS = "huge_single_file tmp_is_private symlink_result devices"

_ADDRESS = "held(all(refused(lambda a=a: socket.socket(a[0], 1).connect(a[1])) for a in {addresses}))"

DIFFERENCES: Differences = {
    **dict.fromkeys(_FORKS.split(), _without("fork", "no attribute 'fork'")),
    **dict.fromkeys(_SIGNALS.split(), _without("signal that could be sent", "no attribute 'kill'")),
    **dict.fromkeys(_CALLS.split(), _without("way to make a system call", "No module named 'ctypes'")),
    **dict.fromkeys(_PROC.split(), _without("/proc", "No such file or directory: '/proc")),
    **dict.fromkeys(_FOLDERS.split(), _without("folder to write to, and no device", "No such file or directory")),
    "abort": Difference(
        "without fork; it aborts the module", SIGNAL, lambda o: o.returncode == -6, program="os.abort()"
    ),
    "segv_ctypes": Difference(
        "without ctypes; it overruns the module's stack",
        SIGNAL,
        lambda o: o.returncode == -11,
        program="""
sys.setrecursionlimit(10 ** 8)
class Endless:
    def __getattr__(self, name): return getattr(self, name)
Endless().x
""",
    ),
    "fork_bomb": Difference("there is no fork", EXIT, complains_of("no attribute 'fork'"), limits()),
    "mem_bomb": _SEES_IT,
    "zip_bomb": _SEES_IT,
    "thread_bomb": _instead(
        "the first thread is refused",
        """
import threading
try:
    threading.Thread(target=print).start()
except RuntimeError:
    print("held")
""",
    ),
    "cpu_quota": Difference(
        "the share of the processor is kept as a sum",
        TIMEOUT,
        _a_twentieth_of_a_core,
        limits(cpus=0.05),
        "while True: pass",
    ),
    "fd_exhaustion": _instead(
        "there is no device; files are the module's own, in its own memory, and the engine opens none",
        "kept = []\nheld(refused(lambda: [kept.append(os.open(os.__file__, 0)) for _ in range(5000)]))",
    ),
    "the_standard_library_works": _instead(
        "the build has less of it",
        """
import base64, bz2, collections, csv, datetime, decimal, fractions, hashlib, heapq, itertools, json, math, random, re
import sqlite3, statistics, struct, uuid, zlib
base = sqlite3.connect(":memory:"); base.execute("create table t (x)"); base.execute("insert into t values (1)")
same = zlib.decompress(zlib.compress(b"x")) == bz2.decompress(bz2.compress(b"x")) == b"x"
held(same and list(base.execute("select x from t")) == [(1,)] and decimal.Decimal("0.1") * 3 == decimal.Decimal("0.3"))
""",
    ),
    "net_tcp": _instead(
        "names cannot be looked up, so it takes numbers",
        _ADDRESS.format(addresses="[(2, (h, 80)) for h in ('192.0.2.1', '169.254.169.254', '127.0.0.1')]"),
    ),
    "net_localhost_host_service": _instead(
        "names cannot be looked up, so it takes numbers",
        _ADDRESS.format(addresses="[(2, ('127.0.0.1', HOST['port']))]"),
    ),
    "net_ipv6": _instead(
        "names cannot be looked up, so it takes numbers", _ADDRESS.format(addresses="[(10, ('2001:db8::1', 80))]")
    ),
    "vsock": _instead("the engine refuses, with another number", "held(refused(lambda: socket.socket(40, 1)))"),
    "netlink": _instead("the engine refuses, with another number", "held(refused(lambda: socket.socket(16, 3, 0)))"),
    "sys_af_exotic": _instead(
        "the engine refuses, with other numbers, every family",
        "through = [n for n in range(64) if not refused(lambda: socket.socket(n, 1))]\nheld(not through, through)",
    ),
    "write_outside": _instead(
        "the library lies in the module's own memory, where it may be written, and is gone with it",
        """
places = "/x /usr/x /usr/bin/python3 /job/main.py /job/x /dev/x /proc/sys/kernel/hostname".split()
through = [place for place in places if not refused(lambda: open(place, "ab"))]
held(not through, through)
""",
    ),
    "inherited_fds": _instead(
        "there is no list of them; number 3 is the module's own library",
        "through = [n for n in range(4, 256) if not refused(lambda: os.fstat(n))]\nheld(not through, through)",
    ),
    "sys_tiocsti": _without("ioctl", "No module named 'fcntl'"),
    "int80_x32": _without("machine code that a program could write", "No module named 'mmap'"),
    "prlimit_raise": _without("resource limit within its reach", "No module named 'resource'"),
    "sched_hog": _without("priority within its reach", "no attribute 'setpriority'"),
}
