"""The system calls a job may make: a list of what is allowed, everything else is refused with EPERM.

Without it the namespaces alone let through AF_VSOCK (which reaches the hypervisor whatever the network namespace),
netlink, io_uring, keyrings and tracing of the box's own first process.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

_FILES = """
    read write readv writev pread64 pwrite64 preadv pwritev open openat close close_range lseek stat fstat lstat
    newfstatat statx access faccessat faccessat2 readlink readlinkat getdents64 getcwd chdir fchdir mkdir mkdirat rmdir
    unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat chmod fchmod fchmodat truncate ftruncate
    fallocate fsync fdatasync utimensat umask fadvise64 sendfile copy_file_range flock fcntl dup dup2 dup3 pipe pipe2
    statfs fstatfs getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
"""
_WAITING = """
    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2
    timerfd_create timerfd_settime timerfd_gettime
"""
_MEMORY = "mmap munmap mprotect mremap madvise brk mincore mlock munlock membarrier msync"
_SIGNALS = """
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack kill tgkill tkill
    pause alarm getitimer setitimer
"""
_PROCESSES = """
    fork vfork execve exit exit_group wait4 waitid getpid gettid getppid getuid geteuid getgid getegid getgroups
    getresuid getresgid getpgrp getpgid setpgid getsid setsid getpriority setpriority set_tid_address set_robust_list
    get_robust_list futex rseq arch_prctl prctl prlimit64 getrlimit setrlimit getrusage times sysinfo uname sched_yield
    sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min getcpu capget
"""
_TIME = """
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getrandom restart_syscall
"""
_SOCKETS = """
    bind listen accept accept4 connect getsockname getpeername sendto recvfrom sendmsg recvmsg shutdown getsockopt
    setsockopt
"""
ALLOWED = tuple(f"{_FILES} {_WAITING} {_MEMORY} {_SIGNALS} {_PROCESSES} {_TIME} {_SOCKETS}".split())
"""Allowed with any argument. Names that an architecture does not have are left out there."""

SOCKET_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: the network namespace is empty
IOCTLS = (0x5401, 0x5413, 0x5421, 0x541B, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONBIO FIONREAD FIONCLEX FIOCLEX
NEW_NAMESPACES = 0x7E02_0000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET


@dataclass(frozen=True)
class Argument:
    """The argument at `index` equals `value`, of its bits only those in `mask` if there is one."""

    index: int
    value: int
    mask: int | None = None


@dataclass(frozen=True)
class Rule:
    """Calls by name, all of them or those with one argument, allowed, or refused with the error `refusal`."""

    names: tuple[str, ...]
    argument: Argument | None = None
    refusal: int | None = None


RULES = (
    Rule(ALLOWED),
    Rule(("clone",), Argument(0, 0, mask=NEW_NAMESPACES)),
    # clone3 takes its flags from memory, which a filter cannot see: "not implemented" makes libc use clone.
    Rule(("clone3",), refusal=errno.ENOSYS),
    *(Rule(("socket",), Argument(0, family)) for family in SOCKET_FAMILIES),
    Rule(("socketpair",), Argument(0, 1)),
    *(Rule(("ioctl",), Argument(1, request)) for request in IOCTLS),
)
"""The whole list; what no rule names is refused with EPERM."""


@cache
def allow_list_program() -> bytes:
    """The filter as a BPF program for this machine's architecture; other architectures' calls are killed.

    Raises RuntimeError or OSError if libseccomp is missing or refuses.
    """
    import pyseccomp as scmp  # its import fails where libseccomp is missing; `missing_tools` says so first

    here = scmp.system_arch()
    filtering = scmp.SyscallFilter(scmp.ERRNO(errno.EPERM))
    for rule in RULES:
        action = scmp.ALLOW if rule.refusal is None else scmp.ERRNO(rule.refusal)
        for name in rule.names:
            if scmp.resolve_syscall(here, name) >= 0:
                filtering.add_rule(action, name, *_compared(scmp, rule.argument))
    with os.fdopen(os.memfd_create("seccomp"), "w+b") as file:
        filtering.export_bpf(file)
        file.flush()
        file.seek(0)
        return file.read()


def docker_profile(extra: Sequence[Rule] = (), *, own_errors: bool = True) -> str:
    """The same list, and `extra` rules, as the JSON that Docker takes; it too kills other architectures' calls.

    Docker's own list lets AF_VSOCK, netlink, io_uring and tracing through, depending on its version. Where a runtime
    knows no error but EPERM (`own_errors` false), the rules that name another one become permissions.
    """
    rules = (*RULES, *extra)
    calls = [_profile_entry(rule if own_errors else replace(rule, refusal=None)) for rule in rules]
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno.EPERM, "syscalls": calls})


def _compared(scmp: Any, argument: Argument | None) -> list[Any]:
    if argument is None:
        return []
    if argument.mask is not None:
        return [scmp.Arg(argument.index, scmp.MASKED_EQ, argument.mask, argument.value)]
    return [scmp.Arg(argument.index, scmp.EQ, argument.value)]


def _profile_entry(rule: Rule) -> dict[str, Any]:
    entry: dict[str, Any] = {"names": list(rule.names), "action": "SCMP_ACT_ALLOW"}
    if rule.refusal is not None:
        entry |= {"action": "SCMP_ACT_ERRNO", "errnoRet": rule.refusal}
    if (argument := rule.argument) is not None:
        masked = argument.mask is not None
        entry["args"] = [
            {
                "index": argument.index,
                "value": argument.mask if masked else argument.value,
                "valueTwo": argument.value if masked else 0,
                "op": "SCMP_CMP_MASKED_EQ" if masked else "SCMP_CMP_EQ",
            }
        ]
    return entry
