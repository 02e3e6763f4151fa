"""Dependencies of a Rust repository: fetched without running a line of it, from nowhere but the registry."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import compile_world as world
import pytest
from compile_world import source
from self_signed import self_signed
from wasmtime import Engine, Func, Instance, Module, Store

from localnet.crates import SAMPLES, Crate, CratesLocalnet, Fault
from millrace.errors import Declined, DeclineReason, Permanent, Transient
from millrace.limits import MIB
from stages.compile.builder import Builder
from stages.compile.dependencies.vendor import RegistryRules, Vendored, VendorLimits, vendor
from stages.compile.docker import FailureReason, compile_repository
from stages.compile.toml import RepositoryFault
from stages.fetch.git import FetchedSource

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(why := world.unavailable()), reason=why),
    pytest.mark.asyncio(loop_scope="module"),
]

PACKAGE = """\
[package]
name = "guest"
version = "0.1.0"
edition = "2021"
[lib]
crate-type = ["cdylib"]
[dependencies]
"""
CODE = b"""\
#[no_mangle]
pub extern "C" fn execute() -> u32 { doubler::double(answer_macro::answer!()) + stamped::STAMP.len() as u32 }
"""
LIMITS = VendorLimits(wall_seconds=60, memory_bytes=512 * MIB, scratch_bytes=128 * MIB)


@pytest.fixture(scope="module")
def builder() -> Builder:
    return world.builder()


@pytest.fixture
def gvisor() -> Builder:
    return world.builder("runsc")


@pytest.fixture
def registry() -> Iterator[CratesLocalnet]:
    with CratesLocalnet() as registry:
        registry.publish(*SAMPLES)
        yield registry


def needing(*wanted: str, code: bytes = b"", **more: bytes) -> FetchedSource:
    """A library that depends on these crates."""
    manifest = PACKAGE + "".join(f"{line}\n" for line in wanted)
    return source({"Cargo.toml": manifest.encode(), "src/lib.rs": code, **more})


def package(name: str, *lines: str) -> bytes:
    """A Cargo.toml."""
    return "\n".join(["[package]", f'name = "{name}"', 'version = "0.1.0"', *lines, ""]).encode()


def at(registry: CratesLocalnet, **more: object) -> RegistryRules:
    return RegistryRules(registry_mirror=registry.index, allow_private=True, **more)


def call(module: bytes) -> int:
    """What the module's `execute` returns."""
    store = Store(Engine())
    execute = Instance(store, Module(store.engine, module), []).exports(store)["execute"]
    assert isinstance(execute, Func)
    return int(execute(store))


def unpacked(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: f.read() for m in tar if m.isreg() and (f := tar.extractfile(m)) is not None}


ALL = ('doubler = "0.3"', 'stamped = "2"', 'answer-macro = "0.1"')


async def test_what_was_fetched_is_enough_to_build_without_a_network(
    builder: Builder, registry: CratesLocalnet
) -> None:
    said: list[str] = []
    repository = needing(*ALL, code=CODE)
    found = await vendor(repository, LIMITS, builder=builder, rules=at(registry), on_progress=said.append)
    assert found is not None
    assert found.packages == ("adder 1.2.0", "answer-macro 0.1.0", "doubler 0.3.1", "stamped 2.0.0")
    assert found.lock_made
    assert found.network_bytes > 1000
    assert found.refused == ()
    assert not [line for line in said if "Compiling" in line or "Running" in line]
    assert any("Vendoring stamped v2.0.0" in line for line in said)
    compiled = await compile_repository(repository, "wasm32-unknown-unknown", builder=builder, vendored=found.archive)
    assert compiled.dependencies == found.packages
    assert call(compiled.module) == 2 * 42 + len("stamped")  # the macro and the build script did their part, then


async def test_the_same_crates_come_out_as_the_same_bytes(builder: Builder, registry: CratesLocalnet) -> None:
    both = [await vendor(needing(*ALL), LIMITS, builder=builder, rules=at(registry)) for _ in range(2)]
    assert both[0] is not None
    assert both[1] is not None
    assert both[0].archive == both[1].archive


