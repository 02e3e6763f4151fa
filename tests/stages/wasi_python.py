"""The real build of CPython, where it has been fetched into this checkout."""

from __future__ import annotations

from pathlib import Path

from millrace.errors import Declined
from millrace.settings import SandboxSettings, Settings
from stages.execute.sandbox.wasi.opening import open_wasi

SETTINGS = Settings(
    _env_file=None, data_dir=Path(__file__).parents[2] / ".millrace", sandbox=SandboxSettings(backend="wasi")
)


def not_fetched() -> str:
    """Why the build cannot be used here and what would change that; empty if it can."""
    try:
        open_wasi(SETTINGS)
    except Declined as error:
        return f"{error.message}: run `{error.hint}` in the repository's folder"
    return ""
