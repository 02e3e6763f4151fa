"""Ways to call a module: which one, where its input lies, and what is made of its answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from wasm_world import ECHO, EMPTY, ENVIRONMENT, SMALL, WHERE, function, opened, wasm, where

from millrace.errors import Permanent
from stages.execute.wasm.abi import detect_abi
from stages.execute.wasm.interface import Abi, Call, Status, WasmExecution
from stages.execute.wasm.runtime import WasmtimeRuntime
from stages.execute.wasm.sections import examine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: sealed files, pidfds, seccomp")

PAGE = 65_536


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WasmtimeRuntime]:
    found = opened(tmp_path_factory.mktemp("wasm"))
    yield found
    found.close()


def run(runtime: WasmtimeRuntime, module: bytes, stdin: bytes = b"", **changed: object) -> WasmExecution:
    return runtime.execute(Call(module, stdin, {}, SMALL.model_copy(update=changed)))


def memory(pages: str) -> str:
    return f'(memory (export "memory") {pages})'


@pytest.mark.parametrize(
    ("text", "target", "abi"),
    [
        ('(module (func (export "_start")))', "wasm32-unknown-unknown", Abi.wasi_p1),
        ('(module (func (export "execute")))', "wasm32-wasi", Abi.execute),
        ('(module (func (export "_start")) (func (export "execute")))', "wasm32-wasip1", Abi.wasi_p1),
        ('(module (func (export "_start")) (func (export "execute")))', "wasm32-unknown-unknown", Abi.execute),
        ('(module (func (export "_start")) (func (export "execute")))', "", Abi.wasi_p1),
        ("(module)", "wasm32-unknown-unknown", Abi.execute),
        ("(module)", "", Abi.wasi_p1),
        ("(component)", "wasm32-wasip1", Abi.wasi_p2),
    ],
)
def test_a_modules_own_exports_decide_how_it_is_called(text: str, target: str, abi: Abi) -> None:
    assert detect_abi(examine(wasm(text)), target) is abi


def test_the_input_is_behind_what_the_guest_has(runtime: WasmtimeRuntime) -> None:
    """The first worker of this network wrote it to 0: a null pointer, and where Rust has its stack."""
    answer = run(runtime, function(WHERE, memory=memory("3")), b"A" * 5)
    assert where(answer.output) == (3 * PAGE, 5, 65)
    assert answer.peak_memory_bytes == 4 * PAGE


def test_memory_grows_for_a_large_input(runtime: WasmtimeRuntime) -> None:
    answer = run(runtime, function(WHERE), b"B" * (5 * PAGE + 1))
    assert where(answer.output) == (PAGE, 5 * PAGE + 1, 66)
    assert answer.peak_memory_bytes == 7 * PAGE


def test_a_memory_that_begins_empty_grows_and_no_input_is_at_a_null_pointer(runtime: WasmtimeRuntime) -> None:
    """AssemblyScript's smallest runtime: the first worker of this network failed at it."""
    answer = run(runtime, function(WHERE, memory=memory("0")), b"C")
    assert where(answer.output) == (16 * PAGE, 1, 67)


def test_a_memory_that_cannot_grow_has_its_input_at_the_beginning(runtime: WasmtimeRuntime) -> None:
    assert where(run(runtime, function(WHERE, memory=memory("1 1")), b"D").output) == (0, 1, 68)
    full = run(runtime, function(WHERE, memory=memory("1 1")), b"D" * (PAGE + 1))
    assert (full.status, full.trap) == (Status.memory, None)


@pytest.mark.parametrize("name", ["alloc", "malloc", "__alloc"])
def test_the_guests_own_allocator_is_asked(runtime: WasmtimeRuntime, name: str) -> None:
    allocator = f'(func (export "{name}") (param i32) (result i32) (i32.const 4096))'
    assert where(run(runtime, function(WHERE, more=allocator), b"E" * 9).output) == (4096, 9, 69)


@pytest.mark.parametrize("gives", ["0", "65530", "-16"], ids=["nothing", "too little", "beyond 2 GiB"])
def test_an_allocator_that_lies_writes_nothing_anywhere(runtime: WasmtimeRuntime, gives: str) -> None:
    allocator = f'(func (export "malloc") (param i32) (result i32) (i32.const {gives}))'
    assert run(runtime, function(WHERE, more=allocator), b"F" * 9).status is Status.memory


@pytest.mark.parametrize("kind", ["(result f32) (f32.const nan)", "(result i64) (i64.const 8)", ""])
def test_an_allocator_of_another_kind_is_not_asked(runtime: WasmtimeRuntime, kind: str) -> None:
    ended = run(runtime, function(WHERE, more=f'(func (export "malloc") (param i32) {kind})'), b"G")
    assert where(ended.output) == (PAGE, 1, 71)


