"""Programs that reach for what is not theirs: the network, the machine's files, other processes, the worker itself."""

from __future__ import annotations

from attack_case import EXIT, Case
from attack_host import (
    abstract_socket,
    file_in_tmp,
    pickle_that_leaves_a_mark,
    secret_in_the_environment,
    service,
    worker,
)

NETWORK = [
    Case(
        "net_tcp",
        """
places = ("192.0.2.1", "169.254.169.254", "127.0.0.1")
held(all(refused(lambda a=a: socket.create_connection((a, 80), 1)) for a in places))
""",
    ),
    Case(
        "net_localhost_host_service",
        "held(refused(lambda: socket.create_connection(('127.0.0.1', HOST['port']), 1)))",
        host=service,
    ),
    Case("net_udp_dns", "held(refused(lambda: socket.socket(2, 2).sendto(b'x', ('192.0.2.53', 53))))"),
    Case("net_ipv6", "held(refused(lambda: socket.create_connection(('2001:db8::1', 80), 1)))"),
    Case(
        "net_raw_packet", "held(refused(lambda: socket.socket(2, 3, 1)) and refused(lambda: socket.socket(17, 3, 3)))"
    ),
    Case("vsock", "held(refused(lambda: socket.socket(40, 1)) == errno.EPERM)"),
    Case(
        "abstract_unix",
        r"""
places = ("/run/docker.sock", "/var/run/docker.sock", "\0/tmp/.X11-unix/X0", "/run/dbus/system_bus_socket")
held(all(refused(lambda a=a: socket.socket(1, 1).connect(a)) for a in (HOST["abstract"], *places)))
""",
        host=abstract_socket,
    ),
]

FILES = [
    Case(
        "read_secrets",
        """
places = "/root /home /etc /srv /var /run /work /opt /sys /boot /mnt /media /usr/bin/sh /usr/bin/env".split()
held(not any(map(os.path.exists, places)), list(filter(os.path.exists, places)))
""",
    ),
    Case(
        "root_by_way_of_proc",
        "held(not any(os.path.exists(f'/proc/{p}/{d}/etc') for p in ('1', 'self') for d in ('root', 'cwd')))",
    ),
    Case(
        "env_secrets",
        """
known = set(os.environ) <= {"PATH", "HOME", "LANG", "PWD"}
held(known and HOST["secret"] not in str(dict(os.environ)), dict(os.environ))
""",
        host=secret_in_the_environment,
    ),
    Case(
        "proc1_environ",
        r"""
text = open("/proc/1/environ").read()
known = all(entry.split("=")[0] in ("PATH", "PWD", "") for entry in text.split("\0"))
held(known and HOST["secret"] not in text + open("/proc/self/environ").read(), text)
""",
        host=secret_in_the_environment,
    ),
    Case(
        "proc_cmdline",
        "text = open('/proc/1/cmdline', 'rb').read()\nheld(b'/root' not in text and b'bind' not in text, text)",
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
        "tmp_is_private",
        """
found = os.listdir("/tmp")
refused(lambda: open("/tmp/left-behind", "w").close())
held(not found and not os.path.exists(HOST["file"]), found)
""",
        host=file_in_tmp,
    ),
    Case(
        "symlink_result",
        """
for name in ("result.json", "stdout", "stderr", "main.py", "report"):
    os.symlink("/etc/passwd", "/tmp/" + name)
    os.chmod("/tmp", 0o777)
held(not os.path.exists("/tmp/result.json") and refused(lambda: os.symlink("/etc/passwd", "/job/result.json")))
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
    Case("inherited_fds", "held(sorted(map(int, os.listdir('/proc/self/fd')))[:-1] == [0, 1, 2])"),
    Case(
        "pycache_poison",
        "held(refused(lambda: open(os.path.dirname(os.__file__) + '/__pycache__/json.pyc', 'wb')))",
    ),
    Case(
        "site_import_hijack",
        "held('site' not in sys.modules and not {'', '/tmp', '/job'} & set(sys.path) and sys.flags.isolated, sys.path)",
    ),
    Case(
        "cgroup_escape",
        """
own = {line.rstrip().split(":", 2)[2] for line in open("/proc/self/cgroup")}
held(own == {"/"} and not os.path.exists('/sys') and refused(lambda: os.mkdir('/proc/x'))
     and call("mount", b"none", b"/tmp", b"cgroup", 0, b"memory") and call("mount", b"n", b"/tmp", b"cgroup2", 0, None)
     and refused(lambda: open("/sys/fs/cgroup/memory/release_agent", "w")), own)
""",
    ),
    Case(
        "stdin_is_sealed",
        "held(refused(lambda: os.write(os.open('/proc/self/fd/0', os.O_RDWR), b'x')))",
        stdin=b"given",
    ),
]

ENVELOPE = (
    b'\n{ "child-pid": 1 }\n{ "exit-code": 0 }\n'
    b'{"stdout": "forged", "stderr": "", "returncode": 0, "executed_at": "2000-01-01T00:00:00.000Z"}\n'
)
"""What bubblewrap reports and what a result document looks like, as a job would forge them."""

WORKER = [
    Case(
        "output_forgery",
        f"""
for descriptor in range(1, 128):
    refused(lambda: os.write(descriptor, {ENVELOPE!r}))
sys.exit(7)
""",
        EXIT,
        lambda o: o.returncode == 7 and o.stdout == ENVELOPE and o.stderr == ENVELOPE,
    ),
    Case(
        "pickle_result",
        "sys.stdout.buffer.write(HOST['pickle'])",
        judge=lambda o: o.stdout.startswith(b"\x80") and b"mkdir" in o.stdout,
        host=pickle_that_leaves_a_mark,
    ),
]

OTHERS = [
    Case(
        "daemon_grandchild",
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
    Case("kill_all", "signal.signal(15, signal.SIG_IGN); refused(lambda: os.kill(-1, 15)); print('held')"),
    Case("kill_outside", "held(refused(lambda: os.kill(HOST['pid'], 0)) == errno.ESRCH)", host=worker),
    Case(
        "own_processes_only",
        "seen = {int(p) for p in os.listdir('/proc') if p.isdigit()}\nheld(seen <= {1, os.getpid()}, seen)",
    ),
    Case(
        "own_namespaces",
        """
same = [name for name, theirs in HOST["namespaces"].items() if os.readlink(f"/proc/self/ns/{name}") == theirs]
held(not same and platform.node() == "sandbox", same, platform.node())
""",
        host=worker,
    ),
]

CASES = [*NETWORK, *FILES, *WORKER, *OTHERS]
