"""The folder of library copies: what is in it, when it is made anew, and whom it is not taken from."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stages.execute.sandbox.interpreter import Interpreter
from stages.execute.sandbox.libraries import KEPT_SECONDS, gathered, sweep_copies

LIBRARIES = Path("/usr/lib/here")


@pytest.fixture
def python(tmp_path: Path) -> Interpreter:
    """An interpreter that needs two libraries in one folder, and the loader in another."""
    system = tmp_path / "system"
    (system / "lib/python3").mkdir(parents=True)
    for name in ("python3", "liba.so.1.5", "libb.so.2", "ld.so"):
        (system / name).write_text(f"the content of {name}")
    shown = {
        "python3": Path("/usr/bin/python3"),
        "lib/python3": Path("/usr/lib/python3"),
        "liba.so.1.5": LIBRARIES / "liba.so.1",
        "libb.so.2": LIBRARIES / "libb.so.2",
        "ld.so": Path("/usr/lib64/ld.so"),
    }
    binds = tuple((system / source, destination) for source, destination in shown.items())
    return Interpreter(Path("/usr/bin/python3"), "3.12.1", binds, (), ())


def folder_in(shown: Interpreter) -> Path:
    (found,) = (source for source, destination in shown.binds if destination == LIBRARIES)
    return found


def test_the_libraries_of_a_folder_are_shown_as_one_with_nothing_else(python: Interpreter, tmp_path: Path) -> None:
    found = gathered(python, tmp_path / "cache")
    assert {path.name: path.read_text() for path in folder_in(found).iterdir()} == {
        "liba.so.1": "the content of liba.so.1.5",
        "libb.so.2": "the content of libb.so.2",
    }
    assert [pair for pair in found.binds if pair[1] != LIBRARIES] == [
        pair for pair in python.binds if pair[1].parent != LIBRARIES
    ]
    assert gathered(python, tmp_path / "cache") == found


def test_an_updated_library_is_shown_from_the_next_run_on(python: Interpreter, tmp_path: Path) -> None:
    before = folder_in(gathered(python, tmp_path / "cache"))
    fresh = tmp_path / "fresh"
    fresh.write_text("the fixed one, as long")
    fresh.rename(tmp_path / "system/libb.so.2")
    after = folder_in(gathered(python, tmp_path / "cache"))
    assert after != before
    assert (after / "libb.so.2").read_text() == "the fixed one, as long"
    assert (before / "libb.so.2").exists(), "a run may be using it"


@pytest.mark.parametrize("harm", ["missing", "more", "shorter", "writable", "link"])
def test_a_folder_that_is_not_as_it_was_made_is_not_shown(harm: str, python: Interpreter, tmp_path: Path) -> None:
    folder = folder_in(gathered(python, tmp_path / "cache"))
    file = folder / "libb.so.2"
    mode = 0o777 if harm == "writable" else 0o555
    file.unlink()
    if harm == "more":
        (folder / "libc.so").touch()
    if harm == "link":
        file.symlink_to(tmp_path / "system/libb.so.2")
    elif harm != "missing":
        file.write_text("short" if harm == "shorter" else "the content of libb.so.2")
        file.chmod(mode)
    os.utime(folder)
    assert gathered(python, tmp_path / "cache") == python


def test_a_folder_that_others_can_change_is_not_used(python: Interpreter, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    assert gathered(python, tmp_path / "cache") == python


def test_without_a_place_for_the_folder_files_are_shown_singly(python: Interpreter, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert gathered(python, tmp_path / "cache") == python


def test_a_folder_with_something_else_shown_inside_is_left_alone(python: Interpreter, tmp_path: Path) -> None:
    """Mounted over it, the copies would hide it."""
    mixed = replace(python, binds=(*python.binds, (tmp_path / "system/lib/python3", LIBRARIES / "python3")))
    assert gathered(mixed, tmp_path / "cache") == mixed


def aged(path: Path, seconds: float) -> Path:
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_copies_that_no_run_asked_for_in_a_month_go(python: Interpreter, tmp_path: Path) -> None:
    """Each update of the system left a folder of some 20 MB behind, for ever."""
    cache = tmp_path / "cache"
    old = folder_in(gathered(python, cache))
    (tmp_path / "system/libb.so.2").write_text("the fixed one")
    now = folder_in(gathered(python, cache))
    aged(old, KEPT_SECONDS - 3600)
    aged(now, KEPT_SECONDS + 3600)
    gathered(python, cache)
    assert sweep_copies(cache) == [], "one is young, the other has just been asked for"
    aged(old, KEPT_SECONDS + 3600)
    assert sweep_copies(cache) == [old.name]
    assert list(cache.iterdir()) == [now]


def test_what_a_killed_worker_left_goes_and_nothing_of_others(
    python: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    now = folder_in(gathered(python, cache))
    for name in (".new-abcd1234", f".old-{now.name}", "kept", "libraries-of-somebody", f"libraries-{'0' * 32}"):
        (cache / name).mkdir()
        aged(cache / name, KEPT_SECONDS + 3600)
    (cache / ".new-abcd5678").mkdir()
    (cache / f"libraries-{'0' * 32}").rmdir()
    (cache / f"libraries-{'0' * 32}").symlink_to(cache / "kept")
    os.utime(cache / f"libraries-{'0' * 32}", (0, 0), follow_symlinks=False)
    assert sorted(sweep_copies(cache)) == sorted([".new-abcd1234", now.name])
    assert {path.name for path in cache.iterdir()} == {
        *(now.name, ".new-abcd5678", "kept", "libraries-of-somebody", f"libraries-{'0' * 32}")
    }
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    aged(now, KEPT_SECONDS + 3600)
    assert sweep_copies(cache) == []


def test_a_cache_that_is_not_there_has_nothing_to_sweep(tmp_path: Path) -> None:
    assert sweep_copies(tmp_path / "nowhere") == []
