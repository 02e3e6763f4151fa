"""Compiled modules: made once, believed only if we wrote them, and removed when there are too many."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from wasm_world import ECHO, SMALL, opened

from millrace.errors import Declined
from stages.execute.sandbox.wasi.compiled import locked
from stages.execute.wasm import configuration
from stages.execute.wasm.cache import ModuleCache, cache_key
from stages.execute.wasm.interface import Call, Cancelled, Status

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: sealed files")

KEY, OTHER = cache_key("00" * 32, component=False), cache_key("11" * 32, component=False)


class Compiler:
    """Counts how often it is asked."""

    def __init__(self, content: bytes = b"machine code") -> None:
        self.content, self.asked = content, 0

    def __call__(self) -> bytes:
        self.asked += 1
        return self.content


def read(cache: ModuleCache, key: str, compiler: Callable[[], bytes]) -> tuple[bytes, bool]:
    fd, cached = cache.descriptor(key, compiler)
    try:
        return os.pread(fd, 1 << 20, 0), cached
    finally:
        os.close(fd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "wasm"


def again(folder: Path, most_bytes: int = 1 << 20) -> ModuleCache:
    """A cache as the next worker has it: nothing in memory yet."""
    return ModuleCache(folder, most_bytes)


def test_a_module_is_compiled_once_for_every_worker_of_the_folder(folder: Path) -> None:
    compiler = Compiler()
    first = again(folder)
    assert read(first, KEY, compiler) == (b"machine code", False)
    assert read(first, KEY, compiler) == (b"machine code", True)
    assert read(again(folder), KEY, compiler) == (b"machine code", True)
    assert compiler.asked == 1


def test_many_who_want_a_module_at_once_compile_it_once(folder: Path) -> None:
    compiler, gate = Compiler(), threading.Barrier(6)

    def want(cache: ModuleCache) -> bytes:
        gate.wait()
        return read(cache, KEY, compiler)[0]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(want, [again(folder) for _ in range(6)]))
    assert (set(found), compiler.asked) == ({b"machine code"}, 1)


@pytest.mark.parametrize("place", [0, 31, 32, -1], ids=["MAC", "end of MAC", "code", "last byte"])
def test_a_file_that_was_changed_is_made_anew(folder: Path, place: int) -> None:
    compiler = Compiler()
    read(again(folder), KEY, compiler)
    path = folder / f"{KEY}.cwasm"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert read(again(folder), KEY, compiler) == (b"machine code", False)
    assert read(again(folder), KEY, compiler) == (b"machine code", True)
    assert compiler.asked == 2


def test_a_sound_file_under_another_modules_name_is_not_believed(folder: Path) -> None:
    """Else whoever can rename could have one module run as another."""
    read(again(folder), OTHER, Compiler(b"of another"))
    (folder / f"{OTHER}.cwasm").rename(folder / f"{KEY}.cwasm")
    assert read(again(folder), KEY, Compiler()) == (b"machine code", False)


def test_a_file_written_under_another_key_is_not_believed(folder: Path, tmp_path: Path) -> None:
    foreign = again(tmp_path / "other")
    read(foreign, KEY, Compiler(b"foreign"))
    read(again(folder), OTHER, Compiler())
    (tmp_path / "other" / f"{KEY}.cwasm").rename(folder / f"{KEY}.cwasm")
    assert read(again(folder), KEY, Compiler()) == (b"machine code", False)


def test_a_truncated_or_empty_file_is_made_anew(folder: Path) -> None:
    read(again(folder), KEY, Compiler())
    for size in (0, 10, 32, 35):
        os.truncate(folder / f"{KEY}.cwasm", size)
        assert read(again(folder), KEY, Compiler()) == (b"machine code", False)


def test_only_we_may_read_what_is_kept(folder: Path) -> None:
    read(again(folder), KEY, Compiler())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes.values()) == {0o600}
    assert {"cache.key", f"{KEY}.cwasm"} <= set(modes)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_enter_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(Declined, match="others may enter"):
        again(folder).descriptor(KEY, Compiler())


def test_what_was_used_longest_ago_goes_first(folder: Path) -> None:
    names = [cache_key(f"{number:064x}", component=False) for number in range(10)]
    roomy = again(folder)
    for age, name in enumerate(names):
        read(roomy, name, Compiler(bytes(1_000)))
        os.utime(folder / f"{name}.cwasm", (time.time() - 1_000 + age,) * 2)
    assert read(again(folder), names[0], Compiler(b""))[1], "used now, so it stays"
    removed = again(folder, most_bytes=8_000).collect_garbage()
    assert removed == [f"{name}.cwasm" for name in names[1:5]], "down to four fifths of the mark"
    assert again(folder, most_bytes=8_000).collect_garbage() == []


def test_what_a_killed_worker_left_half_written_is_removed_and_nothing_of_a_living_one(folder: Path) -> None:
    read(again(folder), KEY, Compiler())
    dead, living = folder / f"{KEY}.cwasm.millrace-1-1-1", folder / f"{OTHER}.cwasm.millrace-{os.getpid()}-1-1-0"
    dead.write_bytes(b"")
    living.write_bytes(b"")
    assert again(folder).collect_garbage() == [dead.name]
    assert living.exists()


def test_a_disk_that_is_full_costs_time_and_no_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stages.execute.wasm.cache.write_whole", full)
    assert read(again(folder), KEY, Compiler()) == (b"machine code", False)


def test_a_job_that_waits_for_anothers_compilation_can_be_cancelled(tmp_path: Path) -> None:
    """It waited as long as a module may take to be compiled, and the worker that was to stop waited for it."""
    runtime, cancel = opened(tmp_path), threading.Event()
    key = cache_key(hashlib.sha256(ECHO).hexdigest(), component=False)
    runtime.cache.folder.mkdir(mode=0o700)
    with ThreadPoolExecutor(1) as pool, locked(runtime.cache.folder / f"lock-{key[:2]}"):
        waiting = pool.submit(runtime.execute, Call(ECHO, limits=SMALL), cancel)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        cancel.set()
        with pytest.raises(Cancelled):
            waiting.result(5)
    runtime.close()


def test_what_a_child_gets_cannot_be_changed(folder: Path) -> None:
    fd, _ = again(folder).descriptor(KEY, Compiler())
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)


def test_the_key_changes_with_all_that_machine_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {KEY, OTHER, cache_key("00" * 32, component=True)}
    monkeypatch.setitem(configuration.CORE, "consume_fuel", False)
    keys.add(cache_key("00" * 32, component=False))
    monkeypatch.undo()
    monkeypatch.setattr("stages.execute.wasm.cache.wasmtime_version", lambda: "51.0.0")
    keys.add(cache_key("00" * 32, component=False))
    monkeypatch.setattr("stages.execute.wasm.cache.processor", lambda: "another")
    keys.add(cache_key("00" * 32, component=False))
    assert len(keys) == 6


def test_a_module_that_was_compiled_before_is_run_from_the_cache(tmp_path: Path) -> None:
    first = opened(tmp_path)
    made = first.execute(Call(ECHO, b"a", limits=SMALL))
    first.close()
    second = opened(tmp_path)
    found = second.execute(Call(ECHO, b"a", limits=SMALL))
    (code,) = (tmp_path / "wasm").glob("*.cwasm")
    code.write_bytes(code.read_bytes()[:-1] + b"!")
    second.close()
    third = opened(tmp_path)
    assert third.execute(Call(ECHO, b"a", limits=SMALL)).status is Status.ok
    third.close()
    assert made.compile_milliseconds is not None
    assert found.compile_milliseconds is None
