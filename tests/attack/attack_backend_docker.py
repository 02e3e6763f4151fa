"""The sandbox of containers, under runc and under gVisor, and where it ends a case differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attack_case import EXIT, HELD, OOM, SIGNAL, TIMEOUT, Difference, Differences, any_output

from millrace.errors import Declined
from millrace.settings import SandboxSettings, Settings
from stages.execute.sandbox.interface import Outcome

if TYPE_CHECKING:
    from stages.execute.sandbox.containers.sandbox import DockerSandbox


def settings(runtime: str) -> Settings:
    return Settings(_env_file=None, sandbox=SandboxSettings(backend="docker", runtime=runtime))


def unavailable(runtime: str) -> str:
    from stages.execute.sandbox.containers.daemon import find_daemon  # an ordinary user's tests lack the SDK

    try:
        find_daemon(settings(runtime).sandbox)
    except Declined as error:
        return f"{error.message}: as root, export DOCKER_HOST=$(.ci/docker start)"
    return ""


def opened(runtime: str) -> DockerSandbox:
    from stages.execute.sandbox.containers.opening import open_docker

    return open_docker(settings(runtime))


_DOCKER_FILES = """
places = "/root /home /srv /var /run /work /opt /boot /mnt /media /usr/bin/sh /usr/bin/env /.docker".split()
shown = [place for place in places if os.path.exists(place)]
files = set(os.listdir("/etc"))
text = "".join(open("/etc/" + name).read() for name in ("hosts", "hostname", "resolv.conf"))
own = files <= {"hosts", "hostname", "resolv.conf", "mtab"} and "sandbox" in text and "nameserver 127.0.0.1" in text
"""

_COMMON: Differences = {
    "root_by_way_of_proc": Difference(
        "every container has an /etc: what must not be there is the machine's own",
        program="""
places = [f"/proc/{p}/{d}/{f}" for p in ("1", "self") for d in ("root", "cwd") for f in ("etc/passwd", "root", "home")]
held(not any(map(os.path.exists, places)))
""",
    ),
    "proc1_environ": Difference(
        "the container's first process is Docker's init, which has the job's own environment",
        program=r"""
text = open("/proc/1/environ").read()
known = all(entry.split("=")[0] in ("PATH", "HOME", "LANG", "") for entry in text.split("\0"))
held(known and HOST["secret"] not in text + open("/proc/self/environ").read(), text)
""",
    ),
}

RUNC: Differences = {
    **_COMMON,
    "read_secrets": Difference(
        "Docker gives every container three files in /etc, which tell nothing here, and a /sys, which we cover",
        program=_DOCKER_FILES + "held(own and not shown and os.listdir('/sys') == [], shown, files, text)",
    ),
    "devices": Difference(
        "/dev/mqueue is there, covered with an empty folder that nobody may write to",
        program="""
usual = "core fd full mqueue null ptmx pts random stderr stdin stdout tty urandom zero".split()
shown = set(os.listdir("/dev")) - set(usual)
queue = refused(lambda: open("/dev/mqueue/x", "w")) and not os.listdir("/dev/mqueue")
held(not shown and queue and refused(lambda: os.mknod("/tmp/d", 0o20666, os.makedev(1, 1))), shown)
""",
    ),
    "cgroup_escape": Difference(
        "/sys is there, covered with an empty folder",
        program="""
own = {line.rstrip().split(":", 2)[2] for line in open("/proc/self/cgroup")}
held(own == {"/"} and os.listdir("/sys") == [] and refused(lambda: os.mkdir("/proc/x"))
     and refused(lambda: os.mkdir("/sys/x"))
     and call("mount", b"none", b"/tmp", b"cgroup", 0, b"memory") and call("mount", b"n", b"/tmp", b"cgroup2", 0, None)
     and refused(lambda: open("/sys/fs/cgroup/memory/release_agent", "w")), own)
""",
    ),
    "stdin_is_sealed": Difference(
        "standard input is a pipe of the job's own: what it writes there it can only read again itself",
        program="os.write(os.open('/proc/self/fd/0', os.O_RDWR), b'x'); held(os.read(0, 9) == b'givenx')",
    ),
    "own_namespaces": Difference(
        "the user namespace is the machine's, unless the daemon is set up to remap users",
        program="""
same = [name for name, theirs in HOST["namespaces"].items() if os.readlink(f"/proc/self/ns/{name}") == theirs]
held(set(same) <= {"user"} and os.getuid() >= 61000 and platform.node() == "sandbox", same, platform.node())
""",
    ),
    "setuid_binary": Difference(
        "the job's uid is its slot's, there being no user namespace to call it otherwise",
        program="""
