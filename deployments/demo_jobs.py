"""The jobs of the demo: what each program does and how its job must end."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class DemoJob:
    """One job: a title, a program, and what its result must show.

    `status` is the sandbox's word for how it must end; empty for a job that must be declined. `shows` is text that
    the result's stdout or stderr must contain.
    """

    title: str
    program: str
    status: str
    returncode: int | None = 0
    shows: str = ""
    cancelled: bool = False

    def without_groups(self) -> DemoJob:
        """What must happen where no control group bounds memory: the allocation fails inside the program."""
        if self.status != "oom":
            return self
        return replace(self, status="exit", returncode=1, shows="MemoryError")


WALL_SECONDS = 5
"""The demo's wall-clock limit, so that the endless loop does not keep anybody waiting."""

JOBS = (
    DemoJob(
        title="prints",
        program="print('the mill turns')\n",
        status="ok",
        shows="the mill turns",
    ),
    DemoJob(
        title="computes",
        program=(
            "import decimal, hashlib, itertools, json, math\n"
            "decimal.getcontext().prec = 60\n"
            "primes = [n for n in range(2, 20_000) if all(n % d for d in range(2, math.isqrt(n) + 1))]\n"
            "root = decimal.Decimal(2).sqrt()\n"
            "digest = hashlib.sha256(json.dumps(primes).encode()).hexdigest()\n"
            "pairs = sum(b - a == 2 for a, b in itertools.pairwise(primes))\n"
            "print(len(primes), pairs, root, digest)\n"
        ),
        status="ok",
        shows="2262 342 1.41421356237309504880168872420969807856967187537694807317668",
    ),
    DemoJob(
        title="raises",
        program="def divide(a, b):\n    return a / b\n\ndivide(1, 0)\n",
        status="exit",
        returncode=1,
        shows="ZeroDivisionError",
    ),
    DemoJob(
        title="loops for ever",
        program="while True:\n    pass\n",
        status="timeout",
        returncode=-9,
        shows="[millrace:",
    ),
    DemoJob(
        title="floods its output",
        program="while True:\n    print('water ' * 1000)\n",
        status="output_limit",
        returncode=-9,
        shows="[millrace: output cut",
    ),
    DemoJob(
        title="wants all the memory",
        program="hoard = []\nwhile True:\n    hoard.append(bytearray(1 << 20))\n",
        status="oom",
        returncode=-9,
        shows="[millrace:",
    ),
    DemoJob(
        title="is cancelled",
        program="print('nobody will read this')\n",
        status="",
        returncode=None,
        cancelled=True,
    ),
)
