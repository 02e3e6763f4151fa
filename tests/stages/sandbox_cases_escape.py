"""Programs that try to reach what is not theirs."""

from __future__ import annotations

from sandbox_cases import Case, limits

from millrace.limits import MIB

NETWORK = [
    Case(
        "tcp",
        """
places = ("192.0.2.1", "169.254.169.254", "127.0.0.1")
held(all(refused(lambda a=a: socket.create_connection((a, 80), 1)) for a in places))
""",
    ),
    Case("udp", "held(refused(lambda: socket.socket(2, 2).sendto(b'x', ('192.0.2.53', 53))))"),
    Case("ipv6", "held(refused(lambda: socket.create_connection(('2001:db8::1', 80), 1)))"),
    Case("raw", "held(refused(lambda: socket.socket(2, 3, 1)) and refused(lambda: socket.socket(17, 3, 3)))"),
    Case(
        "exotic_families",
        """
through = [n for n in range(64) if n not in (1, 2, 10) and refused(lambda: socket.socket(n, 1)) != errno.EPERM]
held(not through, through)
""",
    ),
    Case("vsock", "held(refused(lambda: socket.socket(40, 1)) == errno.EPERM)"),
    Case("netlink", "held(refused(lambda: socket.socket(16, 3, 0)) == errno.EPERM)"),
    Case(
        "unix_sockets_of_the_host",
        r"""
places = ("/run/docker.sock", "/var/run/docker.sock", "\0/tmp/.X11-unix/X0", "/run/dbus/system_bus_socket")
held(all(refused(lambda a=a: socket.socket(1, 1).connect(a)) for a in places))
""",
    ),
]

FILES = [
    Case(
        "secrets",
        """
places = "/root /home /etc /srv /var /run /work /opt /sys /boot /mnt /media /usr/bin/sh /usr/bin/env".split()
held(not any(map(os.path.exists, places)), list(filter(os.path.exists, places)))
""",
    ),
    Case(
        "root_by_way_of_proc",
        "held(not any(os.path.exists(f'/proc/{p}/{d}/etc') for p in ('1', 'self') for d in ('root', 'cwd')))",
    ),
    Case("environment", "held(set(os.environ) <= {'PATH', 'HOME', 'LANG', 'PWD'}, dict(os.environ))"),
    Case(
        "first_environment",
        r"""
text = open("/proc/1/environ").read()
held(all(entry.split("=")[0] in ("PATH", "PWD", "") for entry in text.split("\0")), text)
""",
    ),
    Case(
        "write_outside",
        """
places = "/x /usr/x /usr/bin/python3 /job/main.py /job/x /dev/x /proc/sys/kernel/hostname".split() + [os.__file__]
through = [place for place in places if not refused(lambda: open(place, "ab"))]
held(not through, through)
""",
    ),
    Case(
        "remount",
        """
held(call("mount", None, b"/", None, 32, None) and call("umount2", b"/usr", 2)
     and call("mount", b"none", b"/tmp", b"tmpfs", 0, None) and call("chroot", b"/tmp"))
""",
    ),
    Case(
        "devices",
        """
usual = "console core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
shown = set(os.listdir("/dev")) - set(usual)
held(not shown and refused(lambda: os.mknod("/tmp/d", 0o20666, os.makedev(1, 1))), shown)
""",
    ),
    Case("descriptors", "held(sorted(map(int, os.listdir('/proc/self/fd')))[:-1] == [0, 1, 2])"),
    Case(
        "bytecode_of_the_library",
        "held(refused(lambda: open(os.path.dirname(os.__file__) + '/__pycache__/json.pyc', 'wb')))",
    ),
    Case(
        "hijacked_imports",
        "held('site' not in sys.modules and not {'', '/tmp', '/job'} & set(sys.path) and sys.flags.isolated, sys.path)",
    ),
    Case("cgroups", "held(not os.path.exists('/sys') and refused(lambda: os.mkdir('/proc/x')))"),
    Case(
        "stdin_is_sealed",
        "held(refused(lambda: os.write(os.open('/proc/self/fd/0', os.O_RDWR), b'x')))",
        stdin=b"given",
    ),
]