mine = status("self")
poor = not any(int(mine[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"))
filtered = mine["NoNewPrivs"] == "1" and mine["Seccomp"] == "2"
setuid = [name for name in os.listdir("/usr/bin") if os.stat("/usr/bin/" + name).st_mode & 0o6000]
held(os.getuid() >= 61000 and poor and filtered and not setuid and refused(lambda: os.setuid(0)), mine, setuid)
""",
    ),
}


def _within_its_share(outcome: Outcome) -> bool:
    """Whether a job of a fifth of a core used that, and a little for its start, as the control group counts it."""
    used = outcome.usage.cpu_seconds
    return HELD(outcome) if used is None else used < 0.2 * outcome.usage.wall_seconds + 0.2


_EMULATED = "gVisor's kernel, not the machine's, does it for the container alone"
RUNSC: Differences = {
    **_COMMON,
    "fork_bomb": Difference(
        "the processes are gVisor's, which takes memory for each: that, the time or its threads run out first",
        TIMEOUT | OOM | EXIT,
        judge=lambda outcome: outcome.returncode in (-9, 2),
    ),
    "fork_bomb_count": Difference(
        "the processes are gVisor's, which takes memory for each: that runs out first", OOM, judge=any_output
    ),
    "cpu_quota": Difference(
        "gVisor tells a job the time during which it was held up as well, up to twice what it used",
        judge=_within_its_share,
    ),
    "thread_bomb": Difference(
        "the threads are gVisor's: it starts all 500, within the memory limit",
        judge=lambda outcome: outcome.stdout == b"BROKEN (500,)\n",
    ),
    "read_secrets": Difference(
        "Docker gives every container three files in /etc, which tell nothing here; /sys is gVisor's own invention",
        program=_DOCKER_FILES
        + "shown += os.listdir('/sys/block')\n"
        + "held(own and not shown and not os.path.exists('/sys/class/dmi'), shown, files)",
    ),
    "devices": Difference(
        f"fuse and net/tun are shown. {_EMULATED}, and our filter keeps away what they would be used with",
        program="""
usual = "fd full fuse net null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
shown = set(os.listdir("/dev")) - set(usual)
import fcntl
tun = os.open("/dev/net/tun", os.O_RDWR)
unusable = refused(lambda: fcntl.ioctl(tun, 0x400454CA, b"x" * 40)) == errno.EPERM
mountable = not call("mount", b"fuse", b"/tmp", b"fuse", 0, b"fd=3")
held(not shown and unusable and not mountable and refused(lambda: os.mknod("/tmp/d", 0o20666, 259)), shown)
""",
    ),
    "cgroup_escape": Difference(
        "/sys and /proc/self/cgroup are gVisor's own, as are the control groups that later versions show there",
        program="""
held(all(refused(lambda d=d: os.mkdir(d)) for d in ("/proc/x", "/sys/x", "/sys/fs/cgroup/x"))
     and call("mount", b"none", b"/tmp", b"cgroup", 0, b"memory") and call("mount", b"n", b"/tmp", b"cgroup2", 0, None)
     and refused(lambda: open("/sys/fs/cgroup/memory/release_agent", "w")))
""",
    ),
    "clone3": Difference(
        "its filter cannot say that clone3 is not implemented; later versions have it, with namespaces of their own",
        program="held(raw(435, 435, 0, 0) in (errno.ENOSYS, errno.EINVAL))",
    ),
    "kill_init": Difference(
        "gVisor lets a job kill the first process of its own container: the job has ended itself", SIGNAL, any_output
    ),
    "own_namespaces": Difference(
        "gVisor's kernel has namespaces of its own, of which it shows three",
        program="""
theirs = HOST["namespaces"].values()
same = [name for name in os.listdir("/proc/self/ns") if os.readlink(f"/proc/self/ns/{name}") in theirs]
held(not same and platform.node() == "sandbox", same, platform.node())
""",
    ),
    "int80_x32": Difference(
        "gVisor reads a call by way of the 32-bit entry as the 64-bit call of that number, and filters it as that",
        program=r"""
import mmap
pid = os.fork()
if pid == 0: os._exit(3 if raw(0x40000000 + 39, 0x40000000, 0) == 0 else 0)
x32 = os.waitpid(pid, 0)[1]
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\xb8" + (41).to_bytes(4, "little") + b"\xbb\x10\x00\x00\x00\xb9\x03\x00\x00\x00\xcd\x80\xc3")
end = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
held(x32 != 3 << 8 and end < 0, x32, end)
""",
    ),
    "first_process_is_no_way_up": Difference(
        "gVisor's /proc does not tell about new privileges, which its kernel gives to nobody",
        program="""
first = status(1)
poor = not any(int(first[name], 16) for name in ("CapEff", "CapPrm", "CapBnd"))
held(poor and first["Seccomp"] == "2" and first.get("NoNewPrivs", "1") == "1"
     and refused(lambda: os.open("/proc/1/mem", os.O_RDWR)), first)
""",
    ),
    "setuid_binary": Difference(
        "gVisor's /proc has no lines about new privileges and ambient capabilities; the uid is the slot's",
        program="""
mine = status("self")
poor = not any(int(mine[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd"))
setuid = [name for name in os.listdir("/usr/bin") if os.stat("/usr/bin/" + name).st_mode & 0o6000]
filtered = mine["Seccomp"] == "2" and mine.get("NoNewPrivs", "1") == "1"
held(os.getuid() >= 61000 and poor and filtered and not setuid and refused(lambda: os.setuid(0)), mine, setuid)
""",
    ),
    "sched_hog": Difference(
        "gVisor keeps the nice value as a number that nothing reads; the container's share of the CPU is the bound",
        program="held(refused(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))))",
    ),
    "proc_oom_adj": Difference(
        f"{_EMULATED}: the machine's kernel goes by what Docker wrote for the container",
        judge=lambda outcome: outcome.stdout == b"BROKEN (0,)\n",
    ),
}
