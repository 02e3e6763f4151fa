"""Builds that attack: what becomes of each, and that the machine is as it was before."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attack_build_world as world
import psutil
import pytest
from attack_build_corpus import CORPUS, FOREVER, MAIN, Build, script
from attack_wasm_world import TIGHT, opened

from millrace.limits import MIB
from stages.compile.docker import Builder, BuildLimits, CompileFailure, FailureReason, compile_repository, open_builder
from stages.execute.sandbox.containers.options import OWNER
from stages.execute.wasm.runtime import WasmtimeRuntime
from stages.execute.wasm.stage import execute_wasm

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(why := world.unavailable()), reason=why),
]
NO_GVISOR = world.unavailable("runsc")


@pytest.fixture(scope="module")
def builder() -> Builder:
    return asyncio.run(open_builder(world.settings()))


@pytest.fixture(scope="module")
def gvisor() -> Builder:
    return asyncio.run(open_builder(world.settings("runsc")))


@pytest.fixture(scope="module")
def wasmtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WasmtimeRuntime]:
    runtime = opened(tmp_path_factory.mktemp("wasm"))
    yield runtime
    runtime.close()


@pytest.fixture(autouse=True)
def the_machine_is_as_before(builder: Builder) -> Iterator[None]:
    """No container, no process of a build's, and no file where an archive tried to put one."""
    yield
    with builder.engine.daemon.connect() as api:
        mine = f"millrace-{os.getpid()}-"
        left = [c for c in api.containers(all=True, filters={"label": OWNER}) if c["Labels"][OWNER].startswith(mine)]
    assert left == []
    assert survivors() == []
    assert not Path("/tmp/millrace-slipped").exists()


def survivors() -> list[int]:
    """Processes that only a build of ours can have started: no other sleeps for so long."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[:2] == ["sleep", FOREVER]:
                found.append(process.pid)
    return found


async def becomes(case: Build, builder: Builder, wasmtime: WasmtimeRuntime, slower: float = 1.0) -> None:
    limits = BuildLimits(**{"wall_seconds": 60 * slower, "memory_bytes": 1024 * MIB, **case.limits})
    source = world.source(case.files, *case.others)
    if case.becomes:
        with pytest.raises(CompileFailure) as caught:
            await compile_repository(source, "wasm32-wasip1", limits, builder=builder)
        log = caught.value.log
        assert caught.value.reason in case.becomes, log
    else:
        compiled = await compile_repository(source, "wasm32-wasip1", limits, builder=builder)
        executed = await execute_wasm(compiled.module, b"", TIGHT, runtime=wasmtime)
        assert executed.output == case.output, executed.detail
        log = compiled.log
    assert case.says in log
    assert not case.hides or case.hides not in log


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
async def test_an_abusive_build_gets_nowhere(case: Build, builder: Builder, wasmtime: WasmtimeRuntime) -> None:
    await becomes(case, builder, wasmtime)


@pytest.mark.skipif(bool(NO_GVISOR), reason=NO_GVISOR)
@pytest.mark.parametrize("case", [case for case in CORPUS if case.gvisor], ids=lambda case: case.name)
async def test_an_abusive_build_gets_nowhere_under_gvisor(
    case: Build, gvisor: Builder, wasmtime: WasmtimeRuntime
) -> None:
    await becomes(case, gvisor, wasmtime, slower=4)


async def test_11_a_build_that_asks_for_time_and_chance_is_built_the_same_where_it_does_not(
    builder: Builder, wasmtime: WasmtimeRuntime
) -> None:
    """Nothing can make the bytes of such a repository the same twice: the hash of its content tells them apart."""
    files = {
        **script(
            "let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();\n"
            'println!("cargo:rustc-env=NOW={now}");'
        ),
        "src/main.rs": 'fn main() { print!("{}", env!("NOW")) }',
    }
    moving = [await compile_repository(world.source(files), "wasm32-wasi", builder=builder) for _ in "12"]
    assert moving[0].cache_key == moving[1].cache_key
    assert moving[0].wasm_sha256 != moving[1].wasm_sha256
    steady = [await compile_repository(world.source(MAIN), "wasm32-wasi", builder=builder) for _ in "12"]
    assert steady[0].module == steady[1].module


# A case without the one thing that makes it an abuse: were it not built, the case would prove nothing.
HARMLESS = {
    "01_include_secrets": {
        **MAIN,
        "src/main.rs": 'const S: &str = include_str!("/etc/debian_version"); fn main() { assert!(S != "");'
        ' print!("harmless") }',
    },
    "08_disk_fill": script('fs::File::create("/tmp/fill").unwrap().write_all(&[0; 1 << 20]).unwrap();'),
    "09_fork_bomb": script("for _ in 0..10 { sleeper().unwrap(); }"),
    "10_link_planted_as_the_artifact": {
        "Makefile": "all: main.c\n\tln -s /etc/shadow b.wasm\n\t$(CC) -o a.wasm main.c\n",
        "main.c": '#include <stdio.h>\nint main(void) { fputs("harmless", stdout); return 0; }\n',
    },
    "14_artifact_over_8_mib": {
        **MAIN,
        "src/main.rs": "static X: [u8; 7 << 20] = [7; 7 << 20];\n"
        'fn main() { std::hint::black_box(&X); print!("harmless") }',
    },
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_is_no_abuse_is_built(name: str, builder: Builder, wasmtime: WasmtimeRuntime) -> None:
    await becomes(Build(name, HARMLESS[name]), builder, wasmtime)


@pytest.mark.parametrize("name", ["06_macro_bomb", "09_fork_bomb"])
async def test_without_the_limit_the_same_build_goes_on(name: str, builder: Builder) -> None:
    """Negative control: with ten times as much of what it is denied it gets further, or ends for another reason."""
    (case,) = [case for case in CORPUS if case.name == name]
    if name == "09_fork_bomb":
        with pytest.raises(CompileFailure) as caught:
            await compile_repository(
                world.source(case.files), "wasm32-wasip1", BuildLimits(processes=640), builder=builder
            )
        assert "exit status: 2" in caught.value.log
        return
    with pytest.raises(CompileFailure) as caught:
        await compile_repository(
            world.source(case.files),
            "wasm32-wasip1",
            BuildLimits(wall_seconds=2, memory_bytes=4096 * MIB),
            builder=builder,
        )
    assert caught.value.reason in (FailureReason.timeout, FailureReason.out_of_memory)
