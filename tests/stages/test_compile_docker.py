"""Compiling with a real engine: what comes out runs, the same bytes twice, and nothing gets in, out, or left behind."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import compile_world as world
import pytest
from compile_world import C_COMMAND, C_EXECUTE, COMMAND, EXECUTE, LIBRARY, manifest, source
from docker import APIClient
from wasm_world import SMALL, opened

from localnet.git import LINK, PROGRAM, GitLocalnet, http_backend
from millrace.errors import Declined, DeclineReason
from millrace.limits import MIB
from millrace.settings import SandboxSettings, Settings
from stages.compile import tried
from stages.compile.container import Ending, run_container
from stages.compile.diagnosis import diagnose_builder
from stages.compile.docker import (
    Builder,
    BuildLimits,
    Compiled,
    CompileFailure,
    EngineFault,
    FailureReason,
    cache_key,
    compile_repository,
    open_builder,
)
from stages.execute.sandbox.containers import options
from stages.execute.sandbox.containers.options import OWNER
from stages.execute.wasm.interface import Abi
from stages.execute.wasm.runtime import WasmtimeRuntime
from stages.execute.wasm.stage import execute_wasm
from stages.fetch.git import GitRules, fetch_repository

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(why := world.unavailable()), reason=why),
]
RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(why := world.unavailable(name)), reason=why))
    for name in ("runc", "runsc")
]
QUICK = BuildLimits(wall_seconds=60)
FAST, WASI = "wasm32-unknown-unknown", "wasm32-wasip1"


@pytest.fixture(scope="module")
def builder() -> Builder:
    return world.builder()


@pytest.fixture(params=RUNTIMES)
def either(request: pytest.FixtureRequest) -> Builder:
    return world.builder(request.param)


@pytest.fixture
def gvisor() -> Builder:
    return world.builder("runsc")


@pytest.fixture(scope="module")
def wasmtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WasmtimeRuntime]:
    runtime = opened(tmp_path_factory.mktemp("wasm"))
    yield runtime
    runtime.close()


@pytest.fixture
def api(builder: Builder) -> Iterator[APIClient]:
    with builder.engine.daemon.connect() as client:
        yield client


@pytest.fixture(autouse=True)
async def nothing_is_left_behind(builder: Builder) -> AsyncIterator[None]:
    yield
    with builder.engine.daemon.connect() as client:
        assert owned(client) == []


def owned(api: APIClient, pid: int | None = None) -> list[dict[str, Any]]:
    mine = f"millrace-{pid or os.getpid()}-"
    return [c for c in api.containers(all=True, filters={"label": OWNER}) if c["Labels"][OWNER].startswith(mine)]


async def built(
    builder: Builder, files: Mapping[str, bytes | str], target: str = WASI, limits: BuildLimits = QUICK, **more: Any
) -> Compiled:
    return await compile_repository(source(files), target, limits, builder=builder, **more)


async def failed(
    builder: Builder, files: Mapping[str, bytes | str], target: str = WASI, limits: BuildLimits = QUICK
) -> CompileFailure:
    with pytest.raises(CompileFailure) as caught:
        await built(builder, files, target, limits)
    return caught.value


@pytest.mark.parametrize(
    ("files", "target", "abi", "output"),
    [
        pytest.param(COMMAND, "wasm32-wasip1", Abi.wasi_p1, b"HELLO", id="rust-wasip1"),
        pytest.param(COMMAND, "wasm32-wasi", Abi.wasi_p1, b"HELLO", id="rust-wasi"),
        pytest.param(EXECUTE, "wasm32-unknown-unknown", Abi.execute, b"\5\0\0\0", id="rust-execute"),
        pytest.param(EXECUTE, "wasm32-wasip1", Abi.execute, b"\5\0\0\0", id="rust-execute-wasip1"),
        pytest.param(C_COMMAND, "wasm32-wasip1", Abi.wasi_p1, b"HELLO", id="c-wasip1"),
        pytest.param(C_EXECUTE, "wasm32-unknown-unknown", Abi.execute, b"\5\0\0\0", id="c-execute"),
        pytest.param(C_EXECUTE, "wasm32-wasi", Abi.execute, b"\5\0\0\0", id="c-execute-wasip1"),
    ],
)
async def test_what_is_built_runs(
    builder: Builder, wasmtime: WasmtimeRuntime, files: dict[str, bytes | str], target: str, abi: Abi, output: bytes
) -> None:
    compiled = await built(builder, files, target)
    executed = await execute_wasm(compiled.module, b"hello", SMALL, runtime=wasmtime, target=compiled.target)
    assert (executed.abi, executed.output) == (abi, output), executed.detail
    assert compiled.wasm_sha256 == executed.module_sha256 == hashlib.sha256(compiled.module).hexdigest()
    assert compiled.size_bytes == len(compiled.module)
    assert compiled.language == ("rust" if "Cargo.toml" in files else "c")
    assert compiled.image == builder.engine.image.id == world.IMAGE
    assert Compiled.model_validate_json(compiled.model_dump_json()) == compiled


async def test_a_component_is_built_where_the_image_can_and_declined_where_it_cannot(
    builder: Builder, wasmtime: WasmtimeRuntime
) -> None:
    if "wasm32-wasip2" in builder.rust_targets:
        compiled = await built(builder, COMMAND, "wasm32-wasip2")
        executed = await execute_wasm(compiled.module, b"hello", SMALL, runtime=wasmtime, target=compiled.target)
        assert (executed.abi, executed.output) == (Abi.wasi_p2, b"HELLO"), executed.detail
    without = replace(builder, rust_targets=builder.rust_targets - {"wasm32-wasip2"})
    for files in (COMMAND, C_COMMAND):
        with pytest.raises(Declined, match=builder.engine.image.short_id) as caught:
            await built(without, files, "wasm32-wasip2")
        assert caught.value.reason is DeclineReason.unsupported
        assert "wasm32-wasip1" in caught.value.hint


@pytest.mark.parametrize(("files", "target"), [(COMMAND, WASI), (EXECUTE, FAST), (C_COMMAND, WASI), (C_EXECUTE, FAST)])
async def test_a_commit_built_twice_gives_the_same_bytes(
    builder: Builder, files: dict[str, bytes | str], target: str
) -> None:
    """Under another user id, with another number of cores, and while the machine does something else."""
    one = BuildLimits(wall_seconds=60, cpus=0.7)
    first, second = await asyncio.gather(built(builder, files, target), built(builder, files, target, one))
    assert first.module == second.module
    assert (first.cache_key, first.wasm_sha256) == (second.cache_key, second.wasm_sha256)


@pytest.mark.skipif(bool(why := world.unavailable("runsc")), reason=why)
async def test_the_runtime_makes_no_difference_to_the_bytes(builder: Builder, gvisor: Builder) -> None:
    patient = BuildLimits(wall_seconds=200)
    for files in (COMMAND, C_COMMAND):
        assert (await built(gvisor, files, limits=patient)).module == (await built(builder, files)).module


async def test_another_commit_has_another_key_and_the_same_code_the_same_content(builder: Builder) -> None:
    first = await built(builder, C_EXECUTE, FAST)
    again = await compile_repository(source(C_EXECUTE, "d" * 40), FAST, QUICK, builder=builder)
    assert first.cache_key != again.cache_key
    assert first.wasm_sha256 == again.wasm_sha256


def test_the_cache_key_is_the_coordinator_s() -> None:
    asked = b"https://github.com/alice/tool:main:wasm32-wasi"
    assert cache_key("https://github.com/alice/tool", "main", "wasm32-wasi") == hashlib.sha256(asked).hexdigest()


LOOKS_AROUND = """
use std::{fmt::Write, fs, net::{TcpStream, ToSocketAddrs, UdpSocket, SocketAddr}, time::Duration, env, path::Path};
fn main() {
    let mut seen = String::new();
    for address in ["1.1.1.1:443", "169.254.169.254:80", "10.0.2.2:22", "172.17.0.1:22", "[2606:4700:4700::1111]:443"] {
        let address: SocketAddr = address.parse().unwrap();
        write!(seen, "tcp {:?}\\n", TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()).unwrap();
    }
    write!(seen, "name {:?}\\n", ("crates.io", 443).to_socket_addrs().is_ok()).unwrap();
    let asked = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", "1.1.1.1:53"));
    write!(seen, "udp {:?}\\n", asked.is_ok()).unwrap();
    let listed = fs::read_to_string("/proc/net/dev").unwrap();
    let others = listed.lines().skip(2).filter(|line| !line.trim().starts_with("lo:")).count();
    write!(seen, "interfaces {}\\n", others).unwrap();
    write!(seen, "secret {}\\n", env::vars().any(|(_, value)| value.contains("correct-horse"))).unwrap();
    for place in ["/etc/x", "/usr/bin/x", "/dev/shm/x", "/var/tmp/x", "/x", "/proc/1/mem"] {
        write!(seen, "write {}\\n", fs::write(place, "x").is_ok()).unwrap();
    }
    for place in ["/etc/shadow", "/root/.bashrc"] {
        write!(seen, "read {}\\n", fs::File::open(place).is_ok()).unwrap();
    }
    write!(seen, "engine {}\\n", Path::new("/var/run/docker.sock").exists()).unwrap();
    fs::write(Path::new(&env::var("OUT_DIR").unwrap()).join("seen"), seen).unwrap();
}
"""
TELLS = 'fn main() { print!("{}", include_str!(concat!(env!("OUT_DIR"), "/seen"))); }'


async def test_a_build_script_reaches_nothing(
    either: Builder, wasmtime: WasmtimeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it saw is in the module that it built, which tells."""
    monkeypatch.setenv("MILLRACE_ATTACK_SECRET", "correct-horse")
    files = {"Cargo.toml": manifest(), "build.rs": LOOKS_AROUND, "src/main.rs": TELLS}
    compiled = await built(either, files, limits=BuildLimits(wall_seconds=200))
    seen = (await execute_wasm(compiled.module, b"", SMALL, runtime=wasmtime)).output.decode()
    assert len(seen.splitlines()) == 18
    assert set(seen.splitlines()) == {
        *("tcp false", "name false", "udp false", "interfaces 0", "secret false"),
        *("write false", "read false", "engine false"),
    }