def test_a_reactor_is_initialised_first(runtime: WasmtimeRuntime) -> None:
    more = '(global $g (mut i32) (i32.const 1)) (func (export "_initialize") (global.set $g (i32.const 7)))'
    body = "(i32.store (i32.const 8) (i32.const 1)) (i32.store8 (i32.const 12) (global.get $g)) (i32.const 8)"
    assert run(runtime, function(body, more=more)).output == b"\x07"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("(i32.const -5)", Status.guest_error, -5),
        ("(i32.const 0x80000000)", Status.guest_error, -(2**31)),
        ("(i32.const 65533)", Status.bad_result, None),
        ("(i32.const 0x7fffffff)", Status.bad_result, None),
        ("(i32.store (i32.const 0) (i32.const 65533)) (i32.const 0)", Status.bad_result, None),
        ("(i32.store (i32.const 0) (i32.const -1)) (i32.const 0)", Status.bad_result, None),
        ("(i32.store (i32.const 8) (i32.const 64001)) (i32.const 8)", Status.output_limit, None),
    ],
)
def test_an_answer_that_is_none_is_called_what_it_is(
    runtime: WasmtimeRuntime, body: str, status: Status, code: int | None
) -> None:
    """Lengths and pointers are compared unsigned: -1 is 4 GiB, not a length that passes."""
    fixed = memory("1 1")
    ended = run(runtime, function(body, memory=fixed), output_bytes=64_000)
    assert (ended.status, ended.code, ended.output) == (status, code, b"")


def test_an_answer_may_fill_memory_to_its_last_byte(runtime: WasmtimeRuntime) -> None:
    body = "(i32.store (i32.const 0) (i32.const 65532)) (i32.const 0)"
    assert len(run(runtime, function(body, memory=memory("1 1")), output_bytes=PAGE).output) == PAGE - 4


def test_what_a_function_prints_is_not_its_answer(runtime: WasmtimeRuntime) -> None:
    write = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
    module = wasm(f"""(module {write} (memory (export "memory") 1) (data (i32.const 64) "a word")
        (func (export "execute") (param i32 i32) (result i32)
          (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 6))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (i32.store (i32.const 32) (i32.const 1)) (i32.const 32)))""")
    ended = run(runtime, module)
    assert (ended.status, ended.output, ended.stderr) == (Status.ok, b"\0", b"a word")


def test_a_function_that_exits_has_no_answer(runtime: WasmtimeRuntime) -> None:
    module = wasm("""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "execute") (param i32 i32) (result i32) (call $exit (i32.const 0)) (i32.const 0)))""")
    assert run(runtime, module).status is Status.bad_result


@pytest.mark.parametrize(
    "text",
    [
        '(module (func (export "execute") (param i32 i32) (result i32) (i32.const 0)))',
        '(module (memory (export "memory") 1) (func (export "execute") (param i32) (result i32) (i32.const 0)))',
        '(module (memory (export "memory") 1) (global (export "execute") i32 (i32.const 0)))',
        '(module (func (export "memory")) (func (export "execute") (param i32 i32) (result i32) (i32.const 0)))',
    ],
)
def test_a_module_without_the_two_exports_is_not_called(runtime: WasmtimeRuntime, text: str) -> None:
    assert run(runtime, wasm(text)).status is Status.missing_export


@pytest.mark.parametrize("size", [0, 1, 60_000, 300_000])
def test_a_command_reads_its_input_and_writes_its_output(runtime: WasmtimeRuntime, size: int) -> None:
    given = bytes(number % 251 for number in range(size))
    assert run(runtime, ECHO, given, output_bytes=300_000).output == given


def test_a_command_that_does_nothing_has_an_empty_answer(runtime: WasmtimeRuntime) -> None:
    ended = run(runtime, EMPTY)
    assert (ended.status, ended.output, ended.succeeded) == (Status.ok, b"", True)