async def test_a_lock_is_kept_to_although_there_is_something_newer(builder: Builder, registry: CratesLocalnet) -> None:
    first = await vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=at(registry))
    assert first is not None
    registry.publish(Crate("adder", "1.9.0"))
    locked = needing('adder = "1"', **{"Cargo.lock": first.lock})
    second = await vendor(locked, LIMITS, builder=builder, rules=at(registry))
    assert second is not None
    assert (second.packages, second.lock, second.lock_made) == (("adder 1.2.0",), first.lock, False)
    newest = await vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=at(registry))
    assert newest is not None
    assert newest.packages == ("adder 1.9.0",)


async def test_a_lock_that_does_not_fit_is_the_repositorys_fault(builder: Builder, registry: CratesLocalnet) -> None:
    first = await vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=at(registry))
    assert first is not None
    with pytest.raises(RepositoryFault, match=r"Cargo\.lock does not fit"):
        await vendor(
            needing('doubler = "0.3"', **{"Cargo.lock": first.lock}), LIMITS, builder=builder, rules=at(registry)
        )


async def test_nothing_to_fetch_needs_no_container(builder: Builder) -> None:
    """A workspace whose packages depend on each other only, and C without any Cargo.toml."""
    workspace = {
        "Cargo.toml": PACKAGE.encode() + b'inner = { path = "crates/inner" }\n[workspace]\n',
        "crates/inner/Cargo.toml": package("inner"),
        "crates/inner/src/lib.rs": b"",
    }
    for files in (workspace, {"main.c": b"int main() { return 0; }"}):
        assert await vendor(source(files), builder=builder) is None


async def test_nothing_of_the_repositorys_is_run_or_obeyed(builder: Builder, registry: CratesLocalnet) -> None:
    """What a repository has to say about how cargo works, each of which would show if it were heard."""
    wrapper = b"#!/bin/sh\necho millrace-wrapper-ran >&2\nexit 1\n"
    obeyed = b"""\
[build]
rustc = "/tmp/work/wrapper.rs"
rustc-wrapper = "/tmp/work/wrapper.rs"
[http]
proxy = "http://127.0.0.1:9"
[registry]
global-credential-providers = ["/tmp/work/wrapper.rs"]
[source.crates-io]
replace-with = "own"
[source.own]
directory = "own"
[net]
offline = true
"""
    files = {
        "Cargo.toml": PACKAGE.encode() + b'adder = "1"\n',
        "build.rs": b'fn main() { panic!("millrace-build-ran") }',
        "src/lib.rs": b"compile_error!();",
        "wrapper.rs": wrapper,
        ".cargo/config.toml": obeyed,
        ".cargo/config": obeyed,
        "rust-toolchain.toml": b'[toolchain]\nchannel = "nightly-2020-01-01"\n',
        "rust-toolchain": b"nightly-2020-01-01",
    }
    said: list[str] = []
    found = await vendor(source(files), LIMITS, builder=builder, rules=at(registry), on_progress=said.append)
    assert found is not None
    assert found.packages == ("adder 1.2.0",)
    assert "millrace-" not in "\n".join(said)


async def test_a_repository_that_brought_its_own_crates_is_built_with_those_of_its_lock(
    builder: Builder, registry: CratesLocalnet
) -> None:
    """Cargo's own advice after `cargo vendor` is to commit such a configuration; its folder need not be honest."""
    own = b'[source.crates-io]\nreplace-with = "vendored-sources"\n[source.vendored-sources]\ndirectory = "vendor"\n'
    code = b'#[no_mangle]\npub extern "C" fn execute() -> u32 { adder::add(1, 2) }\n'
    brought = {
        ".cargo/config.toml": own,
        "vendor/adder/Cargo.toml": package("adder"),
        "vendor/adder/.cargo-checksum.json": b'{"files":{}}',
        "vendor/adder/src/lib.rs": b"pub fn add(_: u32, _: u32) -> u32 { 666 }",
    }
    repository = needing('adder = "1"', code=code, **brought)
    found = await vendor(repository, LIMITS, builder=builder, rules=at(registry))
    assert found is not None
    compiled = await compile_repository(repository, "wasm32-unknown-unknown", builder=builder, vendored=found.archive)
    assert call(compiled.module) == 3