CALLS = """
use std::{env, fs, net::TcpStream, path::Path};
fn main() {
    let reached = TcpStream::connect(("127.0.0.1", PORT)).is_ok();
    fs::write(Path::new(&env::var("OUT_DIR").unwrap()).join("seen"), reached.to_string()).unwrap();
}
"""


async def test_only_with_the_machine_s_network_a_build_script_reaches_a_service_of_it(
    builder: Builder, wasmtime: WasmtimeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the same script, with what keeps it out taken away."""

    async def seen() -> bytes:
        compiled = await built(builder, {"Cargo.toml": manifest(), "build.rs": script, "src/main.rs": TELLS})
        return (await execute_wasm(compiled.module, b"", SMALL, runtime=wasmtime)).output

    with socket.create_server(("127.0.0.1", 0)) as server:
        script = CALLS.replace("PORT", str(server.getsockname()[1]))
        assert await seen() == b"false"
        asked = APIClient.create_host_config
        monkeypatch.setattr(APIClient, "create_host_config", lambda *a, **k: asked(*a, **{**k, "network_mode": "host"}))
        assert await seen() == b"true"


async def test_the_repository_s_own_configuration_outweighs_nothing_of_ours(
    builder: Builder, wasmtime: WasmtimeRuntime
) -> None:
    """A wrapper, a linker, a target folder or a toolchain of its own would make the build another one each time."""
    config = """
        [build]
        rustc = "/tmp/source/evil.sh"
        rustc-wrapper = "/tmp/source/evil.sh"
        rustc-workspace-wrapper = "/tmp/source/evil.sh"
        target = "x86_64-unknown-linux-gnu"
        target-dir = "/tmp/elsewhere"
        incremental = true
        [target.wasm32-wasip1]
        linker = "/tmp/source/evil.sh"
        [net]
        offline = false
        [term]
        color = "always"
        [env]
        PATH = { value = "/tmp/source/bin", force = true }
    """
    files = {
        **COMMAND,
        ".cargo/config.toml": textwrap.dedent(config),
        "rust-toolchain.toml": '[toolchain]\nchannel = "nightly-2020-01-01"\n',
        "evil.sh": "#!/bin/sh\necho EVIL >&2; exit 1\n",
        "bin/wasm-ld": "#!/bin/sh\necho EVIL >&2; exit 1\n",
    }
    compiled = await built(builder, files)
    assert compiled.module == (await built(builder, COMMAND)).module
    assert "EVIL" not in compiled.log


async def test_what_the_configuration_says_about_the_code_itself_is_kept(builder: Builder) -> None:
    """As the public workers do: such a setting belongs to the program, as its stack's size."""
    files = {**EXECUTE, ".cargo/config.toml": '[build]\nrustflags = ["-C", "link-arg=-zstack-size=65536"]\n'}
    assert (await built(builder, files, FAST)).module != (await built(builder, EXECUTE, FAST)).module


async def test_dependencies_come_from_the_vendored_archive_and_nowhere_else(
    builder: Builder, wasmtime: WasmtimeRuntime
) -> None:
    files = {
        "Cargo.toml": manifest('[dependencies]\ngreeting = "1"\n'),
        "Cargo.lock": textwrap.dedent("""
            version = 3
            [[package]]
            name = "greeting"
            version = "1.0.0"
            source = "registry+https://github.com/rust-lang/crates.io-index"
            checksum = "{sum}"
            [[package]]
            name = "tool"
            version = "0.1.0"
            dependencies = ["greeting"]
        """).format(sum="a" * 64),
        "src/main.rs": 'fn main() { print!("{}", greeting::text()); }',
        # Its own idea of where crates.io is comes after ours.
        ".cargo/config.toml": '[source.crates-io]\nreplace-with = "x"\n[source.x]\ndirectory = "/tmp/source/evil"\n',
    }
    vendored = tar(
        {
            "vendor/greeting/Cargo.toml": manifest(name="greeting").replace("0.1.0", "1.0.0"),
            "vendor/greeting/src/lib.rs": 'pub fn text() -> &\'static str { "from a crate" }',
            "vendor/greeting/.cargo-checksum.json": '{"files": {}, "package": "' + "a" * 64 + '"}',
        }
    )
    compiled = await built(builder, files, vendored=vendored)
    executed = await execute_wasm(compiled.module, b"", SMALL, runtime=wasmtime)
    assert executed.output == b"from a crate"
    assert compiled.dependencies == ("greeting 1.0.0",)
    missing = await failed(builder, files | {".cargo/config.toml": ""})
    assert missing.reason is FailureReason.missing_dependency
    assert "greeting" in missing.message


def tar(files: Mapping[str, str]) -> bytes:
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return kept.getvalue()


@pytest.mark.parametrize(
    ("files", "target", "reason", "says"),
    [
        ({"README.md": ""}, WASI, FailureReason.no_project, "neither a Cargo.toml"),
        ({"Cargo.toml": "[package"}, WASI, FailureReason.no_project, "no TOML"),
        ({"Cargo.toml": "a = " + "[" * 100_000}, WASI, FailureReason.no_project, "no TOML"),
        ({"Cargo.toml": "x = 1"}, WASI, FailureReason.no_project, "neither a package nor a workspace"),
        ({"Cargo.toml": manifest(), "src/lib.rs": ""}, FAST, FailureReason.no_project, "neither a program nor"),
        ({**COMMAND, "src/main.rs": "fn main() { x }"}, WASI, FailureReason.compile_error, "cannot find value `x`"),
        ({"a.c": "int main(void) { return x; }"}, WASI, FailureReason.compile_error, "undeclared identifier"),
        ({"Makefile": "all:\n\ttrue\n"}, WASI, FailureReason.no_artifact, "no module came of it"),
        (
            {"Cargo.toml": manifest(), "src/bin/a.rs": "fn main() {}", "src/bin/b.rs": "fn main() {}"},
            WASI,
            FailureReason.several_artifacts,
            "a.wasm",
        ),
        ({"Makefile": "all:\n\techo no > a.wasm\n"}, WASI, FailureReason.not_wasm, "no module for wasm32-wasip1"),
        ({"Makefile": "all:\n\tkill -9 $$PPID\n"}, WASI, FailureReason.compile_error, ""),
        (
            {"Cargo.toml": manifest('[dependencies]\nserde = "1"\n'), "src/main.rs": "fn main() {}"},
            WASI,
            FailureReason.missing_dependency,
            "serde",
        ),
    ],
)
async def test_the_repository_s_own_fault_has_a_reason_and_a_log(
    builder: Builder, files: dict[str, bytes | str], target: str, reason: FailureReason, says: str
) -> None:
    error = await failed(builder, files, target)
    assert error.reason is reason, error.log
    assert says in error.message
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.reason, copy.log, copy.message) == (error.reason, error.log, error.message)


