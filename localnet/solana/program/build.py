"""Build the job program: `python -m localnet.solana.program.build [--check]`.

Needs clang with the `bpfel` target. The result is committed beside the source, with its SHA-256, so that
nobody else needs a compiler.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from localnet.solana.linker import link
from localnet.solana.program import COMPILER_VERSION, DIGEST, FOLDER, SHARED_OBJECT, SOURCE
from millrace.errors import Permanent

FLAGS = (
    *("-target", "bpfel", "-mcpu=v1", "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror"),
    *("-ffreestanding", "-fno-builtin", "-fno-jump-tables"),
)
_COMPILE_SECONDS = 60


def find_compiler() -> str | None:
    """The path of a clang, the recorded version's name first; None if this machine has none."""
    return shutil.which("clang-14") or shutil.which("clang")


def compiler_version(compiler: str) -> str:
    """The first line that the compiler says about itself."""
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=_COMPILE_SECONDS)
    return said.stdout.splitlines()[0]


def build(compiler: str) -> bytes:
    """The shared object built from the source beside this file.

    Raises Permanent with the compiler's own words if it fails, LinkError if the object cannot be linked.
    """
    with tempfile.TemporaryDirectory() as folder:
        object_path = Path(folder) / "job_program.o"
        # Run in the source folder: no path of this machine gets into the object.
        command = [compiler, *FLAGS, "-c", SOURCE.name, "-o", str(object_path)]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
        if done.returncode != 0:
            raise Permanent(
                f"{compiler}: {done.stderr.strip()}", hint="it takes a clang, 14 or newer, that knows bpfel"
            )
        return link(object_path.read_bytes())


def recorded_digest() -> str:
    """The SHA-256 of the committed shared object, as its digest file says."""
    return DIGEST.read_text().split()[0]


def main() -> None:
    """Build, then write the shared object and its digest; with --check, compare with the committed ones only."""
    parser = argparse.ArgumentParser(description="Build localnet's job program.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the committed build differs")
    check = parser.parse_args().check
    compiler = find_compiler()
    if compiler is None:
        raise SystemExit("no clang found: install clang-14 (Debian: apt-get install clang-14)")
    version = compiler_version(compiler)
    program = build(compiler)
    digest = hashlib.sha256(program).hexdigest()
    if check:
        if digest != recorded_digest():
            raise SystemExit(f"built {digest} with {version}, committed is {recorded_digest()} ({COMPILER_VERSION})")
        return
    if version != COMPILER_VERSION:
        print(f"note: built with {version}; record it as COMPILER_VERSION in {FOLDER / '__init__.py'}")
    SHARED_OBJECT.write_bytes(program)
    DIGEST.write_text(f"{digest}  {SHARED_OBJECT.name}\n")
    print(f"{len(program)} bytes, SHA-256 {digest}")


if __name__ == "__main__":
    main()
