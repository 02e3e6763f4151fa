"""The thirty attacks of a WASM module on its worker: what must come of each, and what comes without the defence."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime
from attack_wasm_world import (
    NO_FOLDERS,
    NO_VARIABLES,
    SLEEP_FOR_EVER,
    SOCKET,
    TIGHT,
    command,
    component,
    flood,
    many_functions,
    opened,
    opening,
)

from millrace.limits import MIB
from stages.execute.wasm import configuration
from stages.execute.wasm.interface import Call, RuntimeFault, Status, WasmExecution, WasmLimits
from stages.execute.wasm.runtime import Compilation, WasmtimeRuntime
from stages.execute.wasm.sections import BadModule, Caps, Section, TooLarge, examine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: sealed files, pidfds, seccomp")

LOOP = "(loop $l (br $l))"
BADF, NOTCAPABLE = 8, 76
UNCAPPED = Caps(entries=dict.fromkeys(Section, 10**9))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WasmtimeRuntime]:
    found = opened(tmp_path_factory.mktemp("wasm"))
    yield found
    found.close()


def run(runtime: WasmtimeRuntime, module: str | bytes, limits: WasmLimits = TIGHT, stdin: bytes = b"") -> WasmExecution:
    content = bytes(wasmtime.wat2wasm(module)) if isinstance(module, str) else module
    return runtime.execute(Call(content, stdin, {}, limits))


def within(**changed: object) -> WasmLimits:
    return TIGHT.model_copy(update=changed)


EXPECTED: dict[str, tuple[str, Status, str | int | None]] = {
    "01 fuel_loop": (command(LOOP), Status.out_of_fuel, "OUT_OF_FUEL"),
    "02 tailcall_loop": (
        '(module (func $f (export "_start") (return_call $f)))',
        Status.out_of_fuel,
        "OUT_OF_FUEL",
    ),
    "03 start_fn_loop": (
        f'(module (func $f {LOOP}) (start $f) (func (export "_start")))',
        Status.out_of_fuel,
        "OUT_OF_FUEL",
    ),
    "04 stack_overflow": (command("(call $start)"), Status.stack_overflow, "STACK_OVERFLOW"),
    "05 host_guest_recursion": (component(lambda again: again), Status.trap, "CANNOT_LEAVE_COMPONENT"),
    "06 mem_grow_fail": (
        command("(call $exit (i32.eq (memory.grow (i32.const 60000)) (i32.const -1)))"),
        Status.exit,
        1,
    ),
    "07 mem_initial_huge": (command("", memory="60000"), Status.memory, None),
    "09 table_initial_huge": (command("", more="(table 9000000 funcref)"), Status.memory, None),
    "10 table_grow": (
        command(
            "(call $exit (i32.eq (table.grow 0 (ref.null func) (i32.const 9000000)) (i32.const -1)))",
            more="(table 1 funcref)",
        ),
        Status.exit,
        1,
    ),
    "11 many_tables": (command("", more="(table 1 funcref)" * 50), Status.memory, None),
    "12 oob": (command("(drop (i32.load (i32.const -8)))"), Status.trap, "MEMORY_OUT_OF_BOUNDS"),
    "13 div0": (
        command("(drop (i32.div_u (i32.const 1) (i32.const 0)))"),
        Status.trap,
        "INTEGER_DIVISION_BY_ZERO",
    ),
    "14 indirect_null": (
        command("(call_indirect (i32.const 0))", more="(table 1 funcref)"),
        Status.trap,
        "INDIRECT_CALL_TO_NULL",
    ),
    "15 bad_sig": (
        command(
            "(call_indirect (i32.const 0))",
            more="(table 1 funcref) (func $other (param i32)) (elem (i32.const 0) func $other)",
        ),
        Status.trap,
        "BAD_SIGNATURE",
    ),
    "16 missing_import": (
        '(module (import "env" "f" (func)) (func (export "_start")))',
        Status.missing_import,
        None,
    ),
    "16 missing_import of WASI": (
        '(module (import "wasi_snapshot_preview1" "no_such" (func)) (func (export "_start")))',
        Status.missing_import,
        None,
    ),
    "17 no_start": ('(module (memory (export "memory") 1))', Status.missing_export, None),
    "17 _start_is_memory": ('(module (memory (export "_start") 1))', Status.missing_export, None),
    "17 _start_bad_sig": ('(module (func (export "_start") (param i32)))', Status.missing_export, None),
    "18 memory64 refused": (command("", memory="i64 1"), Status.bad_module, None),
    "19 shared memory refused": (
        '(module (memory 1 1 shared) (func (export "_start")'
        " (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))))",
        Status.bad_module,
        None,
    ),
    "21 proc_exit 3": (command("(call $exit (i32.const 3))"), Status.exit, 3),
    "21 proc_exit 999": (command("(call $exit (i32.const 999))"), Status.exit, 999),
    "25 fd_write_oob_iov": (
        command("(drop (call $write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 8)))"),
        Status.trap,
        "BAD_CALL_OF_HOST",
    ),
    "25 path_open_escape": (opening("/etc/passwd", 3), Status.exit, BADF),
    "26 br_table_huge": (
        command(f"(block (br_table {'0 ' * 300_000} (i32.const 0)))"),
        Status.bad_module,
        None,
    ),
    "27 gc bomb refused": (
        '(module (type $a (array i64)) (func (export "_start") (drop (array.new_default $a (i32.const 99999999)))))',
        Status.bad_module,
        None,
    ),
    "28 no preopen": (command("(call $exit (call $prestat (i32.const 3) (i32.const 0)))"), Status.exit, BADF),
    "28 ..": (opening("../etc/passwd", 3), Status.exit, BADF),
    "28 below standard output": (opening("etc", 1), Status.exit, BADF),
}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_an_attack_ends_as_it_must(runtime: WasmtimeRuntime, name: str) -> None:
    module, status, word = EXPECTED[name]
    ended = run(runtime, module, stdin=b"input")
    assert ended.status is status, ended
    assert word is None or word in (ended.trap, ended.code), ended
    assert ended.detail
    assert ended.milliseconds < 5_000


def test_05_the_same_component_runs_where_its_realloc_does_not_call_back(runtime: WasmtimeRuntime) -> None:
    """Control: it is the call back, not the component, that is refused."""
    assert run(runtime, component(), stdin=b"input").output == b"input"


def test_01_without_the_limit_on_fuel_the_clock_ends_a_loop(runtime: WasmtimeRuntime) -> None:
    ended = run(runtime, command(LOOP), within(max_instructions=2**62, wall_seconds=0.3))
    assert ended.status is Status.timeout
    assert 300 <= ended.milliseconds < 3_000
    assert (ended.fuel, ended.peak_memory_bytes) == (None, 65_536)


def test_01_a_loop_uses_all_its_fuel_and_no_more(runtime: WasmtimeRuntime) -> None:
    assert run(runtime, command(LOOP)).fuel == TIGHT.max_instructions


def test_07_a_memory_within_the_limit_is_had(runtime: WasmtimeRuntime) -> None:
    """Control: the same module, with the limit out of its way."""
    ended = run(runtime, command("", memory="60000"), within(memory_bytes=4 << 30))
    assert (ended.status, ended.peak_memory_bytes) == (Status.ok, 60_000 * 65_536)


def test_08_mem_grow_loop_stays_within_its_memory_and_its_time(runtime: WasmtimeRuntime) -> None:
    grow = "(loop $l (drop (memory.grow (i32.const 1))) (br $l))"
    ended = run(runtime, command(grow), within(max_instructions=2**62, wall_seconds=0.5))
    assert ended.status is Status.timeout
    assert ended.peak_memory_bytes == TIGHT.memory_bytes


def test_20_bulk_fill_is_charged_by_its_size(runtime: WasmtimeRuntime) -> None:
    fill = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 1048576))"
    once = run(runtime, command(fill, memory="16"))
    assert once.status is Status.ok
    assert (once.fuel or 0) > 1_000_000
    ended = run(runtime, command(f"(loop $l {fill} (br $l))", memory="16"))
    assert ended.status is Status.out_of_fuel


def test_22_random_huge_is_ended_within_its_time(runtime: WasmtimeRuntime) -> None:
    """The engine copies outside the guest's memory: the kernel's limit stands behind that."""
    draw = "(loop $l (drop (call $random (i32.const 0) (i32.const 60000000))) (br $l))"
    ended = run(runtime, command(draw, memory="1000"), within(wall_seconds=0.5))
    assert ended.status in (Status.timeout, Status.memory)


def test_23_sleep_forever_is_killed_by_the_worker(runtime: WasmtimeRuntime) -> None:
    began = time.monotonic()
    ended = run(runtime, SLEEP_FOR_EVER, within(wall_seconds=0.5))
    assert ended.status is Status.timeout
    assert time.monotonic() - began < 5
    assert ended.fuel is None, "it was killed where it could tell nothing"
    assert (ended.peak_memory_bytes or 0) > MIB


@pytest.mark.parametrize("fd", [1, 2])
def test_24_a_flood_is_cut_at_the_limit(runtime: WasmtimeRuntime, fd: int) -> None:
    ended = run(runtime, flood(fd), within(max_instructions=2**62, stderr_bytes=32 * 1024))
    assert ended.status is Status.output_limit
    assert len(ended.output) == (64 * 1024 if fd == 1 else 0)
    assert len(ended.stderr) == (0 if fd == 1 else 32 * 1024)


def test_26_many_funcs_is_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    runtime, bomb = opened(tmp_path), many_functions(200_000)
    began = time.monotonic()
    ended = run(runtime, bomb)
    assert (ended.status, time.monotonic() - began < 1) == (Status.too_large, True)
    assert runtime.nursery.forker_pid is None
    runtime.close()


@pytest.mark.parametrize(
    ("compilation", "word"),
    [(Compilation(cpu_seconds=1), "1 s"), (Compilation(memory_bytes=192 * MIB), "memory")],
    ids=["time", "memory"],
)
def test_26_without_the_cap_a_compile_bomb_goes_off_in_a_child_that_is_limited(
    tmp_path: Path, compilation: Compilation, word: str
) -> None:
    """Control for the cap, and the second line behind it."""
    runtime, bomb = opened(tmp_path, UNCAPPED, compilation), many_functions(200_000)
    ended = run(runtime, bomb)
    assert ended.status is Status.too_large
    assert word in ended.detail
    began = time.monotonic()
    assert run(runtime, bomb).detail == ended.detail
    assert time.monotonic() - began < 0.5, "the same bomb does not go off twice"
    assert run(runtime, command("")).status is Status.ok
    runtime.close()


@pytest.mark.parametrize(
    "body",
    ["(block " * 40_000 + ")" * 40_000, "(drop (i32.add (i32.const 1) (i32.const 2)))" * 100_000],
    ids=["deep nesting", "big body"],
)
def test_26_what_only_looks_like_a_bomb_runs(runtime: WasmtimeRuntime, body: str) -> None:
    module = ('(module (func (export "_start") ' + body + "))").encode()
    assert run(runtime, module.decode()).status is Status.ok


def test_29_machine_code_is_no_module(runtime: WasmtimeRuntime) -> None:
    engine = configuration.configured(component=False)
    code = bytes(wasmtime.Module(engine, command("")).serialize())
    ended = run(runtime, code)
    assert ended.status is Status.bad_module
    assert wasmtime.Module.deserialize(engine, code), "control: it is machine code that the engine would have run"


def test_30_the_same_input_gives_the_same_output_and_fuel(tmp_path: Path, runtime: WasmtimeRuntime) -> None:
    other = opened(tmp_path)
    results = [run(which, component(), stdin=b"x" * 1000) for which in (runtime, runtime, other)]
    assert len({(one.output, one.fuel, one.module_sha256) for one in results}) == 1
    other.close()


def test_30_not_a_number_has_the_same_bits_everywhere(runtime: WasmtimeRuntime) -> None:
    """Otherwise its sign and payload would be the processor's."""
    nan = "(f32.div (f32.mul (f32.const -1) (f32.const 0)) (f32.const 0))"
    answer = f"""(module (memory (export "memory") 1) (func (export "execute") (param i32 i32) (result i32)
        (i32.store (i32.const 16) (i32.const 8)) (f32.store (i32.const 20) {nan})
        (f32.store (i32.const 24) (f32.add (f32.const nan:0x200001) (f32.const 1))) (i32.const 16)))"""
    assert run(runtime, answer).output == bytes.fromhex("0000c07f") * 2


