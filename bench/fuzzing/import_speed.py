"""How long it takes to import a file, beside the SHA-256 of the same bytes, which is the least that it can take.

    python -m bench.fuzzing.import_speed [--mebibytes 100]

Prints one JSON object. In a process of its own, because the fuzzer's instrumentation would slow the importer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable

from millrace.limits import MIB
from protocols.ipfs.importer import import_file
from protocols.ipfs.profiles import V1

_ROUNDS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the import of a file against SHA-256.")
    parser.add_argument("--mebibytes", type=int, default=100)
    mebibytes = parser.parse_args().mebibytes
    content = hashlib.shake_256(b"import").digest(mebibytes * MIB)
    # Taken in turns, and the best of each: what else the machine does must not decide.
    rounds = [
        (_cpu_seconds(lambda: hashlib.sha256(content)), _cpu_seconds(lambda: import_file(content, V1)))
        for _ in range(_ROUNDS)
    ]
    sha256, imported = (min(column) for column in zip(*rounds, strict=True))
    figures = {
        "mebibytes": mebibytes,
        "sha256_cpu_seconds": round(sha256, 4),
        "import_cpu_seconds": round(imported, 4),
        "ratio": round(imported / sha256, 3),
    }
    print(json.dumps(figures))
    return 0


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


if __name__ == "__main__":
    sys.exit(main())
