"""What a module says of itself before anything is compiled, against what the engine says of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from bench.fuzzing.decoder import Decoder, agree, presentable
from stages.execute.wasm.configuration import configured
from stages.execute.wasm.sections import BadModule, Facts, Section, TooLarge, examine

_COMPONENT = b"\0asm\x0d\0\x01\0"


def check_sections(given: bytes) -> None:
    """What the engine takes is read here as well, with the same imports and exports.

    Only what has no code is compiled for that: a few bytes of it can keep a compiler for seconds, and the text of what
    it imports and exports is read the same way.
    """
    try:
        facts = examine(given)
    except TooLarge as error:
        presentable(str(error))
        return
    except BadModule as error:
        presentable(str(error))
        agree(not _is_sound(given), f"the engine takes what is refused: {error}")
        return
    agree(facts.component == given.startswith(_COMPONENT), "a component that is a module, or the other way round")
    if facts.entries[Section.code] == 0:
        _compare(facts, given)


def _is_sound(module: bytes) -> bool:
    """Whether the engine takes it; a component, only if it is a short one, for the engine has to compile it."""
    import wasmtime
    from wasmtime.component import Component

    try:
        if module.startswith(_COMPONENT):
            Component(_engine(component=True), module)
        else:
            wasmtime.Module.validate(_engine(component=False), module)
    except wasmtime.WasmtimeError:
        return False
    return True


def _compare(facts: Facts, module: bytes) -> None:
    import wasmtime

    if facts.component or not _is_sound(module):
        return
    compiled = wasmtime.Module(_engine(component=False), module)
    imports = [(one.module, one.name) for one in compiled.imports]
    exports = [one.name for one in compiled.exports]
    agree(facts.imports == set(imports), "other imports than the engine finds")
    agree(facts.exports == set(exports), "other exports than the engine finds")
    agree(facts.entries[Section.import_] == len(imports), "another number of imports")
    agree(facts.entries[Section.export] == len(exports), "another number of exports")


@cache
def _engine(*, component: bool) -> Any:
    """Made when it is first needed: its threads do not survive a fork."""
    return configured(component)


_TEXTS = (
    "(module)",
    """(module (type (func (param i32 i64) (result f32))) (import "wasi_snapshot_preview1" "fd_write" (func (type 0)))
    (import "a" "t" (table 1 2 funcref)) (import "a" "m" (memory 1 3)) (import "a" "g" (global (mut i64)))
    (export "memory" (memory 0)) (export "t" (table 0)) (export "f" (func 0)) (export "g" (global 0)))""",
    """(module (import "b" "x" (table 0 externref)) (import "" "" (global externref)) (global i32 (i32.const 7))
    (memory (export "ö") 1) (table (export "") 2 funcref) (data (i32.const 8) "hi") (data "passive"))""",
    """(module (func $f (export "execute") (param i32 i32) (result i32) (local i64) local.get 0) (memory 2)
    (export "memory" (memory 0)) (table 1 funcref) (elem (i32.const 0) $f) (start $s) (func $s))""",
    "(component (core module (func)) (component (core module (memory 1))))",
    """(component (import "a" (func)) (core module $m (func (export "x"))) (core instance $i (instantiate $m))
    (func (export "run") (canon lift (core func $i "x"))))""",
)


def _modules() -> Iterator[bytes]:
    import wasmtime

    yield from (bytes(wasmtime.wat2wasm(text)) for text in _TEXTS)


DECODERS = (Decoder("wasm sections", check_sections, _modules, 512),)
