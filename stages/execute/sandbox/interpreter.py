"""The Python that jobs run on, and the files of it that the box must show them: nothing else of the machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from millrace.errors import Declined, DeclineReason

_FACTS = """
import json, sys, sysconfig
print(json.dumps({
    "version": ".".join(map(str, sys.version_info[:3])),
    "executable": sys.executable,
    "library": [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")],
}))
"""

_LIBRARY = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x")
_TAKEN = {"tmp", "dev", "proc", "job"}
_ZONES = Path("/usr/share/zoneinfo")


@dataclass(frozen=True)
class Interpreter:
    """An interpreter as the box shows it.

    `binds` are (source, destination) pairs to show read-only, `hidden` folders inside them to cover with nothing,
    `links` (target, link) pairs.
    """

    executable: Path
    version: str
    binds: tuple[tuple[Path, Path], ...]
    hidden: tuple[Path, ...]
    links: tuple[tuple[str, str], ...]


def find_interpreter(configured: Path | None) -> Path | None:
    """The interpreter to use: the configured one, else the system's, else the one we run on ourselves."""
    candidates = [configured] if configured else [Path("/usr/bin/python3"), Path("/usr/local/bin/python3"), _own()]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


@cache
def examine_interpreter(path: Path, extra: tuple[Path, ...] = ()) -> Interpreter:
    """What of the machine `path` needs to run, and the programs in `extra` with it.

    Raises Declined(no_sandbox) if it does not start, or if the unprivileged users that jobs run as could not read it.
    """
    facts = _ask(path)
    executable = Path(facts["executable"]).resolve()
    folders = {Path(folder) for folder in facts["library"]}
    modules = sorted(module for folder in folders for module in (folder / "lib-dynload").glob("*.so"))
    programs = (executable, *extra)
    libraries = {pair for program in programs for pair in _libraries(program, modules if program is executable else [])}
    if any(path.parts[1] in _TAKEN for path in (executable, *folders)):
        raise _unusable(path, "lies where the box has folders of its own")
    _require_readable({*programs, *folders, *(source for source, _ in libraries)}, path)
    own = {(folder.resolve(), folder) for folder in folders} | {(program, program) for program in programs}
    if _ZONES.is_dir():
        own.add((_ZONES, _ZONES))
    hidden = [folder / name for folder in folders for name in ("site-packages", "dist-packages")]
    return Interpreter(
        executable=executable,
        version=facts["version"],
        binds=tuple(sorted(own, key=lambda pair: pair[1]) + sorted(libraries, key=lambda pair: pair[1])),
        hidden=tuple(sorted(folder for folder in hidden if folder.is_dir())),
        links=(*_merged_folders(), *_usual_name(executable)),
    )


def _own() -> Path:
    """The interpreter behind our virtual environment."""
    return Path(getattr(sys, "_base_executable", "") or sys.executable)


def _ask(path: Path) -> dict[str, str]:
    try:
        answer = subprocess.run(
            [path.resolve(), "-I", "-S", "-B", "-c", _FACTS], capture_output=True, env={}, timeout=20, check=True
        )
        facts: dict[str, str] = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise _unusable(path, f"does not start: {error}") from error
    return facts


def _libraries(program: Path, modules: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Every shared library that `program` and its extension modules load, as (file, where the loader looks).

    glibc's loader lists them itself when asked through the environment; nothing of the program runs.
    """
    environment = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_PRELOAD": ":".join(map(str, modules))}
    listing = subprocess.run([program], capture_output=True, text=True, env=environment, timeout=20, check=False)
    found = [Path(match[2]) for line in listing.stdout.splitlines() if (match := _LIBRARY.match(line))]
    for library in found:
        if library not in modules:
            yield library.resolve(), library.parent.resolve() / library.name
        if library.name.startswith("libc.so"):
            # Loaded by glibc when a thread is ended; the program is aborted without it.
            unwinder = library.parent.resolve() / "libgcc_s.so.1"
            if unwinder.exists():
                yield unwinder.resolve(), unwinder


def _merged_folders() -> Iterator[tuple[str, str]]:
    """/lib and its like where they are links into /usr: the loader's own path goes through them."""
    for link in (Path("/lib"), Path("/lib64")):
        if link.is_symlink():
            yield str(link.readlink()), str(link)


def _usual_name(executable: Path) -> Iterator[tuple[str, str]]:
    if str(executable) != "/usr/bin/python3":
        yield str(executable), "/usr/bin/python3"


def _require_readable(paths: set[Path], interpreter: Path) -> None:
    """As root, jobs run as users of their own, who must be able to read what is shown to them."""
    if os.geteuid() != 0:
        return
    for path in paths:
        for part in (path, *path.parents):
            if not part.stat().st_mode & (0o001 if part.is_dir() else 0o004):
                raise _unusable(interpreter, f"cannot be read by unprivileged users, because of {part}")


def _unusable(path: Path, why: str) -> Declined:
    return Declined(
        f"the interpreter for jobs, {path}, {why}",
        reason=DeclineReason.no_sandbox,
        hint="sudo apt install python3, or set MILLRACE_SANDBOX__PYTHON to one that everybody can read",
    )
