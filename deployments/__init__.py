"""How Millrace runs: the command line, the stack on one machine, the demo."""

import os

# Before Prefect is imported: its SDK would report its use otherwise.
os.environ.setdefault("DO_NOT_TRACK", "1")
