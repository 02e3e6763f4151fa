"""Small WASM modules, each with one fault, and the sandbox with one of them in CPython's place.

They run on every machine: wasmtime is a dependency, and the build of CPython is not needed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import wasmtime

from millrace.settings import SandboxSettings, Settings
from stages.execute.sandbox.wasi.build import Build
from stages.execute.sandbox.wasi.compiled import CompiledModule
from stages.execute.sandbox.wasi.opening import open_wasi
from stages.execute.sandbox.wasi.sandbox import WasiSandbox

_IMPORTS = """
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
"""


def module(start: str, *, pages: int = 1, more: str = "") -> str:
    """A module whose `_start` does `start`, with `pages` of 64 KiB, and `more` definitions."""
    return f'(module {_IMPORTS} (memory (export "memory") {pages}) {more} (func $start (export "_start") {start}))'


LOOP = "(loop $l (br $l))"
SLEEP = """
    (i32.store (i32.const 16) (i32.const 1)) ;; clock: monotonic; the subscription's other fields are 0
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
"""
_WRITE = "(drop (call $write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 8)))"


def writing(text: str, fd: int = 1, *, for_ever: bool = False) -> str:
    """A module that writes `text`."""
    one = "(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const {size}))" + _WRITE
    one = one.format(size=len(text), fd=fd)
    return module(f"(loop $l {one} (br $l))" if for_ever else one, more=f'(data (i32.const 64) "{text}")')


ECHO = module(
    "(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000))"
    "(drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))" + _WRITE.format(fd=1)
)


def opening(fd: int, rights: int = -1) -> str:
    """A call that opens the path of four letters at 64, below the folder `fd`."""
    numbers = f"(i32.const 0) (i32.const 64) (i32.const 4) (i32.const 0) (i64.const {rights}) (i64.const {rights})"
    return f"(call $open (i32.const {fd}) {numbers} (i32.const 0) (i32.const 32))"


def saying(condition: str) -> str:
    """A module that exits with the number that `condition` leaves."""
    return module(f"(call $exit {condition})")


def sandbox_with(wat: str, folder: Path) -> WasiSandbox:
    """The sandbox as this machine has it, with the module `wat`; `folder` must be ours alone."""
    path = folder / "module.wasm"
    path.write_bytes(wasmtime.wat2wasm(wat))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = SandboxSettings(backend="wasi", wasi_python=path, wasi_python_sha256=digest)
    opened = open_wasi(Settings(_env_file=None, data_dir=folder, sandbox=wanted))
    compiled = CompiledModule(Build("a module", path, digest), folder / "wasi")
    return WasiSandbox(compiled, opened.slots, opened.seccomp_program, plain_module=True)
