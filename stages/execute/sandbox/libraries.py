"""One folder with copies of the libraries that the box shows, so that they are mounted once instead of one by one.

Each mount costs a run about a third of a millisecond. The copies are exactly the files that would be shown singly. They
are made anew when one of those changes; where no folder can be had, the files are shown singly. A folder that no run
has asked for in a month is removed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

from stages.execute.sandbox.interpreter import Interpreter
from stages.execute.sandbox.owner import is_own

SHARED_CACHE = Path("/var/cache/millrace")
"""Where root keeps the copies: jobs run as other users, who must be able to get there."""

KEPT_SECONDS = 30 * 86_400.0
"""Longer than any run that may still show a folder, and than most interpreters are out of use."""

_DAY_SECONDS = 86_400.0
_COPIES = re.compile(r"libraries-[0-9a-f]{32}")
_UNFINISHED = re.compile(r"\.new-\w{8}")
_ENDED = re.compile(r"\.old-libraries-[0-9a-f]{32}")
_logger = logging.getLogger(__name__)

Pair = tuple[Path, Path]


def gathered(interpreter: Interpreter, cache_folder: Path) -> Interpreter:
    """`interpreter` with the libraries of a folder shown as one folder, wherever nothing else is shown inside it.

    The sources are looked at on each call: an update of the system is shown from the next run on.
    """
    try:
        binds = tuple(interpreter.binds)
        for destination, files in _by_folder(binds).items():
            folder = _copies(cache_folder, _stamps(files))
            kept = [pair for pair in binds if pair not in files]
            binds = (*kept, (folder, destination))
    except OSError as error:
        _tell_once(f"{type(error).__name__}: {error}")
        return interpreter
    return replace(interpreter, binds=binds)


def sweep_copies(cache_folder: Path) -> list[str]:
    """Remove the folders that no run asks for any more, and what killed workers left; returns their names."""
    removed = []
    for folder in cache_folder.glob("*"):
        try:
            if not _is_left_over(folder):
                continue
            if _COPIES.fullmatch(folder.name):
                # Under its own name it would be found half removed, should we be killed.
                folder = folder.rename(folder.with_name(f".old-{folder.name}"))
            shutil.rmtree(folder)
            removed.append(folder.name.removeprefix(".old-"))
        except FileNotFoundError:
            continue  # another worker sweeps as well
        except OSError as error:
            _tell_of_sweep(f"{type(error).__name__}: {error}")
    return removed


def _is_left_over(folder: Path) -> bool:
    """Whether it is ours and out of use; False if another worker removed it meanwhile."""
    limits = {_COPIES: KEPT_SECONDS, _UNFINISHED: _DAY_SECONDS, _ENDED: 0.0}
    limit = next((seconds for pattern, seconds in limits.items() if pattern.fullmatch(folder.name)), None)
    if limit is None or not is_own(folder):
        return False
    return stat.S_ISDIR(folder.lstat().st_mode) and _age_seconds(folder) > limit


def _age_seconds(folder: Path) -> float:
    return time.time() - folder.lstat().st_mtime


def _by_folder(binds: tuple[Pair, ...]) -> dict[Path, list[Pair]]:
    """The files shown in each folder that nothing but single files is shown in, and more than one."""
    found: dict[Path, list[Pair]] = {}
    for pair in binds:
        found.setdefault(pair[1].parent, []).append(pair)
    return {
        folder: files
        for folder, files in found.items()
        if len(files) > 1
        and all(".so" in source.name for source, _ in files)
        and not any(folder in shown.parents and (source, shown) not in files for source, shown in binds)
    }


def _stamps(files: list[Pair]) -> tuple[tuple[str, str, int, int, int], ...]:
    """What tells that a file is still the same: where it is, its inode, its size, and when it was changed."""
    return tuple(
        (str(source), destination.name, (now := source.stat()).st_ino, now.st_size, now.st_mtime_ns)
        for source, destination in files
    )


def _copies(cache_folder: Path, stamps: tuple[tuple[str, str, int, int, int], ...]) -> Path:
    """The folder with copies of these files, made if it is not there. OSError if there can be none."""
    folder = cache_folder / f"libraries-{hashlib.sha256(repr(stamps).encode()).hexdigest()[:32]}"
    if not folder.is_dir():
        _make(folder, stamps)
    elif _age_seconds(folder) > _DAY_SECONDS:
        os.utime(folder)  # it is in use
    changed = folder.stat().st_mtime_ns
    _require_whole(folder, stamps, changed)
    return folder


def _make(folder: Path, stamps: tuple[tuple[str, str, int, int, int], ...]) -> None:
    """Copy into a folder of another name first: another worker may do the same, and this one may be killed."""
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _require_own(folder.parent)
    fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        for source, name, *_ in stamps:
            shutil.copyfile(source, fresh / name)
            (fresh / name).chmod(0o555)
        fresh.chmod(0o755)
        fresh.rename(folder)
    except OSError:
        shutil.rmtree(fresh)
        if not folder.is_dir():
            raise


@cache
def _require_whole(folder: Path, stamps: tuple[tuple[str, str, int, int, int], ...], changed: int) -> None:
    """Raise OSError unless the folder is ours alone and has these files with their sizes, and no others.

    Asked once for each state of the folder, which `changed` stands for.
    """
    _require_own(folder.parent)
    _require_own(folder)
    there = {path.name: path.lstat() for path in folder.iterdir()}
    for state in there.values():
        if state.st_uid != os.geteuid() or not stat.S_ISREG(state.st_mode) or state.st_mode & 0o022:
            raise PermissionError(f"{folder} holds files that others may change")
    if {name: state.st_size for name, state in there.items()} != {name: size for _, name, _, size, _ in stamps}:
        raise OSError(f"{folder} is not whole: remove it")


def _require_own(folder: Path) -> None:
    state = folder.lstat()
    if state.st_uid != os.geteuid() or not stat.S_ISDIR(state.st_mode) or state.st_mode & 0o022:
        raise PermissionError(f"{folder} can be changed by others")


@cache
def _tell_once(why: str) -> None:
    _logger.warning("programs start some 10 ms later, as their libraries have no folder of their own: %s", why)


@cache
def _tell_of_sweep(why: str) -> None:
    _logger.warning("old copies of libraries stay behind: %s", why)
