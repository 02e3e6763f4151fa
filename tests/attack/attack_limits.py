"""How programs end, and programs that want more than they may have."""

from __future__ import annotations

from attack_case import EXIT, FLOODED, OK, OOM, SIGNAL, TIMEOUT, Case, Judge, any_output, limits, says

from millrace.limits import MIB
from stages.execute.sandbox.interface import Outcome


def traceback_of(error: bytes) -> Judge:
    """Exit code 1, and a traceback that ends in `error` and names no file outside the box."""
    return lambda o: (
        o.returncode == 1
        and b'File "/job/main.py"' in o.stderr
        and o.stderr.endswith(error + b"\n")
        and not any(folder in o.stderr for folder in (b"/home", b"/root", b"/tests", b"/memfd", b"/proc"))
    )


def killed_in_time(outcome: Outcome) -> bool:
    """Killed by SIGKILL, not long after its 0.6 s were up."""
    return outcome.returncode == -9 and outcome.usage.wall_seconds < 3


ENDINGS = [
    Case("hello", "print('exact bytes')", judge=says("exact bytes")),
    Case("exit_code", "sys.exit(7)", EXIT, lambda o: o.returncode == 7),
    Case("exception", "raise ValueError('mine')", EXIT, traceback_of(b"ValueError: mine")),
    Case("syntax_error", "def (", EXIT, lambda o: o.returncode == 1 and b"SyntaxError" in o.stderr),
    Case("segv_ctypes", "ctypes.string_at(0)", SIGNAL, lambda o: o.returncode == -11),
    Case(
        "abort",
        """
pid = os.fork()
if pid == 0: os.abort()
held(not os.WCOREDUMP(os.waitpid(pid, 0)[1]) and not [name for name in os.listdir("/tmp") if "core" in name])
sys.stdout.flush()
os.abort()
""",
        SIGNAL,
        lambda o: o.returncode == -6 and o.stdout == b"held\n",
    ),
    Case("kills_itself", "os.kill(os.getpid(), 9)", SIGNAL, lambda o: o.returncode == -9),
    Case("deep_recursion", "def f(): f()\nf()", EXIT | SIGNAL, any_output),
    Case("stdin_block", "held(sys.stdin.buffer.read() == b'')"),
    Case("stdin_bytes", "held(sys.stdin.buffer.read() == bytes(range(256)) * 999)", stdin=bytes(range(256)) * 999),
    Case("binary_output", "os.write(1, bytes(range(256)))", judge=lambda o: o.stdout == bytes(range(256))),
    Case("long_line", "print('x' * 900_000)", judge=lambda o: len(o.stdout) == 900_001),
]

TIMES = [
    Case(name, program, TIMEOUT, killed_in_time, limits=limits(wall_seconds=0.6))
    for name, program in {
        "infinite_loop": "while True: pass",
        "sleep_forever": "time.sleep(3600)",
        "ignore_sigterm": """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True: pass
""",
        "regex_dos": "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')",
        "bigint_dos": "print(len(str(7 ** (10 ** 9))))",
        "close_fds_hang": "os.close(1); os.close(2); time.sleep(3600)",
        "fork_bomb": """
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    }.items()
]

MEMORY = [
    Case(
        "mem_bomb",
        """
kept = []
for _ in range(320): kept.append(bytearray(b"x" * (1 << 20)))
print("BROKEN: had", len(kept), "MB")
""",
        OOM,
        lambda o: o.returncode in (-9, 1),
    ),
    Case(
        "mem_bomb_children",
        """
for _ in range(8):
    if os.fork() == 0:
        kept = bytearray(b'x' * (40 << 20)); time.sleep(1); os._exit(0)
sys.exit(1 if any([os.wait()[1] for _ in range(8)]) else 0)
""",
        OOM,
        any_output,
    ),
    Case(
        "mem_bomb_tmpfs",
        """
for number in range(30):
    with open(f"/tmp/{number}", "wb") as file: file.write(b"x" * (8 << 20))
print("BROKEN: 240 MB in /tmp")
""",
        OOM | EXIT,
        any_output,
        limits=limits(scratch_bytes=400 * MIB, memory_bytes=64 * MIB),
    ),
    Case(
        "huge_single_file",
        """
file = open("/tmp/f", "wb", buffering=0)
error = refused(lambda: [file.write(b"x" * (1 << 20)) for _ in range(64)])
held(error in (errno.EFBIG, errno.ENOSPC) and os.path.getsize("/tmp/f") <= 16 << 20, error)
""",
    ),
    Case(
        "many_small_files",
        """
count = 0
while True:
    open(f"/tmp/{count}", "wb").close(); count += 1
""",
        TIMEOUT | OOM | EXIT,
        any_output,
        limits=limits(wall_seconds=1),
    ),
    Case("shm_bomb", "held(refused(lambda: open('/dev/shm/x', 'wb')))"),
    Case("memfd_bomb", "held(call('memfd_create', b'x', 0) == errno.EPERM)"),
    Case(
        "zip_bomb",
        """
import zlib
packer = zlib.compressobj(1)
zlib.decompress(b"".join([packer.compress(bytes(1 << 20)) for _ in range(160)] + [packer.flush()]))
""",
        OOM,
        any_output,
    ),
]

PROCESSES = [
    Case(
        "fork_bomb_count",
        """
count, refusal = 0, None
try:
    while count < 200:
        if os.fork() == 0: time.sleep(20); os._exit(0)
        count += 1
except OSError as error:
    refusal = error.errno
held(refusal == errno.EAGAIN and 20 < count < 30, refusal, count)
""",
    ),
    Case(
        "thread_bomb",
        """
import threading
threading.stack_size(65536)
count, refusal = 0, False
try:
    while count < 500:
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start(); count += 1
except RuntimeError:
    refusal = True
held(refusal and 20 < count < 30, count)
sys.stdout.flush()
os._exit(0)
""",
    ),
    Case(
        "cpu_quota",
        """
stop = time.monotonic() + 1
for _ in range(2):
    if os.fork() == 0:
        while time.monotonic() < stop: pass
        os._exit(0)
for _ in range(2): os.wait()
used = os.times()
held(used.children_user + used.children_system < 0.35, used)
""",
        limits=limits(cpus=0.2),
    ),
    Case(
        "fd_exhaustion",
        "kept = []\nheld(refused(lambda: [kept.append(os.open('/dev/null', 0)) for _ in range(5000)]) == errno.EMFILE)",
    ),
]

FLOODS = [
    Case(
        "stdout_flood",
        "while True: os.write(1, b'x' * 65536)",
        FLOODED,
        lambda o: o.stdout_cut and not o.stderr_cut and o.stdout == b"x" * 100_000,
        limits=limits(output_bytes=100_000),
    ),
    Case(
        "stderr_flood",
        "while True: os.write(2, b'x' * 65536)",
        FLOODED,
        lambda o: o.stderr_cut and not o.stdout_cut and o.stderr == b"x" * 100_000,
        limits=limits(output_bytes=100_000),
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
        OK,
        limits=limits(memory_bytes=512 * MIB),
    ),
]

CASES = [*ENDINGS, *TIMES, *MEMORY, *PROCESSES, *FLOODS, *ALLOWED]