async def test_members_and_every_kind_of_dependency_are_seen_to(builder: Builder, registry: CratesLocalnet) -> None:
    files = {
        "Cargo.toml": b'[workspace]\nmembers = ["crates/*", "tools"]\n[workspace.dependencies]\nadder = "1"\n',
        "crates/one/Cargo.toml": package("one", "[dependencies]", "adder.workspace = true"),
        "crates/one/src/lib.rs": b"",
        "crates/two/Cargo.toml": package(
            "two",
            *("[[bin]]", 'name = "odd"', 'path = "x/y.rs"'),
            *("[dev-dependencies]", 'stamped = "2"'),
            *("[target.'cfg(windows)'.build-dependencies]", 'answer-macro = "0.1"'),
        ),
        "crates/two/x/y.rs": b"fn main() {}",
        "tools/Cargo.toml": package("tools", "[dependencies]", 'one = { path = "../crates/one" }'),
        "tools/src/bin/tool/main.rs": b"fn main() {}",
        "broken/Cargo.toml": b"[[[",  # a fixture of somebody's tests
    }
    found = await vendor(source(files), LIMITS, builder=builder, rules=at(registry))
    assert found is not None
    assert found.packages == ("adder 1.2.0", "answer-macro 0.1.0", "stamped 2.0.0")


async def test_a_crate_that_is_not_what_the_index_says_is_refused(builder: Builder, registry: CratesLocalnet) -> None:
    with pytest.raises(RepositoryFault, match=r"wrong-checksum.*checksum") as failed:
        await vendor(needing('wrong-checksum = "1"'), LIMITS, builder=builder, rules=at(registry))
    assert "wrong-checksum" in failed.value.log


async def test_a_crate_that_is_not_what_the_lock_says_is_refused(builder: Builder, registry: CratesLocalnet) -> None:
    """The registry serves other code under the same version than what the author locked."""
    first = await vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=at(registry))
    assert first is not None
    registry.publish(Crate("adder", "1.2.0", {"src/lib.rs": b"// other code"}))
    with pytest.raises(RepositoryFault):
        await vendor(needing('adder = "1"', **{"Cargo.lock": first.lock}), LIMITS, builder=builder, rules=at(registry))


async def test_a_crate_that_nobody_published_is_the_repositorys_fault(
    builder: Builder, registry: CratesLocalnet
) -> None:
    with pytest.raises(RepositoryFault, match="no-such-crate") as failed:
        await vendor(needing('no-such-crate = "1"'), LIMITS, builder=builder, rules=at(registry))
    assert failed.value.reason is FailureReason.missing_dependency
    registry.remove("doubler")
    with pytest.raises(RepositoryFault, match="doubler"):
        await vendor(needing('doubler = "0.3"'), LIMITS, builder=builder, rules=at(registry))
    with pytest.raises(RepositoryFault, match="adder"):  # the only version that would do is yanked
        await vendor(needing('adder = "1.3"'), LIMITS, builder=builder, rules=at(registry))


@pytest.mark.parametrize(("method", "kind"), [("config", "status"), ("index", "status"), ("download", "reset")])
async def test_a_registry_that_fails_is_tried_again_later(
    builder: Builder, registry: CratesLocalnet, method: str, kind: str
) -> None:
    registry.faults.add(method, Fault(times=100, kind=kind))
    with pytest.raises(Transient, match="registry"):
        await vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=at(registry))


async def test_a_registry_that_recovers_is_asked_again_by_cargo(builder: Builder, registry: CratesLocalnet) -> None:
    registry.faults.add("index", Fault(times=1))
    registry.faults.add("download", Fault(times=1, kind="cut"))
    assert await vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=at(registry)) is not None


async def test_a_registry_that_sends_another_host_for_its_crates_is_not_followed(
    builder: Builder, registry: CratesLocalnet
) -> None:
    """The index's own configuration says where the crates are: a lying index cannot widen what is reached."""
    with CratesLocalnet() as files:
        files.publish(*SAMPLES)
        registry.downloads_at(files.url)
        with pytest.raises(Declined, match="not a host that crates come from") as declined:
            await vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=at(registry))
        assert declined.value.reason is DeclineReason.not_allowed
        assert files.requests == []
        both = at(registry, hosts=(files.url.removeprefix("http://"),))
        assert await vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=both) is not None