async def test_a_module_made_as_soon_as_the_build_began_is_found_and_one_that_was_there_is_not(
    builder: Builder,
) -> None:
    """A clock's tick is some milliseconds: what was written within the same one was taken for a part of the sources."""
    make = "all:\n\t$(CC) -o a.wasm execute.c\n\ttouch -r /tmp/links a.wasm\n"
    assert (await built(builder, {**C_EXECUTE, "Makefile": make}, FAST)).size_bytes
    error = await failed(builder, {"Makefile": "all:\n\ttrue\n", "a.wasm": b"\0asm\1\0\0\0"}, FAST)
    assert error.reason is FailureReason.no_artifact


@pytest.mark.skipif(http_backend() is None, reason="git http-backend is not installed")
async def test_a_commit_is_fetched_built_and_run(builder: Builder, wasmtime: WasmtimeRuntime, tmp_path: Path) -> None:
    """By way of Git, with what else a repository may hold: a program, a link, names that are not ASCII."""
    with GitLocalnet(tmp_path / "host") as host:
        others = {
            "run.sh": (PROGRAM, b"#!/bin/sh\n"),
            "docs/read me \N{SNOWMAN}.txt": b"",
            "docs/up": (LINK, b"../run.sh"),
        }
        files = {name: text if isinstance(text, bytes) else text.encode() for name, text in COMMAND.items()}
        repository = host.repository("alice/tool")
        commit, url = repository.commit({**files, **others}), host.url_of(repository)
        rules = GitRules(hosts=("127.0.0.1",), allow_private=True)
        fetched = await fetch_repository(url, commit, rules=rules, into=tmp_path)
        in_memory = await fetch_repository(url, commit, rules=rules)
    compiled, again = [await compile_repository(one, "wasm32-wasi", builder=builder) for one in (fetched, in_memory)]
    assert compiled.module == again.module == (await built(builder, COMMAND)).module
    assert compiled.cache_key == cache_key(url, commit, "wasm32-wasi")
    assert (await execute_wasm(compiled.module, b"hello", SMALL, runtime=wasmtime)).output == b"HELLO"


