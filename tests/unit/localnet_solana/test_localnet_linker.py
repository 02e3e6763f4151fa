"""Building the job program: compiler, linker, committed shared object."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_abi import Bench
from solders.instruction import Instruction
from solders.pubkey import Pubkey

from localnet.solana.elf import LinkError
from localnet.solana.linker import link
from localnet.solana.program import COMPILER_VERSION, SHARED_OBJECT, SOURCE
from localnet.solana.program.build import FLAGS, build, compiler_version, find_compiler, recorded_digest
from localnet.solana.runtime import Runtime

COMPILER = find_compiler()
needs_clang = pytest.mark.skipif(COMPILER is None, reason="no clang on this machine")
PROGRAM = "Vote111111111111111111111111111111111111112"


def compiled(folder: Path, source: str) -> bytes:
    assert COMPILER is not None
    (folder / "p.c").write_text(source)
    subprocess.run([COMPILER, *FLAGS, "-Wno-error", "-c", "p.c", "-o", "p.o"], cwd=folder, check=True, timeout=60)
    return (folder / "p.o").read_bytes()


def test_the_committed_digest_is_that_of_the_committed_program() -> None:
    assert hashlib.sha256(SHARED_OBJECT.read_bytes()).hexdigest() == recorded_digest()


@needs_clang
def test_the_committed_program_is_what_the_source_builds() -> None:
    assert COMPILER is not None
    if compiler_version(COMPILER) != COMPILER_VERSION:
        pytest.skip(f"another compiler than {COMPILER_VERSION}: the ABI tests run on what it builds instead")
    assert build(COMPILER) == SHARED_OBJECT.read_bytes()


@needs_clang
def test_a_table_of_pointers_and_calls_across_sections_are_linked(tmp_path: Path) -> None:
    source = """
    typedef unsigned char u8; typedef unsigned long u64;
    u64 sol_log_(const u8 *, u64);
    static const char *const WORDS[2] = {"even", "uneven"};
    static __attribute__((noinline)) u64 say(u64 number) {
        return sol_log_((const u8 *)WORDS[number & 1], 4 + (number & 1) * 2);
    }
    __attribute__((section(".text.other"), noinline)) u64 twice(u64 number) { say(number); say(number + 1); return 0; }
    u64 entrypoint(u8 *input) { return twice(*(u64 *)input); }
    """
    runtime = Runtime()
    runtime.load_program(PROGRAM, link(compiled(tmp_path, source)))
    assert _logs_of(runtime) == ["Program log: even", "Program log: uneven"]


@needs_clang
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("unsigned long calls; unsigned long entrypoint(void) { return ++calls; }", "no writable variables"),
        ("unsigned long calls = 7; unsigned long entrypoint(void) { return ++calls; }", "no writable variables"),
        ("unsigned long start(void) { return 0; }", "no function is called 'entrypoint'"),
    ],
)
def test_what_the_runtime_cannot_load_is_refused_by_name(tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(LinkError, match=words):
        link(compiled(tmp_path, source))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a 64-bit"),
        (b"\x7fELF\x01\x01" + bytes(60), "not a 64-bit"),
        (SHARED_OBJECT.read_bytes(), "not an eBPF object file"),
    ],
)
def test_other_files_are_refused(content: bytes, words: str) -> None:
    with pytest.raises(LinkError, match=words):
        link(content)


@needs_clang
@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 20_000), flips=st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 255)), max_size=4))
def test_a_damaged_object_is_linked_or_refused_never_anything_else(
    program_object: bytes, cut: int, flips: list[tuple[int, int]]
) -> None:
    damaged = bytearray(program_object)
    for at, bits in flips:
        damaged[at % len(damaged)] ^= bits
    try:
        link(bytes(damaged[: len(damaged) - cut]))
    except LinkError:
        return


@pytest.fixture(scope="module")
def program_object(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    assert COMPILER is not None
    path = tmp_path_factory.mktemp("object") / "program.o"
    subprocess.run([COMPILER, *FLAGS, "-c", SOURCE.name, "-o", str(path)], cwd=SOURCE.parent, check=True, timeout=60)
    return path.read_bytes()


def _logs_of(runtime: Runtime) -> list[str]:
    bench = Bench()
    bench.runtime = runtime
    execution = bench.run(Instruction(Pubkey.from_string(PROGRAM), b"", []), bench.funded())
    assert execution.error is None, execution.logs
    return [line for line in execution.logs if line.startswith("Program log: ")]