def test_a_module_sees_the_variables_of_its_call_and_no_others(
    runtime: WasmtimeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_SECRET", "of the worker")
    call = Call(ENVIRONMENT, b"", {"NEAR_REQUEST_ID": "7", "NEAR_SENDER_ID": "näar.near"}, SMALL)
    expected = "NEAR_REQUEST_ID=7\0NEAR_SENDER_ID=näar.near\0".encode()
    assert runtime.execute(call).output == expected
    assert run(runtime, ENVIRONMENT).output == b""


@pytest.mark.parametrize("variable", [("A", "b\0c"), ("A=", "b"), ("", "b"), ("A", "\ud800")])
def test_a_variable_that_cannot_be_one_is_refused(runtime: WasmtimeRuntime, variable: tuple[str, str]) -> None:
    with pytest.raises(Permanent, match="variable"):
        runtime.execute(Call(EMPTY, b"", dict([variable]), SMALL))


def test_an_execution_survives_being_written_down(runtime: WasmtimeRuntime) -> None:
    ended = run(runtime, ECHO, b"\xff\x00")
    assert WasmExecution.model_validate_json(ended.model_dump_json()) == ended


def component(body: str, *, run: str = "wasi:cli/run@0.2.3", memory: str = "", more: str = "") -> bytes:
    """A component whose `run` does `body`, which leaves 0 for success and 1 for an error."""
    return wasm(f"""(component {more}
      (core module $module {memory} (func $run (export "run") (result i32) {body}))
      (core instance $instance (instantiate $module))
      (func $run (result (result)) (canon lift (core func $instance "run")))
      (instance $runs (export "run" (func $run)))
      (export "{run}" (instance $runs)))""")


@pytest.mark.parametrize(
    ("module", "status", "trap"),
    [
        (component("(i32.const 0)"), Status.ok, None),
        (component("(i32.const 0)", run="wasi:cli/run@0.2.0"), Status.ok, None),
        (component("(i32.const 1)"), Status.exit, None),
        (component("(loop $l (br $l)) (i32.const 0)"), Status.out_of_fuel, "OUT_OF_FUEL"),
        (component("unreachable"), Status.unreachable, "UNREACHABLE"),
        (component("(call $run)"), Status.stack_overflow, "STACK_OVERFLOW"),
        (component("(i32.load (i32.const -4))", memory="(memory 1)"), Status.trap, "MEMORY_OUT_OF_BOUNDS"),
        (component("(i32.div_u (i32.const 1) (i32.const 0))"), Status.trap, "INTEGER_DIVISION_BY_ZERO"),
        (component("(i32.const 0)", memory="(memory 257)"), Status.memory, None),
        (component("(i32.const 0)", run="wasi:cli/run@0.3.0"), Status.missing_export, None),
        (component("(i32.const 0)", run="other:cli/run@0.2.0"), Status.missing_export, None),
        (component("(i32.const 0)", more='(import "near:rpc/api@1.0.0" (instance))'), Status.ok, None),
        (
            component("(i32.const 0)", more='(import "near:rpc/api@1.0.0" (instance (export "f" (func))))'),
            Status.missing_import,
            None,
        ),
        (component("(i32.const 2)"), Status.trap, "BAD_CALL_OF_HOST"),
        (wasm("(component)"), Status.missing_export, None),
    ],
)
def test_a_component_ends_as_a_module_would(
    runtime: WasmtimeRuntime, module: bytes, status: Status, trap: str | None
) -> None:
    """A component's traps reach us as text only."""
    ended = run(runtime, module)
    assert (ended.status, ended.trap, ended.abi) == (status, trap, Abi.wasi_p2), ended


def test_a_components_time_is_up(runtime: WasmtimeRuntime) -> None:
    ended = run(runtime, component("(loop $l (br $l)) (i32.const 0)"), max_instructions=2**63 - 1, wall_seconds=0.2)
    assert (ended.status, ended.trap) == (Status.timeout, None)


def test_fuel_is_the_same_for_every_size_of_the_tank(runtime: WasmtimeRuntime) -> None:
    """The engine looks at it where a loop or a function begins: a stretch of code in between is run to its end."""
    rounds = (
        "(local i32) (loop $l (br_if $l (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 99))))"
    )
    module = wasm(f'(module (func (export "_start") {rounds}))')
    used = {run(runtime, module, max_instructions=most).fuel for most in (10_000, 10**6, 2**63 - 1)}
    (needed,) = used
    assert needed is not None
    assert 99 * 5 <= needed <= 99 * 10
    assert run(runtime, module, max_instructions=needed).status is Status.ok
    assert run(runtime, module, max_instructions=needed - 10).status is Status.out_of_fuel


def test_a_name_that_a_stranger_chose_is_safe_to_print(runtime: WasmtimeRuntime) -> None:
    ended = run(runtime, wasm('(module (import "\\1b[2J" "f" (func)) (func (export "_start")))'))
    assert ended.status is Status.missing_import
    assert "\x1b" not in ended.detail
    assert "\\x1b[2J" in ended.detail


def test_a_report_of_long_foreign_names_reaches_us_whole(runtime: WasmtimeRuntime) -> None:
    """Written down as escapes it is twelve times as long: cut short, it would have been a fault of ours."""
    module = f'(module (import "wasi_snapshot_preview1" "{chr(0x10348) * 900}" (func)) (func (export "_start")))'
    assert run(runtime, wasm(module)).status is Status.missing_import