async def test_links_within_a_repository_are_followed(either: Builder) -> None:
    """No repository with one could be unpacked: tar sets its mode, by a call that the filter refuses."""
    patient = BuildLimits(wall_seconds=200)
    moved = source(
        {"Cargo.toml": manifest(), "lib/real.rs": COMMAND["src/main.rs"]}, links={"src/main.rs": "../lib/real.rs"}
    )
    assert (await compile_repository(moved, WASI, patient, builder=either)).size_bytes
    shared = {"shared/a.c": C_EXECUTE["execute.c"]}
    linked = source(shared, links={"src/execute.c": "../shared/a.c", "shared/up": ".."})
    assert b"execute" in (await compile_repository(linked, FAST, patient, builder=either)).module


async def test_a_workspace_of_one_package_is_built(builder: Builder) -> None:
    members = {f"tool/{name}": text for name, text in EXECUTE.items()}
    assert (await built(builder, {"Cargo.toml": '[workspace]\nmembers = ["tool"]\n', **members}, FAST)).size_bytes
    shared = {"Cargo.toml": '[workspace]\nmembers = ["tool", "shared"]\nresolver = "2"\n'}
    shared |= {"shared/Cargo.toml": manifest(name="shared"), "shared/src/lib.rs": "", **members}
    assert (await built(builder, shared, FAST)).size_bytes, "only one of the two becomes a module"


