"""Modules that attack, and the runtime they attack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import wasmtime

from millrace.limits import MIB
from millrace.settings import Settings
from stages.execute.wasm.interface import WasmLimits
from stages.execute.wasm.opening import open_wasmtime
from stages.execute.wasm.runtime import Compilation, WasmtimeRuntime
from stages.execute.wasm.sections import Caps

TIGHT = WasmLimits(max_instructions=20_000_000, memory_bytes=64 * MIB, wall_seconds=10, output_bytes=64 * 1024)
"""Limits that end a loop within a tenth of a second, by its fuel."""

IMPORTS = """
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
"""


def command(start: str, *, more: str = "", memory: str = "1") -> str:
    """A WASI command whose `_start` does `start`."""
    return f'(module {IMPORTS} (memory (export "memory") {memory}) {more} (func $start (export "_start") {start}))'


def opened(folder: Path, caps: Caps | None = None, compilation: Compilation | None = None) -> WasmtimeRuntime:
    """The runtime as a worker opens it, with its data in `folder`."""
    return open_wasmtime(Settings(_env_file=None, data_dir=folder), caps=caps, compilation=compilation)


def many_functions(count: int) -> bytes:
    """The compile bomb: a small module with that many empty functions."""
    return bytes(wasmtime.wat2wasm("(module" + "(func)" * count + '(func (export "_start")))'))


SLEEP_FOR_EVER = command(
    """
    (i32.store (i32.const 16) (i32.const 1)) ;; clock: monotonic; the subscription's other fields are 0
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
    """
)


def flood(fd: int) -> str:
    """A module that never stops writing."""
    write = f"(drop (call $write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 8)))"
    return command(
        f"(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 4096)) (loop $l {write} (br $l))"
    )


def opening(path: str, fd: int) -> str:
    """A module that exits with the errno of opening `path` below the folder `fd`."""
    rights = "(i64.const 2) (i64.const 0)"
    call = f"""(call $open (i32.const {fd}) (i32.const 1) (i32.const 64) (i32.const {len(path)})
        (i32.const 0) {rights} (i32.const 0) (i32.const 32))"""
    return command(f"(call $exit {call})", more=f'(data (i32.const 64) "{path}")')


def component(in_realloc: Callable[[str], str] = lambda again: "") -> str:
    """A component that copies up to 4,096 bytes from standard input to standard output.

    `in_realloc` makes what its `realloc`, which the host calls, does first, from a call that reads once more.
    """
    again = "(call_indirect (type $again) (i32.const 0))"
    canonical = '(memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))'
    return f"""(component
      (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
      (alias export $error "error" (type $error-type))
      (import "wasi:io/streams@0.2.0" (instance $streams
        (export "input-stream" (type $in (sub resource)))
        (export "output-stream" (type $out (sub resource)))
        (alias outer 1 $error-type (type $outer-error))
        (export "error" (type $e (eq $outer-error)))
        (type $own-error (own $e))
        (type $failure (variant (case "last-operation-failed" $own-error) (case "closed")))
        (export "stream-error" (type $stream-error (eq $failure)))
        (type $borrow-in (borrow $in)) (type $borrow-out (borrow $out)) (type $bytes (list u8))
        (type $did-read (result $bytes (error $stream-error)))
        (type $did-write (result (error $stream-error)))
        (export "[method]input-stream.blocking-read"
          (func (param "self" $borrow-in) (param "len" u64) (result $did-read)))
        (export "[method]output-stream.blocking-write-and-flush"
          (func (param "self" $borrow-out) (param "contents" $bytes) (result $did-write)))))
      (alias export $streams "input-stream" (type $in))
      (alias export $streams "output-stream" (type $out))
      (import "wasi:cli/stdin@0.2.0" (instance $stdin
        (alias outer 1 $in (type $outer-in)) (export "input-stream" (type $i (eq $outer-in)))
        (type $own-in (own $i)) (export "get-stdin" (func (result $own-in)))))
      (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $out (type $outer-out)) (export "output-stream" (type $o (eq $outer-out)))
        (type $own-out (own $o)) (export "get-stdout" (func (result $own-out)))))
      (core module $libc-module
        (type $again (func))
        (memory (export "memory") 2)
        (table (export "table") 1 funcref)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) {in_realloc(again)} (i32.const 65536)))
      (core instance $libc (instantiate $libc-module))
      (core func $read (canon lower (func $streams "[method]input-stream.blocking-read") {canonical}))
      (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") {canonical}))
      (core func $get-in (canon lower (func $stdin "get-stdin")))
      (core func $get-out (canon lower (func $stdout "get-stdout")))
      (core module $main-module
        (import "libc" "memory" (memory 2))
        (import "libc" "table" (table 1 funcref))
        (import "host" "read" (func $read (param i32 i64 i32)))
        (import "host" "write" (func $write (param i32 i32 i32 i32)))
        (import "host" "in" (func $in (result i32)))
        (import "host" "out" (func $out (result i32)))
        (func $again (call $read (call $in) (i64.const 16) (i32.const 0)))
        (elem (i32.const 0) func $again)
        (func (export "run") (result i32)
          (call $read (call $in) (i64.const 4096) (i32.const 0))
          (if (i32.load8_u (i32.const 0)) (then (return (i32.const 1))))
          (call $write (call $out) (i32.load (i32.const 4)) (i32.load (i32.const 8)) (i32.const 32))
          (i32.const 0)))
      (core instance $main (instantiate $main-module
        (with "libc" (instance $libc))
        (with "host" (instance (export "read" (func $read)) (export "write" (func $write))
          (export "in" (func $get-in)) (export "out" (func $get-out))))))
      (func $run (result (result)) (canon lift (core func $main "run")))
      (instance $runs (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $runs)))"""


_ERRORS = """
    "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout" "concurrency-conflict"
    "not-in-progress" "would-block" "invalid-state" "new-socket-limit" "address-not-bindable" "address-in-use"
    "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted" "datagram-too-large"
    "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"
