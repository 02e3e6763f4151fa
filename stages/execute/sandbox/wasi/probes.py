"""Small programs that find out from inside what the engine lets through. They refuse to run anywhere else."""

from __future__ import annotations

from stages.execute.sandbox.probes import FILL_MEMORY

GUARD = """
import sys as _sys
if _sys.platform != "wasi":
    raise SystemExit("this program only runs in the sandbox")
"""

HELLO = GUARD + "print('hello from the module')\n"

FACTS = (
    GUARD
    + """
import json, os, socket
def refused(attempt):
    try:
        attempt()
    except Exception:
        return True
    return False
def descriptor(number):
    return not refused(lambda: os.fstat(number))
print(json.dumps({
    "environment": sorted(os.environ),
    "input": os.read(0, 100).decode(),
    "read": [path for path in ("/etc/passwd", "/proc/self/environ", "/dev/null", "../etc/passwd", "/tmp")
             if not refused(lambda: os.stat(path))],
    "write": [path for path in ("/left-behind", "/tmp/left-behind", "/usr/left-behind", "left-behind")
              if not refused(lambda: open(path, "wb"))],
    "connect": not refused(lambda: socket.create_connection(("192.0.2.1", 9), timeout=1)),
    "listen": not refused(lambda: socket.socket().bind(("127.0.0.1", 0))),
    "processes": [name for name in ("fork", "posix_spawn", "execv") if hasattr(os, name)],
    "descriptors": [number for number in range(4, 64) if descriptor(number)],
}))
"""
)

MEMORY = GUARD + FILL_MEMORY

LOOP = GUARD + "while True: pass\n"

SLEEP = GUARD + "import time\ntime.sleep(60)\n"

FLOOD = GUARD + "while True: print('x' * 1000)\n"
