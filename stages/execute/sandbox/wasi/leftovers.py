"""Engines that outlived their worker. The kernel kills them with it; this is for the case that it could not."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from stages.execute.sandbox.owner import is_orphan
from stages.execute.sandbox.wasi import engine


def end_orphans(processes: Path = Path("/proc")) -> list[str]:
    """Kill every engine whose worker is gone; returns the names that they were given."""
    ended = []
    for folder in processes.glob("[0-9]*"):
        name = _engine_name(folder)
        if name is None or not is_orphan(name):
            continue
        with suppress(ProcessLookupError, PermissionError):
            pidfd = os.pidfd_open(int(folder.name))
            try:
                # Looked at again with a hold on it: the number may be another process's by now.
                if _engine_name(folder) == name:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    ended.append(name)
            finally:
                os.close(pidfd)
    return ended


def _engine_name(folder: Path) -> str | None:
    """The name that an engine's command line bears, None if it is no engine."""
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    script = os.fsencode(engine.__file__)
    place = words.index(script) + 1 if script in words else len(words)
    return words[place].decode(errors="replace") if place < len(words) else None