"""

SOCKET = f"""(component
  (import "wasi:sockets/network@0.2.0" (instance $network
    (type $e (enum {_ERRORS})) (export "error-code" (type (eq $e)))
    (type $f (enum "ipv4" "ipv6")) (export "ip-address-family" (type (eq $f)))))
  (alias export $network "error-code" (type $error))
  (alias export $network "ip-address-family" (type $family))
  (import "wasi:sockets/tcp@0.2.0" (instance $tcp (export "tcp-socket" (type (sub resource)))))
  (alias export $tcp "tcp-socket" (type $socket))
  (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
    (alias outer 1 $error (type $e0)) (export "error-code" (type $e (eq $e0)))
    (alias outer 1 $family (type $f0)) (export "ip-address-family" (type $f (eq $f0)))
    (alias outer 1 $socket (type $s0)) (export "tcp-socket" (type $s (eq $s0)))
    (type $own (own $s)) (type $made (result $own (error $e)))
    (export "create-tcp-socket" (func (param "address-family" $f) (result $made)))))
  (core module $memory-module (memory (export "memory") 1))
  (core instance $memory (instantiate $memory-module))
  (core func $create-socket (canon lower (func $create "create-tcp-socket") (memory (core memory $memory "memory"))))
  (core module $main-module
    (import "m" "memory" (memory 1))
    (import "m" "create" (func $create (param i32 i32)))
    (func (export "run") (result i32) (call $create (i32.const 0) (i32.const 16)) (i32.load8_u (i32.const 16))))
  (core instance $main (instantiate $main-module (with "m" (instance
    (export "memory" (memory $memory "memory")) (export "create" (func $create-socket))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $runs (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $runs)))"""
"""A component that succeeds if it is given a TCP socket."""

_ENVIRONMENT = """
  (import "wasi:cli/environment@0.2.0" (instance $source
    (type $pair (tuple string string)) (type $pairs (list $pair))
    (export "list" (func (result $pairs)))))
"""
_PREOPENS = """
  (import "wasi:filesystem/types@0.2.0" (instance $types (export "descriptor" (type (sub resource)))))
  (alias export $types "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.0" (instance $source
    (alias outer 1 $descriptor (type $d0)) (export "descriptor" (type $d (eq $d0)))
    (type $own (own $d)) (type $pair (tuple $own string)) (type $pairs (list $pair))
    (export "list" (func (result $pairs)))))
"""


def _counting(source: str, name: str) -> str:
    """A component that succeeds if the function `name` of `source` lists nothing."""
    canonical = '(memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))'
    return f"""(component {source.replace('"list"', f'"{name}"')}
      (core module $libc-module
        (memory (export "memory") 1) (global $top (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
          (global.get $top) (global.set $top (i32.and (i32.const -8)
            (i32.add (i32.const 15) (i32.add (global.get $top) (local.get 3)))))))
      (core instance $libc (instantiate $libc-module))
      (core func $list (canon lower (func $source "{name}") {canonical}))
      (core module $main-module
        (import "m" "memory" (memory 1)) (import "m" "list" (func $list (param i32)))
        (func (export "run") (result i32) (call $list (i32.const 16)) (i32.ne (i32.const 0) (i32.load (i32.const 20)))))
      (core instance $main (instantiate $main-module (with "m" (instance
        (export "memory" (memory $libc "memory")) (export "list" (func $list))))))
      (func $run (result (result)) (canon lift (core func $main "run")))
      (instance $runs (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $runs)))"""


NO_VARIABLES = _counting(_ENVIRONMENT, "get-environment")
NO_FOLDERS = _counting(_PREOPENS, "get-directories")
