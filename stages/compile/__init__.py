"""From a repository's files to a WASM module, in containers that reach nothing."""

from __future__ import annotations