async def test_the_log_is_told_as_it_comes_and_safe_to_print(builder: Builder) -> None:
    script = 'fn main() { eprintln!("\\x1b[31mred\\x1b[0m \\u{202e}turned\\x1b]0;title\\x07"); std::process::exit(1); }'
    told: list[str] = []
    with pytest.raises(CompileFailure) as caught:
        await built(builder, {**COMMAND, "build.rs": script}, on_progress=told.append)
    assert any("Compiling tool v0.1.0" in line for line in told)
    for text in (caught.value.log, *told):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "  red \\u202eturned\n" in caught.value.log


async def test_a_log_of_nothing_but_line_ends_does_not_keep_the_worker_busy(builder: Builder) -> None:
    """Each line told is a turn of the event loop."""
    told: list[str] = []
    flood = ["sh", "-c", "yes '' | head -c 900000 >&2"]
    ended = await run_container(builder.engine, flood, limits=QUICK, on_log=told.append)
    assert (ended.ending, len(ended.log)) == (Ending.ok, 900_000)
    assert len(told) == 5_000


async def test_limits_are_kept_and_named(builder: Builder) -> None:
    async def reason(make: str, **limits: Any) -> FailureReason:
        files = {"Makefile": f"all:\n\t{make}\n"}
        return (await failed(builder, files, limits=BuildLimits(**{"wall_seconds": 30, **limits}))).reason

    began = time.monotonic()
    assert await reason("sleep 60", wall_seconds=1) is FailureReason.timeout
    assert time.monotonic() - began < 15
    assert await reason("yes") is FailureReason.log_too_long
    eat = "a=x; while :; do a=$$a$$a; done"
    assert await reason(eat, memory_bytes=128 * MIB) is FailureReason.out_of_memory
    fill = "head -c 200000000 /dev/zero > /tmp/fill"
    assert await reason(fill, scratch_bytes=32 * MIB) is FailureReason.disk_full
    large = "printf '\\000asm\\001\\000\\000\\000' > a.wasm; head -c 100000 /dev/zero >> a.wasm"
    assert await reason(large, artifact_bytes=100_000) is FailureReason.artifact_too_large


