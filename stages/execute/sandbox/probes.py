"""Small programs that find out from inside what the box lets through. They refuse to run anywhere else."""

from __future__ import annotations

GUARD = """
import os as _os, sys as _sys
_file = _sys.argv[0]
if _sys.argv != ["/job/main.py"] or _os.getcwd() != "/tmp" or _os.access(_file, _os.W_OK):
    raise SystemExit("this program only runs in the sandbox")
"""
"""Only a box shows programs there, and only in a box can nobody, root included, write to them."""

FACTS = (
    GUARD
    + """
import json, os, socket
def refused(attempt):
    try:
        attempt()
    except OSError as error:
        return error.errno
    return 0
def status(name):
    with open("/proc/self/status") as file:
        return next((line.split()[1] for line in file if line.startswith(name + ":")), "")
def link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""
def read(path):
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "replace")
print(json.dumps({
    "environment": sorted(os.environ),
    "first_environment": read("/proc/1/environ"),
    "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    "root": sorted(os.listdir("/")),
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    "uid": os.getuid(),
    "capabilities": int(status("CapEff"), 16) | int(status("CapBnd"), 16) | int(status("CapInh"), 16),
    "no_new_privileges": status("NoNewPrivs"),
    "seccomp": status("Seccomp"),
    "network": link("/proc/self/ns/net"),
    "connect": refused(lambda: socket.create_connection(("192.0.2.1", 9), timeout=1)),
    "vsock": refused(lambda: socket.socket(40, socket.SOCK_STREAM)),
    "netlink": refused(lambda: socket.socket(16, socket.SOCK_RAW)),
    "write_root": refused(lambda: open("/left-behind", "wb")),
    "write_job": refused(lambda: open("/job/main.py", "ab")),
    "write_dev": refused(lambda: open("/dev/left-behind", "wb")),
}))
"""
)

HELLO = GUARD + "print('hello from the box')\n"

FILL_MEMORY = """
kept = []
for _ in range(32):
    kept.append(bytearray(b"x" * (8 << 20)))
print("had", sum(map(len, kept)))
"""
"""What fills memory, for whatever guard a back end puts before it."""

MEMORY = GUARD + FILL_MEMORY

LOOP = GUARD + "while True: pass\n"

PROCESSES = (
    GUARD
    + """
import os, time
started = 0
try:
    for _ in range(64):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        started += 1
except OSError:
    pass
print(started)
"""
)
