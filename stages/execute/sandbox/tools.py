"""The programs and libraries of the system that the sandbox is made of."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stages.execute.sandbox.interpreter import find_interpreter

SEARCH_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
"""Where the tools are looked for: never in the worker's own PATH, which may lead to folders of others."""

OLDEST_BUBBLEWRAP = (0, 8, 0)
"""The first version that can forbid user namespaces inside the box."""


@dataclass(frozen=True)
class Tools:
    """Absolute paths of what a run is started with, and bubblewrap's version."""

    bwrap: Path
    bwrap_version: str
    sh: Path
    env: Path
    prlimit: Path
    setpriv: Path


def missing_tools(python: Path | None = None) -> list[tuple[str, str]]:
    """What the sandbox needs and this machine lacks: (what, Debian package), empty if it has all.

    `python` is the configured interpreter for jobs, None for the system's.
    """
    if sys.platform != "linux":
        return [("a Linux kernel", "")]
    packages = {
        "bwrap": "bubblewrap",
        "prlimit": "util-linux",
        "setpriv": "util-linux",
        "env": "coreutils",
        "sh": "dash",
    }
    lacking = [(name, package) for name, package in packages.items() if _which(name) is None]
    if _which("bwrap") is not None and (version := bubblewrap_version()) < OLDEST_BUBBLEWRAP:
        lacking.append((f"bubblewrap 0.8.0 or later (here: {'.'.join(map(str, version))})", "bubblewrap"))
    if not _loads("libseccomp.so.2"):
        lacking.append(("libseccomp.so.2", "libseccomp2"))
    if find_interpreter(python) is None:
        lacking.append((f"the interpreter {python}", "") if python else ("python3", "python3"))
    return lacking


def find_tools() -> Tools:
    """The tools of this machine. LookupError if one is missing; `missing_tools` says which."""
    found = {name: _which(name) for name in ("bwrap", "sh", "env", "prlimit", "setpriv")}
    if missing := [name for name, path in found.items() if path is None]:
        raise LookupError(f"not installed: {', '.join(missing)}")
    version = ".".join(map(str, bubblewrap_version()))
    return Tools(bwrap_version=version, **{name: path for name, path in found.items() if path is not None})


@cache
def bubblewrap_version() -> tuple[int, ...]:
    """The installed bubblewrap's version; (0,) if it does not tell one."""
    path = _which("bwrap")
    if path is None:
        return (0,)
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, env={}, timeout=10, check=False)
    number = re.search(r"\d+(\.\d+)+", answer.stdout)
    return tuple(int(part) for part in number[0].split(".")) if number else (0,)


def _which(name: str) -> Path | None:
    found = shutil.which(name, path=SEARCH_PATH)
    return Path(found) if found else None


@cache
def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