def test_30_mutated_and_truncated_modules_never_crash_the_worker(runtime: WasmtimeRuntime) -> None:
    whole, dice = bytes(wasmtime.wat2wasm(component())), random.Random(30)
    limits = within(wall_seconds=2)
    for number in range(1_000):
        mutated = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            mutated[dice.randrange(8, len(whole))] = dice.randrange(256)
        if number % 5 == 0:
            del mutated[dice.randrange(len(mutated)) :]
        try:
            examine(bytes(mutated))
        except (BadModule, TooLarge):
            continue
        if number % 4 == 0:
            assert run(runtime, bytes(mutated), limits, b"input").status in set(Status)
    assert run(runtime, whole, stdin=b"input").output == b"input"


def test_28_a_component_gets_no_folder(runtime: WasmtimeRuntime) -> None:
    assert run(runtime, NO_FOLDERS).status is Status.ok


def test_a_component_gets_no_variables_but_those_of_its_call(
    runtime: WasmtimeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_SECRET", "of the worker")
    module = bytes(wasmtime.wat2wasm(NO_VARIABLES))
    assert runtime.execute(Call(module, limits=TIGHT)).status is Status.ok
    assert runtime.execute(Call(module, environment={"A": "b"}, limits=TIGHT)).status is Status.exit


def test_a_component_gets_no_socket(runtime: WasmtimeRuntime) -> None:
    ended = run(runtime, SOCKET)
    assert (ended.status, ended.code) == (Status.exit, 1)


def test_the_engine_refuses_a_socket_by_itself_too(tmp_path: Path) -> None:
    """Two lines, each of which holds without the other; test_wasm_children.py tries the filter alone."""
    runtime = opened(tmp_path)
    runtime.nursery._filter = None
    ended = run(runtime, SOCKET)
    assert (ended.status, ended.code) == (Status.exit, 1)
    runtime.close()


def test_a_child_at_work_has_no_right_left(runtime: WasmtimeRuntime) -> None:
    seen = _facts_of_a_sleeping_child(runtime)
    assert all(seccomp == "2" for seccomp in seen["Seccomp"])
    assert all(word == "1" for word in seen["NoNewPrivs"])
    assert all(int(caps, 16) == 0 for caps in seen["CapEff"])
    if os.geteuid() == 0:
        assert all(int(uid.split()[0]) >= 61_000 for uid in seen["Uid"])
    assert seen["environ"] == [""]
    assert set(seen["files"]) <= {"memfd", "pipe", "anon_inode"}, "no socket, no file of the machine"


def test_a_child_that_is_not_filtered_is_noticed(tmp_path: Path) -> None:
    """Control for the test above."""
    runtime = opened(tmp_path)
    runtime.nursery._filter = None
    assert "0" in _facts_of_a_sleeping_child(runtime)["Seccomp"]
    runtime.close()


def _facts_of_a_sleeping_child(runtime: WasmtimeRuntime) -> dict[str, list[str]]:
    cancel, module = threading.Event(), bytes(wasmtime.wat2wasm(SLEEP_FOR_EVER))
    runtime.execute(Call(module, limits=within(wall_seconds=0.1)))  # compiled
    caught: list[BaseException] = []

    def work() -> None:
        try:
            runtime.execute(Call(module, limits=within(wall_seconds=30)), cancel)
        except RuntimeFault as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    facts: dict[str, list[str]] = {}
    deadline = time.monotonic() + 10
    while not facts and time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            if _parent(folder) == runtime.nursery.forker_pid and len(list((folder / "task").iterdir())) > 2:
                facts = _read_facts(folder)
        time.sleep(0.02)
    cancel.set()
    thread.join()
    assert [type(error).__name__ for error in caught] == ["Cancelled"]
    return facts


def _parent(folder: Path) -> int | None:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _read_facts(folder: Path) -> dict[str, list[str]]:
    facts: dict[str, list[str]] = {name: [] for name in ("Seccomp", "NoNewPrivs", "CapEff", "Uid")}
    for task in (folder / "task").iterdir():
        for line in (task / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in facts:
                facts[name].append(value.strip())
    facts["environ"] = (folder / "environ").read_text().split("\0")
    targets = [str(path.readlink()) for path in (folder / "fd").iterdir()]
    facts["files"] = [target.strip("/").partition(":")[0] for target in targets]
    return facts
