"""Small modules for the WASM runtime, one for each way to call a module."""

from __future__ import annotations

from pathlib import Path

import wasmtime

from millrace.settings import Settings
from stages.execute.wasm.interface import WasmLimits
from stages.execute.wasm.nursery import Pool
from stages.execute.wasm.opening import open_wasmtime
from stages.execute.wasm.runtime import WasmtimeRuntime

SMALL = WasmLimits(max_instructions=10_000_000, memory_bytes=16 << 20, wall_seconds=10, output_bytes=64 * 1024)


def opened(folder: Path, pool: Pool | None = None) -> WasmtimeRuntime:
    """The runtime as a worker opens it, with its data in `folder`."""
    return open_wasmtime(Settings(_env_file=None, data_dir=folder), pool=pool)


def wasm(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def function(body: str, *, memory: str = '(memory (export "memory") 1)', more: str = "") -> bytes:
    """A module with `execute(ptr = local 0, len = local 1)`."""
    return wasm(f'(module {memory} {more} (func (export "execute") (param i32 i32) (result i32) {body}))')


WHERE = """
    (i32.store (i32.const 16) (i32.const 12)) (i32.store (i32.const 20) (local.get 0))
    (i32.store (i32.const 24) (local.get 1)) (i32.store (i32.const 28) (i32.load8_u (local.get 0)))
    (i32.const 16)
"""
"""Answers with its own arguments and the first byte of its input, as three u32."""


def where(answer: bytes) -> tuple[int, int, int]:
    pointer, length, first = (int.from_bytes(answer[at : at + 4], "little") for at in (0, 4, 8))
    return pointer, length, first


ECHO = wasm("""(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "_start")
      (loop $more
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 65536))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
        (br_if $more (i32.load (i32.const 8))))))""")
"""A command that copies its standard input to its standard output."""

ENVIRONMENT = wasm("""(module
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
      (drop (call $sizes (i32.const 0) (i32.const 12)))
      (drop (call $environ (i32.const 1024) (i32.const 4096)))
      (i32.store (i32.const 8) (i32.const 4096))
      (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))""")
"""A command that writes its variables, each with a NUL behind it."""

LOOP = wasm('(module (func (export "_start") (loop $l (br $l))))')
EMPTY = wasm('(module (func (export "_start")))')
