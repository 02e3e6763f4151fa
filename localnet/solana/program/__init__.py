"""The job program: C source, the built shared object, and how the one becomes the other."""

from __future__ import annotations

from pathlib import Path

from solders.hash import Hash

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "job_program.c"
SHARED_OBJECT = FOLDER / "job_program.so"
DIGEST = FOLDER / "job_program.so.sha256"
COMPILER_VERSION = "Debian clang version 14.0.6"
"""The compiler of the committed shared object: only this one is sure to give the same bytes."""

PROGRAM_ID = str(Hash.hash(b"millrace localnet: job program"))
"""Where localnet loads the program. A hash, so that no key exists that could sign for it."""
