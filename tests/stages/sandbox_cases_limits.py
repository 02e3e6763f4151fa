"""How programs end, and programs that want more than they may have."""

from __future__ import annotations

from sandbox_cases import ANY_END, EXIT, FLOODED, OOM, SIGNAL, TIMEOUT, Case, any_output, limits, says

from millrace.limits import MIB

ENDINGS = [
    Case("hello", "print('exact bytes')", judge=says("exact bytes")),
    Case("exit_code", "sys.exit(7)", EXIT, lambda o: o.returncode == 7),
    Case(
        "exception",
        "raise ValueError('mine')",
        EXIT,
        lambda o: o.returncode == 1 and b'File "/job/main.py"' in o.stderr and o.stderr.endswith(b"ValueError: mine\n"),
    ),
    Case("syntax_error", "def (", EXIT, lambda o: o.returncode == 1 and b"SyntaxError" in o.stderr),
    Case("segmentation_fault", "ctypes.string_at(0)", SIGNAL, lambda o: o.returncode == -11),
    Case("abort", "os.abort()", SIGNAL, lambda o: o.returncode == -6),
    Case("kills_itself", "os.kill(os.getpid(), 9)", SIGNAL, lambda o: o.returncode == -9),
    Case("deep_recursion", "def f(): f()\nf()", EXIT | SIGNAL, any_output),
    Case("stdin_ends", "held(sys.stdin.buffer.read() == b'')"),
    Case("stdin_bytes", "held(sys.stdin.buffer.read() == bytes(range(256)) * 999)", stdin=bytes(range(256)) * 999),
    Case("binary_output", "os.write(1, bytes(range(256)))", judge=lambda o: o.stdout == bytes(range(256))),
    Case("long_line", "print('x' * 900_000)", judge=lambda o: len(o.stdout) == 900_001),
]

TIMES = [
    Case(
        name,
        program,
        TIMEOUT,
        lambda o: o.returncode == -9 and o.usage.wall_seconds < 3,
        limits=limits(wall_seconds=0.6),
    )
    for name, program in {
        "infinite_loop": "while True: pass",
        "sleep_for_ever": "time.sleep(3600)",
        "ignores_every_signal": """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True: pass
""",
        "regular_expression": "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')",
        "big_integer": "print(len(str(7 ** (10 ** 9))))",
        "closed_outputs": "os.close(1); os.close(2); time.sleep(3600)",
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
        "memory_bomb",
        "kept = []\nwhile True: kept.append(bytearray(b'x' * (1 << 20)))",
        OOM,
        lambda o: o.returncode in (-9, 1),
        ordinary=EXIT,
    ),
    Case(
        "memory_of_a_tree",
        """
for _ in range(8):
    if os.fork() == 0:
        kept = bytearray(b'x' * (40 << 20)); time.sleep(1); os._exit(0)
sys.exit(1 if any([os.wait()[1] for _ in range(8)]) else 0)
""",
        OOM,
        any_output,
        ordinary=None,
    ),
    Case(
        "memory_of_tmp",
        """
for number in range(64):
    with open(f"/tmp/{number}", "wb") as file: file.write(b"x" * (8 << 20))
""",
        OOM | EXIT,
        any_output,
        ordinary=None,
        limits=limits(scratch_bytes=400 * MIB, memory_bytes=64 * MIB),
    ),
    Case(
        "huge_file",
        """
file = open("/tmp/f", "wb", buffering=0)
error = refused(lambda: [file.write(b"x" * (1 << 20)) for _ in range(64)])
held(error in (errno.EFBIG, errno.ENOSPC) and os.path.getsize("/tmp/f") <= 16 << 20, error)
""",
    ),
    Case(
        "many_files",
        """
count = 0
while True:
    open(f"/tmp/{count}", "wb").close(); count += 1
""",
        ANY_END,
        any_output,
        limits=limits(wall_seconds=1),
    ),
    Case("shared_memory", "held(refused(lambda: open('/dev/shm/x', 'wb')))"),
    Case("memory_files", "held(call('memfd_create', b'x', 0) == errno.EPERM)"),
    Case(
        "zip_bomb",
        """
import zlib
packer = zlib.compressobj(1)
zlib.decompress(b"".join([packer.compress(bytes(1 << 20)) for _ in range(300)] + [packer.flush()]))
""",
        OOM,
        any_output,
        ordinary=EXIT,
    ),
]

PROCESSES = [
    Case(
        "fork_count",
        """
count = 0
try:
    while count < 200:
        if os.fork() == 0: time.sleep(20); os._exit(0)
        count += 1
except OSError:
    held(20 < count < 30, count)
""",
    ),
    Case(
        "thread_bomb",
        """
import threading
threading.stack_size(65536)
count = 0
try:
    while count < 500:
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start(); count += 1
except RuntimeError:
    held(20 < count < 30, count)
sys.stdout.flush()
os._exit(0)
""",
    ),
    Case(
        "cpu_share",
        """
stop = time.monotonic() + 1
for _ in range(2):
    if os.fork() == 0:
        while time.monotonic() < stop: pass
        os._exit(0)
for _ in range(2): os.wait()
used = os.times()
held(used.children_user + used.children_system < 1.2, used)
""",
        ordinary=None,
        limits=limits(cpus=0.5),
    ),
    Case(
        "descriptor_exhaustion",
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

CASES = [*ENDINGS, *TIMES, *MEMORY, *PROCESSES, *FLOODS]
