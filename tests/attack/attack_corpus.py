"""The whole corpus, and the names that have been promised."""

from __future__ import annotations

import attack_kernel
import attack_limits
import attack_reach
from attack_case import Case

CASES: list[Case] = [*attack_limits.CASES, *attack_reach.CASES, *attack_kernel.CASES]
BY_NAME = {case.name: case for case in CASES}

_THE_67 = """
    hello exit_code exception syntax_error segv_ctypes abort infinite_loop sleep_forever ignore_sigterm regex_dos
    bigint_dos mem_bomb mem_bomb_children mem_bomb_tmpfs many_small_files shm_bomb memfd_bomb fork_bomb fork_bomb_count
    thread_bomb daemon_grandchild close_fds_hang stdout_flood stderr_flood binary_output long_line net_tcp
    net_localhost_host_service net_udp_dns net_ipv6 net_raw_packet vsock abstract_unix read_secrets env_secrets
    proc1_environ proc_cmdline write_outside tmp_is_private symlink_result kill_outside kill_all kill_init sys_mount
    sys_userns sys_ptrace sys_kernel_surface sys_af_exotic sys_tiocsti int80_x32 setuid_binary devices inherited_fds
    prlimit_raise sched_hog cpu_quota cgroup_escape pycache_poison site_import_hijack output_forgery pickle_result
    stdin_block deep_recursion zip_bomb proc_oom_adj fd_exhaustion huge_single_file
"""
PROMISED = tuple(_THE_67.split())
"""The 67 programs every back end is measured by; what else is in CASES came of them."""