async def test_nothing_is_taken_beyond_the_artifact_s_limit_whatever_the_container_says(builder: Builder) -> None:
    """The script in the container checks too, but is at the build's mercy."""
    limits = BuildLimits(wall_seconds=30, artifact_bytes=1000)
    flood = await run_container(builder.engine, ["sh", "-c", "yes"], limits=limits)
    assert (flood.ending, flood.too_long, len(flood.artifact)) == (Ending.output_limit, "artifact", 1000)
    exact = await run_container(builder.engine, ["head", "-c", "1000", "/dev/zero"], limits=limits)
    assert (exact.ending, exact.artifact) == (Ending.ok, bytes(1000))


async def test_what_a_build_used_is_told(builder: Builder) -> None:
    if builder.engine.daemon.meters is None:
        pytest.skip("Docker's control groups are not of version 1, or not its own")
    compiled = await built(builder, COMMAND)
    assert compiled.peak_memory_bytes is not None
    assert 20 * MIB < compiled.peak_memory_bytes < QUICK.memory_bytes
    assert compiled.cpu_seconds is not None
    assert 0.05 < compiled.cpu_seconds < 60


async def test_a_cancelled_build_is_stopped_and_removed(builder: Builder, api: APIClient) -> None:
    began = asyncio.Event()
    files = {"Makefile": "all:\n\techo begun; sleep 300\n"}
    task = asyncio.create_task(built(builder, files, limits=BuildLimits(), on_progress=lambda _: began.set()))
    await asyncio.wait_for(began.wait(), 30)
    (running,) = owned(api)
    first = api.inspect_container(running["Id"])["State"]["Pid"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert owned(api) == []
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


KILLED = """
import asyncio
import compile_world as world
from stages.compile.docker import compile_repository, open_builder
async def main():
    builder = await open_builder(world.settings())
    source = world.source({"Makefile": "all:\\n\\techo begun; sleep 300\\n"})
    await compile_repository(source, "wasm32-wasip1", builder=builder, on_progress=lambda line: print(line, flush=True))
asyncio.run(main())
"""


def test_a_killed_worker_s_build_is_swept_by_the_next_and_a_living_one_s_is_not(
    builder: Builder, api: APIClient
) -> None:
    path = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[2])))
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert any("begun" in line for line in worker.stdout)
        (running,) = owned(api, worker.pid)
        assert builder.sweep() == []
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert [c["Id"] for c in owned(api, worker.pid)] == [running["Id"]]
    asyncio.run(open_builder(world.settings()))
    assert owned(api, worker.pid) == []


