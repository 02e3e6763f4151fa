"""Programs that ask the kernel for more than a job may have."""

from __future__ import annotations

from attack_case import Case

FAMILIES = [
    Case(
        "sys_af_exotic",
        """
through = [n for n in range(64) if n not in (1, 2, 10) and refused(lambda: socket.socket(n, 1)) != errno.EPERM]
held(not through, through)
""",
    ),
    Case("netlink", "held(refused(lambda: socket.socket(16, 3, 0)) == errno.EPERM)"),
]

CALLS = [
    Case(
        "sys_mount",
        """
held(call("mount", None, b"/", None, 32, None) and call("umount2", b"/usr", 2)
     and call("mount", b"none", b"/tmp", b"tmpfs", 0, None) and call("chroot", b"/tmp"))
""",
    ),
    Case("sys_userns", "held(call('unshare', 0x10000000) and call('unshare', 0x40000000))"),
    Case("clone_into_namespace", "held(raw(56, 220, 0x10000000 | 17, 0, 0, 0, 0) == errno.EPERM)"),
    Case("clone3", "held(raw(435, 435, 0, 0) == errno.ENOSYS)"),
    Case("sys_ptrace", "held(call('ptrace', 16, 1, 0, 0) == errno.EPERM)"),
    Case("other_memory", "held(call('process_vm_readv', 1, 0, 0, 0, 0, 0) == errno.EPERM)"),
    Case(
        "sys_kernel_surface",
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
        "sys_tiocsti",
        """
import fcntl
held(refused(lambda: fcntl.ioctl(0, 0x5412, b'x')) == errno.EPERM and refused(lambda: open('/dev/tty', 'rb')))
""",
    ),
    Case(
        "int80_x32",
        r"""
import mmap
pid = os.fork()
if pid == 0: os._exit(3 if raw(0x40000000 + 39, 0x40000000, 0) == 0 else 0)
x32 = os.waitpid(pid, 0)[1]
if platform.machine() != "x86_64":
    held(x32 != 3 << 8)
    sys.exit()
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # getpid by way of the 32-bit entry
pid = os.fork()
if pid == 0:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    os._exit(0)
end = os.waitpid(pid, 0)[1]
held(x32 != 3 << 8 and os.WIFSIGNALED(end) and os.WTERMSIG(end) in (11, 31), x32, end)
""",
    ),
]

PRIVILEGES = [
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
        "setuid_binary",
        """
mine = status("self")
poor = not any(int(mine[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"))
filtered = mine["NoNewPrivs"] == "1" and mine["Seccomp"] == "2"
setuid = [name for name in os.listdir("/usr/bin") if os.stat("/usr/bin/" + name).st_mode & 0o6000]
held(os.getuid() == 1000 and poor and filtered and not setuid and refused(lambda: os.setuid(0)), mine, setuid)
""",
    ),
    Case(
        "prlimit_raise",
        """
import resource
def raised(name, pid):
    try:
        resource.prlimit(pid, name, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        return False
    return True
names = ("RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_CPU", "RLIMIT_CORE", "RLIMIT_STACK")
through = [(name, pid) for name in names for pid in (0, 1) if raised(getattr(resource, name), pid)]
held(not through, through)
""",
    ),
    Case(
        "sched_hog",
        """
real_time = lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
held(refused(lambda: os.setpriority(os.PRIO_PROCESS, 0, -10)) and refused(real_time))
""",
    ),
    Case(
        "proc_oom_adj",
        """
score = int(open("/proc/self/oom_score_adj").read())
def lower(to):
    with open("/proc/self/oom_score_adj", "w") as file: file.write(to)
held(score >= 800 and refused(lambda: lower("-1000")) and refused(lambda: lower("0")), score)
""",
    ),
]

CASES = [*FAMILIES, *CALLS, *PRIVILEGES]
