"""Modules and locks that the fleet shares: found, waited for, given, and never in the way of a job."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import pytest_asyncio
from pydantic import SecretStr

from localnet.coordinator import CoordinatorLocalnet
from millrace.errors import Transient
from millrace.settings import CompileSettings, Settings
from protocols.coordinator.client import Coordinator
from protocols.coordinator.storage import compile_lock_key
from stages.compile.commit import Commit
from stages.compile.fleet import FleetModules, compile_in_fleet
from stages.compile.target import BuildTarget
from stages.fetch.sources import Sources

MODULE = b"\0asm\x01\0\0\0" + b"\x00\x05\x04name"
COMPONENT = b"\0asm\x0d\0\1\0" + b"\x00\x05\x04name"
REPO, SHA, TARGET = "https://github.com/alice/tool", "c" * 40, "wasm32-wasip1"
COMMIT = Commit(repo=REPO, commit=SHA, archive_sha256="a" * 64, target=TARGET, image="sha256:1")
LATER = hashlib.sha256(f"{REPO}:{SHA}:{TARGET}".encode()).hexdigest()
EARLY = hashlib.sha256(f"{REPO}{SHA}{TARGET}".encode()).hexdigest()
LOCK = compile_lock_key(REPO, SHA)


class Clock:
    """Time that passes by sleeping; the coordinator's locks end by it as well."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.slept = 0

    def __call__(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.slept += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def net(clock: Clock) -> Iterator[CoordinatorLocalnet]:
    with CoordinatorLocalnet(clock=clock) as running:
        yield running


@pytest_asyncio.fixture
async def coordinator(net: CoordinatorLocalnet) -> AsyncIterator[Coordinator]:
    async with Coordinator(net.url, SecretStr(""), timeout_seconds=1) as client:
        yield client


def fleet(coordinator: Coordinator, clock: Clock, *, early: bool = False) -> FleetModules:
    return FleetModules(coordinator, "ours", early=early, clock=clock, sleep=clock.sleep)


class Built(Exception):
    """It came to a build of our own."""


async def compiled(commit: Commit, modules: FleetModules | None, folder: Path, net: CoordinatorLocalnet) -> Any:
    """What comes of the stage; Built if it compiles, with the locks that were held then."""

    async def builder() -> NoReturn:
        raise Built(net.board.held_locks())

    sources = Sources(folder / "sources")
    path = sources.path_of(commit.archive_sha256)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    settings = Settings(data_dir=folder, compile=CompileSettings(timeout_seconds=30))
    return await compile_in_fleet(commit, sources=sources, open_builder=builder, settings=settings, fleet=modules)


@pytest.mark.parametrize(("early", "checksum"), [(False, LATER), (True, EARLY)])
async def test_a_module_given_by_one_worker_is_taken_by_the_next(
    coordinator: Coordinator, clock: Clock, net: CoordinatorLocalnet, tmp_path: Path, early: bool, checksum: str
) -> None:
    modules = fleet(coordinator, clock, early=early)
    with pytest.raises(Built):
        await compiled(COMMIT, modules, tmp_path, net)
    assert await modules.put(COMMIT, MODULE)
    assert net.board.modules.content(checksum) == MODULE
    found = await compiled(COMMIT, modules, tmp_path, net)
    assert (found.module, found.wasm_sha256) == (MODULE, hashlib.sha256(MODULE).hexdigest())
    assert (found.origin, found.image, found.seconds) == (coordinator.label, "", 0.0)
    assert net.board.held_locks() == {}


async def test_what_the_coordinator_names_itself_is_looked_for_first_and_given_too(
    coordinator: Coordinator, clock: Clock, net: CoordinatorLocalnet
) -> None:
    """The checksum of a request that names a branch is of the branch, and not of the commit that it was."""
    modules = fleet(coordinator, clock)
    named = COMMIT.model_copy(update={"checksum": "b" * 64})
    assert await modules.put(named, MODULE)
    assert {net.board.modules.content(each) for each in ("b" * 64, LATER)} == {MODULE}


@pytest.mark.parametrize("content", [COMPONENT, MODULE[:8], b"\0asm\x02\0\0\0 of a time to come"])
async def test_what_is_no_module_of_the_targets_kind_is_not_taken(
    coordinator: Coordinator, clock: Clock, net: CoordinatorLocalnet, tmp_path: Path, content: bytes
) -> None:
    net.board.put_wasm(LATER, content.hex())
    with pytest.raises(Built):
        await compiled(COMMIT, fleet(coordinator, clock), tmp_path, net)
    component = COMMIT.model_copy(update={"target": BuildTarget.wasi_p2})
    assert await fleet(coordinator, clock).find(component) is None


async def test_a_commit_to_be_built_anew_is(
    coordinator: Coordinator, clock: Clock, net: CoordinatorLocalnet, tmp_path: Path
) -> None:
    net.board.put_wasm(LATER, MODULE.hex())
    with pytest.raises(Built):
        await compiled(COMMIT.model_copy(update={"anew_for": "job"}), fleet(coordinator, clock), tmp_path, net)


async def test_a_build_holds_the_lock_that_all_workers_share_and_gives_it_back(
    coordinator: Coordinator, clock: Clock, net: CoordinatorLocalnet, tmp_path: Path
) -> None:
    with pytest.raises(Built) as built:
        await compiled(COMMIT, fleet(coordinator, clock), tmp_path, net)
    assert built.value.args[0] == {LOCK: "ours"}
    assert net.board.held_locks() == {}


async def test_who_builds_is_waited_for(
    coordinator: Coordinator, clock: Clock, net: CoordinatorLocalnet, tmp_path: Path
) -> None:
    assert net.board.locks.acquire(LOCK, "other", 600)
    modules = fleet(coordinator, clock)

    async def other_gives(seconds: float) -> None:
        await clock.sleep(seconds)
        if clock.slept == 3:
            net.board.put_wasm(LATER, MODULE.hex())

    modules._sleep = other_gives
    assert (await compiled(COMMIT, modules, tmp_path, net)).module == MODULE
    assert clock.slept == 3
    assert net.board.held_locks() == {LOCK: "other"}


async def test_who_builds_for_ever_is_not_waited_for_longer_than_a_build_may_take(
    coordinator: Coordinator, clock: Clock, net: CoordinatorLocalnet, tmp_path: Path
) -> None:
    assert net.board.locks.acquire(LOCK, "other", 600)
    with pytest.raises(Built):
        await compiled(COMMIT, fleet(coordinator, clock), tmp_path, net)
    assert 27 <= clock.seconds - 1_000 <= 30
    assert net.board.held_locks() == {LOCK: "other"}


async def test_a_lock_that_ended_meanwhile_is_not_released(
    coordinator: Coordinator, clock: Clock, net: CoordinatorLocalnet
) -> None:
    """Nobody checks whose lock it is: another worker's would be gone."""
    async with fleet(coordinator, clock).turn(COMMIT, 30):
        clock.seconds += 30 + 180 + 1
        assert net.board.locks.acquire(LOCK, "other", 600)
    assert net.board.held_locks() == {LOCK: "other"}


@pytest.mark.parametrize("kind", ["status", "reset", "malformed", "other_json"])
async def test_a_coordinator_in_trouble_never_keeps_a_commit_from_being_built(
    coordinator: Coordinator, clock: Clock, net: CoordinatorLocalnet, tmp_path: Path, kind: str
) -> None:
    net.board.put_wasm(LATER, MODULE.hex())
    net.board.fail("*", times=100, kind=kind, status=500)
    modules = fleet(coordinator, clock)
    with pytest.raises(Built):
        await compiled(COMMIT, modules, tmp_path, net)
    await modules.put(COMMIT, MODULE)


async def test_without_a_coordinator_it_is_only_compiled(net: CoordinatorLocalnet, tmp_path: Path) -> None:
    with pytest.raises(Built):
        await compiled(COMMIT, None, tmp_path, net)
    assert not net.board.calls


async def test_files_that_are_gone_are_fetched_anew(
    coordinator: Coordinator, clock: Clock, net: CoordinatorLocalnet, tmp_path: Path
) -> None:
    async def builder() -> NoReturn:
        raise AssertionError

    with pytest.raises(Transient, match="are gone"):
        await compile_in_fleet(
            COMMIT,
            sources=Sources(tmp_path),
            open_builder=builder,
            settings=Settings(),
            fleet=fleet(coordinator, clock),
        )
    assert net.board.held_locks() == {}
