"""The system calls that wasmtime makes while a program runs: what a program would have if it broke out of the engine.

No file can be opened, nothing executed or signalled, no socket made. A process needs no privilege to filter itself.
"""

from __future__ import annotations

import errno
import os
from functools import cache

_STREAMS = "read readv write writev close lseek fstat newfstatat fcntl poll ppoll"
_WAITING = "epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 futex nanosleep clock_nanosleep restart_syscall"
_MEMORY = "mmap munmap mprotect mremap madvise brk"
_THREADS = """
    exit exit_group gettid getpid getppid set_robust_list rseq sched_yield sched_getaffinity getcpu membarrier
    set_tid_address
"""
_SIGNALS = "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack"
_CLOCKS = "clock_gettime clock_getres gettimeofday time getrandom getrusage times"
ALLOWED = tuple(f"{_STREAMS} {_WAITING} {_MEMORY} {_THREADS} {_SIGNALS} {_CLOCKS}".split())

_AWAITING = "recvmsg pread64 dup2 dup3"
"""What a process needs beside these that is filtered before it has its job: it is handed that as open files."""

_CLONE_VM, _CLONE_THREAD = 0x100, 0x10000


@cache
def engine_filter(*, awaiting: bool = False) -> bytes:
    """The list as a BPF program for this machine's architecture; what is not on it fails with EPERM.

    `awaiting` is for a process that waits for its job behind the filter. It may lower its own limits then.

    Raises ImportError, OSError or RuntimeError if libseccomp is missing or refuses.
    """
    import pyseccomp as scmp  # its import fails where libseccomp is missing

    here = scmp.system_arch()
    rules = scmp.SyscallFilter(scmp.ERRNO(errno.EPERM))
    for name in (*ALLOWED, *(_AWAITING.split() if awaiting else ())):
        if scmp.resolve_syscall(here, name) >= 0:
            rules.add_rule(scmp.ALLOW, name)
    if awaiting:
        rules.add_rule(scmp.ALLOW, "prlimit64", scmp.Arg(0, scmp.EQ, 0))
    threads = _CLONE_VM | _CLONE_THREAD
    rules.add_rule(scmp.ALLOW, "clone", scmp.Arg(0, scmp.MASKED_EQ, threads, threads))
    # clone3 takes its flags from memory, which a filter cannot see: "not implemented" makes libc use clone.
    rules.add_rule(scmp.ERRNO(errno.ENOSYS), "clone3")
    with os.fdopen(os.memfd_create("seccomp"), "w+b") as file:
        rules.export_bpf(file)
        file.flush()
        file.seek(0)
        return file.read()