OTHERS = [
    Case(
        "daemon",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(60)
    os._exit(0)
print("gone")
""",
        judge=lambda o: o.stdout == b"gone\n" and o.usage.wall_seconds < 2,
    ),
    Case("kill_init", "refused(lambda: os.kill(1, 9)); time.sleep(0.1); print('held')"),
    Case("kill_everyone", "signal.signal(15, signal.SIG_IGN); refused(lambda: os.kill(-1, 15)); print('held')"),
    Case(
        "own_processes_only",
        "seen = {int(p) for p in os.listdir('/proc') if p.isdigit()}\nheld(seen <= {1, os.getpid()}, seen)",
    ),
    Case(
        "command_line_of_the_box",
        "text = open('/proc/1/cmdline', 'rb').read()\nheld(b'/root' not in text and b'bind' not in text, text)",
    ),
]

KERNEL = [
    Case("new_namespaces", "held(call('unshare', 0x10000000) and call('unshare', 0x40000000))"),
    Case("clone_into_namespace", "held(raw(56, 220, 0x10000000 | 17, 0, 0, 0, 0) == errno.EPERM)"),
    Case("clone3", "held(raw(435, 435, 0, 0) == errno.ENOSYS)"),
    Case("ptrace", "held(call('ptrace', 16, 1, 0, 0) == errno.EPERM)"),
    Case("other_memory", "held(call('process_vm_readv', 1, 0, 0, 0, 0, 0) == errno.EPERM)"),
    Case(
        "first_process_is_no_way_up",
        """
# Were /proc writable, a job could write into the box's first process; so that is as poor as the job, for good measure.
first = status(1)
poor = not any(int(first[name], 16) for name in ("CapEff", "CapPrm", "CapBnd"))
writable = not refused(lambda: os.open("/proc/1/mem", os.O_RDWR))
held(poor and first["Seccomp"] == "2" and first["NoNewPrivs"] == "1" and not writable, first, writable)
""",
    ),
    Case(
        "kernel_surface",
        """
calls = {
    "io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "kexec_load": (246, 104),
    "init_module": (175, 105), "open_by_handle_at": (304, 265), "kcmp": (312, 272), "move_mount": (429, 429),
    "fsopen": (430, 430), "open_tree": (428, 428), "pidfd_getfd": (438, 438), "setns": (308, 268),
    "shmget": (29, 194), "msgget": (68, 186), "swapon": (167, 224), "reboot": (169, 142), "quotactl": (179, 60),
    "settimeofday": (164, 170), "personality": (135, 92), "process_madvise": (440, 440), "mount_setattr": (442, 442),
}
through = [name for name, numbers in calls.items() if raw(*numbers, 0, 0, 0, 0, 0) != errno.EPERM]
held(not through, through)
""",
    ),
    Case(
        "terminal_input",
        "import fcntl\nheld(refused(lambda: fcntl.ioctl(0, 0x5412, b'x')) and refused(lambda: open('/dev/tty', 'rb')))",
    ),
    Case(
        "privileges",
        """
mine = status("self")
poor = not any(int(mine[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"))
filtered = mine["NoNewPrivs"] == "1" and mine["Seccomp"] == "2"
held(os.getuid() == 1000 and poor and filtered and refused(lambda: os.setuid(0)), mine)
""",
    ),
    Case(
        "raise_limits",
        """
import resource
def raised(name):
    try:
        resource.setrlimit(name, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        return False
    return True
names = ("RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_CPU", "RLIMIT_CORE", "RLIMIT_STACK")
through = [name for name in names if raised(getattr(resource, name))]
held(not through, through)
""",
    ),
    Case(
        "priority",
        """
real_time = lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
held(refused(lambda: os.setpriority(os.PRIO_PROCESS, 0, -10)) and refused(real_time))
""",
    ),
    Case(
        "oom_score",
        """
score = int(open("/proc/self/oom_score_adj").read())
def lower(to):
    with open("/proc/self/oom_score_adj", "w") as file: file.write(to)
held(score >= 800 and refused(lambda: lower("-1000")) and refused(lambda: lower("0")), score)
""",
    ),
    Case(
        "other_architecture",
        r"""
import mmap
if platform.machine() != "x86_64":
    held(True)
    sys.exit()
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # getpid by way of the 32-bit entry
pid = os.fork()
if pid == 0:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    os._exit(0)
end = os.waitpid(pid, 0)[1]
held(os.WIFSIGNALED(end) and os.WTERMSIG(end) in (11, 31), end)
""",
    ),
    Case(
        "x32",
        """
pid = os.fork()
if pid == 0: os._exit(3 if raw(0x40000000 + 39, 0x40000000, 0) == 0 else 0)
held(os.waitpid(pid, 0)[1] != 3 << 8)
""",
    ),
]

ALLOWED = [
    Case(
        "the_standard_library_works",
        r"""
import asyncio, bz2, decimal, hashlib, lzma, multiprocessing, shutil, sqlite3, ssl, subprocess, tempfile, threading
import zoneinfo
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/a", "w").write("a"); shutil.copy2(folder + "/a", folder + "/b"); shutil.copytree(folder, "/tmp/c")
base = sqlite3.connect("/tmp/x.db"); base.execute("create table t (x)"); base.execute("insert into t values (1)")
base.commit()
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
child = subprocess.run([sys.executable, "-c", "print(40 + 2)"], capture_output=True, text=True).stdout
async def main(): return await asyncio.to_thread(lambda: 7)
held(child == "42\n" and asyncio.run(main()) == 7 and zoneinfo.ZoneInfo("Europe/Berlin") and hashlib.sha256(b"x"))
""",
        limits=limits(memory_bytes=512 * MIB),
    ),
]

CASES = [*NETWORK, *FILES, *OTHERS, *KERNEL, *ALLOWED]