async def test_https_goes_through_a_tunnel_to_a_registry_that_is_believed(builder: Builder, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "certificate.pem", "crates.invalid")

    async def resolve(name: str) -> list[str]:
        assert name == "crates.invalid"
        return ["127.0.0.1"]

    with CratesLocalnet(certificate=certificate) as registry:
        registry.publish(*SAMPLES)
        url = registry.url.replace("127.0.0.1", "crates.invalid")
        registry.downloads_at(url)
        rules = RegistryRules(registry_mirror=f"sparse+{url}/index/", allow_private=True)
        with pytest.raises(Transient, match="registry does not answer"):
            await vendor(needing('doubler = "0.3"'), LIMITS, builder=builder, rules=rules, resolve=resolve)
        assert not registry.requests
        rules = rules.model_copy(update={"ca_file": str(certificate)})
        found = await vendor(needing('doubler = "0.3"'), LIMITS, builder=builder, rules=rules, resolve=resolve)
        assert found is not None
        assert found.packages == ("adder 1.2.0", "doubler 0.3.1")
        rules = rules.model_copy(update={"ca_file": str(tmp_path / "none.pem")})
        with pytest.raises(Permanent, match="authorities"):
            await vendor(needing('doubler = "0.3"'), LIMITS, builder=builder, rules=rules, resolve=resolve)


@pytest.mark.skipif(bool(why := world.unavailable("runsc")), reason=why)
async def test_under_gvisor_too(gvisor: Builder, registry: CratesLocalnet) -> None:
    """Its filter refused `pselect6`, and with it the way to the proxy, whose socket it shows only if it is told to."""
    repository = needing(*ALL, code=CODE)
    found = await vendor(repository, LIMITS, builder=gvisor, rules=at(registry))
    assert found is not None
    assert len(found.packages) == 4
    compiled = await compile_repository(repository, "wasm32-unknown-unknown", builder=gvisor, vendored=found.archive)
    assert compiled.dependencies == found.packages
    unset = replace(gvisor.engine.daemon, runtime_told="/usr/bin/runsc --oci-seccomp")
    with pytest.raises(Declined, match="socket") as declined:
        await vendor(repository, LIMITS, builder=replace(gvisor, engine=replace(gvisor.engine, daemon=unset)))
    assert declined.value.reason is DeclineReason.no_sandbox


async def test_without_a_mirror_a_private_crates_io_is_refused(builder: Builder) -> None:
    async def resolve(host: str) -> list[str]:
        return ["127.0.0.1"]

    with pytest.raises(Declined, match="not a public address"):
        await vendor(needing('adder = "1"'), LIMITS, builder=builder, resolve=resolve)


async def test_limits_hold(builder: Builder, registry: CratesLocalnet) -> None:
    large = Crate("large", files={"src/lib.rs": b"", "zeros": bytes(32 * MIB)})
    noise = Crate("noise", files={"src/lib.rs": b"", "noise": os.urandom(2 * MIB)})
    many = Crate("many", files={f"src/f{number}.rs": b"" for number in range(500)} | {"src/lib.rs": b""})
    registry.publish(large, noise, many)
    for wanted, limits, what in (
        ('large = "1"', {"archive_bytes": 8 * MIB}, "archive|artifact"),
        ('large = "1"', {"scratch_bytes": 16 * MIB}, "scratch"),
        ('large = "1"', {"memory_bytes": 24 * MIB}, "memory"),
        ('noise = "1"', {"network_bytes": MIB}, "bytes in all"),
        ('many = "1"', {"files": 100}, "100 files"),
        ('doubler = "0.3"', {"packages": 1}, "1 crates"),
    ):
        within = LIMITS.model_copy(update=limits)
        with pytest.raises(Declined, match=what) as declined:
            await vendor(needing(wanted), within, builder=builder, rules=at(registry))
        assert declined.value.reason is DeclineReason.too_big


