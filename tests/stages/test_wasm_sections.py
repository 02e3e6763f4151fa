"""Reading a module's headers: what is found, what is too much, and that nothing else comes of any bytes."""

from __future__ import annotations

import time

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from stages.execute.wasm.sections import BadModule, Caps, Section, TooLarge, examine

CORE, COMPONENT = b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"


def wasm(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def leb(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + leb(rest) if rest else bytes([low])


def section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + leb(len(content)) + content


def test_imports_and_exports_of_every_kind_are_found() -> None:
    facts = examine(
        wasm("""(module
        (import "a" "function" (func (param i32))) (import "a" "table" (table 1 2 funcref))
        (import "b" "memory" (memory 1)) (import "b" "global" (global (mut i64))) (import "c" "last" (func))
        (table $t 1 externref) (func $f) (func (export "_start")) (export "t" (table $t)))""")
    )
    assert facts.imports == {("a", "function"), ("a", "table"), ("b", "memory"), ("b", "global"), ("c", "last")}
    assert facts.exports == {"_start", "t"}
    assert (facts.entries[Section.function], facts.component) == (2, False)


def test_functions_of_all_modules_of_a_component_count_together() -> None:
    component = wasm('(component (core module (func)) (component (core module (func) (func) (func (export "x")))))')
    facts = examine(component)
    assert (facts.component, facts.entries[Section.function], facts.exports) == (True, 4, set())
    with pytest.raises(TooLarge, match="function"):
        examine(component, Caps(entries={Section.function: 3}))


@pytest.mark.parametrize("kind", [kind for kind in Caps().entries if kind is not Section.code])
def test_each_cap_is_kept_by_the_length_alone(kind: Section) -> None:
    most = Caps().entries[kind]
    with pytest.raises(TooLarge, match=kind.name.rstrip("_")):
        examine(CORE + section(kind, leb(most + 1)))


def test_a_module_or_a_function_that_is_too_long_is_refused() -> None:
    with pytest.raises(TooLarge, match="module has"):
        examine(CORE + bytes(100), Caps(module_bytes=107))
    with pytest.raises(TooLarge, match="function has 65 bytes"):
        examine(CORE + section(10, leb(1) + leb(65) + bytes(65)), Caps(function_bytes=64))


def test_sections_and_components_cannot_be_nested_or_repeated_for_ever() -> None:
    nested = COMPONENT
    for _ in range(20):
        nested = COMPONENT + section(4, nested)
    with pytest.raises(TooLarge, match="nested"):
        examine(nested)
    with pytest.raises(TooLarge, match="sections"):
        examine(CORE + section(0, b"\x01x") * 20_000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0asm",
        b"\x7fELF....",
        b"\0asm\x02\0\0\0",
        CORE + b"\x01\xff",
        CORE + b"\x01\x05\x01",
        CORE + b"\x02\x02\x01\x05",
    ],
)
def test_what_is_no_module_is_called_that(content: bytes) -> None:
    with pytest.raises(BadModule):
        examine(content)


@given(st.sampled_from([CORE, COMPONENT]), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(header: bytes, content: bytes) -> None:
    try:
        facts = examine(header + content)
    except (BadModule, TooLarge):
        return
    assert facts.component is (header == COMPONENT)


@given(st.sampled_from(list(Section)), st.binary(max_size=60))
def test_any_section_is_read_or_refused(kind: Section, content: bytes) -> None:
    try:
        examine(CORE + section(kind, content))
    except (BadModule, TooLarge):
        return


def test_the_largest_module_is_read_quickly() -> None:
    """The reading itself must be no way to keep a worker busy."""
    caps = Caps()
    bodies = caps.entries[Section.code]
    began = time.process_time()
    examine(CORE + section(10, leb(bodies) + b"\0" * bodies) + section(0, b"\x01x" + bytes(15 << 20)))
    with pytest.raises(TooLarge):
        examine(CORE + section(10, leb(16_000_000) + bytes(16_000_000)))
    assert time.process_time() - began < 3