async def test_without_an_image_or_with_one_that_can_move_nothing_is_opened(builder: Builder) -> None:
    refused = [
        ("", "no builder image is named", "wasm-builder"),
        ("millrace-wasm-builder:debian", "is a tag, which can move", f"MILLRACE_COMPILE__IMAGE={world.IMAGE}"),
        ("sha256:" + "0" * 64, "is not on this machine", "docker pull"),
    ]
    for image, says, do in refused:
        with pytest.raises(Declined, match=says) as caught:
            await open_builder(world.settings(image=image))
        assert caught.value.reason is DeclineReason.no_sandbox
        assert do in caught.value.hint


async def test_an_image_that_builds_nothing_is_refused(api: APIClient) -> None:
    empty = tar({"bin/sh": "no program"})
    made = api.import_image(io.BytesIO(empty), repository="millrace-test-empty")
    image = re.findall(r"sha256:[0-9a-f]{64}", str(made))[-1]
    try:
        with pytest.raises(Declined, match="the builder image cannot be used") as caught:
            await open_builder(world.settings(image=image))
        assert "deployments/images/wasm-builder" in caught.value.hint
        (finding,) = await diagnose_builder(world.settings(image=image))
        assert (finding.level, finding.remedy) == ("missing", caught.value.hint)
    finally:
        api.remove_image("millrace-test-empty")


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_doctor_says_what_is_built_and_what_is_weak(runtime: str) -> None:
    findings = await diagnose_builder(world.settings(runtime))
    told = "\n".join(finding.text for finding in findings)
    assert {finding.level for finding in findings} <= {"ok", "weak"}
    assert world.IMAGE.removeprefix("sha256:")[:12] in told
    assert "Rust for wasm32-unknown-unknown, wasm32-wasip1" in told
    assert "C for wasm32-unknown-unknown, wasm32-wasip1" in told
    assert ("share the machine's kernel" in told) is (runtime == "runc")
    assert all(finding.remedy for finding in findings if finding.level == "weak")


async def test_doctor_asks_for_nothing_where_nothing_is_compiled() -> None:
    assert await diagnose_builder(world.settings(image="")) == []


async def test_containers_that_do_not_keep_their_promises_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "seccomp_profile", lambda daemon: "unconfined")
    with pytest.raises(Declined, match="filtered system calls") as caught:
        await open_builder(world.settings())
    assert caught.value.reason is DeclineReason.no_sandbox


async def test_an_engine_that_went_away_is_not_the_repository_s_fault(builder: Builder) -> None:
    daemon = replace(builder.engine.daemon, address="unix:///nowhere/docker.sock")
    gone = replace(builder, engine=replace(builder.engine, daemon=daemon))
    with pytest.raises(EngineFault, match="no container could be run"):
        await built(gone, C_EXECUTE, FAST)


async def test_an_image_that_was_removed_meanwhile_is_said_to_be(builder: Builder) -> None:
    """It was taken for an engine that does not run, and tried again and again."""
    gone = replace(
        builder, engine=replace(builder.engine, image=replace(builder.engine.image, id="sha256:" + "0" * 64))
    )
    with pytest.raises(Declined, match="image 000000000000 was removed") as caught:
        await built(gone, C_EXECUTE, FAST)
    assert caught.value.reason is DeclineReason.no_sandbox


async def test_a_library_of_its_own_kind_is_named(builder: Builder) -> None:
    """A package with both: the library for what has no `main`, the program for what begins with one."""
    files = {"Cargo.toml": LIBRARY, "src/lib.rs": EXECUTE["src/lib.rs"], "src/main.rs": "fn main() {}"}
    bare, command = await built(builder, files, FAST), await built(builder, files, WASI)
    assert b"execute" in bare.module
    assert b"_start" in command.module


async def test_a_builder_is_tried_out_once_for_the_same_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying it takes as long as a small build does."""
    own = world.settings().model_copy(update={"data_dir": tmp_path})
    first = await tried.tried_builder(own)

    async def not_again(settings: Settings) -> Builder:
        raise AssertionError("it was tried out again")

    monkeypatch.setattr(tried, "open_builder", not_again)
    again = await tried.tried_builder(own)
    assert (again.rust_targets, again.c_targets, again.name) == (first.rust_targets, first.c_targets, first.name)
    with pytest.raises(AssertionError):
        await tried.tried_builder(own.model_copy(update={"sandbox": SandboxSettings(slots=7)}))