async def test_a_registry_that_never_answers_costs_the_time_that_was_given(
    builder: Builder, registry: CratesLocalnet
) -> None:
    registry.faults.add("index", Fault(times=100, kind="hang", seconds=60))
    with pytest.raises(Transient, match="did not come within 3 s"):
        await vendor(
            needing('adder = "1"'),
            LIMITS.model_copy(update={"wall_seconds": 3.0}),
            builder=builder,
            rules=at(registry),
        )


async def test_cancelled_it_leaves_no_container(builder: Builder, registry: CratesLocalnet) -> None:
    registry.faults.add("index", Fault(times=100, kind="hang", seconds=60))
    task = asyncio.ensure_future(vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=at(registry)))
    await asyncio.to_thread(registry.wait_for, "GET /index/ad/de/adder")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with builder.engine.daemon.connect() as api:
        assert api.containers(all=True, filters={"label": "millrace.owner"}) == []


async def test_the_container_reaches_the_proxy_and_nothing_else(
    builder: Builder, registry: CratesLocalnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at from inside: in the place of cargo, a script that tries what a broken cargo could."""
    probe = r"""
cd /tmp; mkdir work; cd work; cat >/dev/null
touch /run/millrace/x 2>/dev/null && echo written >&2
rm -f /run/millrace/registry.sock 2>/dev/null; [ -S /run/millrace/registry.sock ] || echo removed >&2
chmod 777 /run/millrace 2>/dev/null && echo changed >&2
ls /run/millrace 2>/dev/null | sed 's/^/file /' >&2
sed -n 's/^ *\([a-z0-9]*\):.*/interface \1/p' /proc/net/dev >&2
for to in 1.1.1.1:443 169.254.169.254:80 $REGISTRY; do
    socat -T1 - TCP:$to,connect-timeout=1 </dev/null 2>/dev/null && echo "reached $to" >&2
done
for to in 169.254.169.254:80 $REGISTRY; do
    printf 'CONNECT %s HTTP/1.1\r\n\r\n' "$to" | socat -T2 - UNIX-CONNECT:/run/millrace/registry.sock | head -n 1 >&2
done
exit 1
"""
    place = registry.url.removeprefix("http://")
    monkeypatch.setattr("stages.compile.dependencies.vendor._SCRIPT", f"REGISTRY={place}\n{probe}")
    said: list[str] = []
    with pytest.raises(Declined):
        await vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=at(registry), on_progress=said.append)
    assert [line.removesuffix("\\x0d") for line in said] == [
        "interface lo",
        "refused: 169.254.169.254:80: not a host that crates come from",
        "HTTP/1.1 403 Refused",
        "HTTP/1.1 200 Connection established",
    ]


async def test_what_comes_out_is_looked_through(
    builder: Builder, registry: CratesLocalnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of cargo, somebody who got hold of it: nothing but the crates of the lock is taken."""
    good = await vendor(needing('adder = "1"'), LIMITS, builder=builder, rules=at(registry))
    assert isinstance(good, Vendored)
    locked = needing('adder = "1"', **{"Cargo.lock": good.lock})
    before = unpacked(good.archive)
    for change in (
        {"vendor/evil-1.0.0/Cargo.toml": b""},
        {"../evil": b""},
        {"/evil": b""},
        {"evil": b""},
        {"Cargo.lock": b""},
        {"vendor/adder-1.2.0/.cargo-checksum.json": b'{"files":{},"package":"' + b"0" * 64 + b'"}'},
        {"vendor/adder-1.2.0/.cargo-checksum.json": b"[" * 100_000},
    ):
        changed = io.BytesIO()
        with tarfile.open(fileobj=changed, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for name, content in {**before, **change}.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        outcome = changed.getvalue()

        async def run(*_: object, outcome: bytes = outcome, **__: object) -> object:
            from stages.compile.container import Ended, Ending

            return Ended(Ending.ok, 0, outcome, b"", "", 1.0, None, None)

        with monkeypatch.context() as patch:
            patch.setattr("stages.compile.dependencies.vendor.run_container", run)
            with pytest.raises(RepositoryFault):
                await vendor(locked, LIMITS, builder=builder, rules=at(registry))
