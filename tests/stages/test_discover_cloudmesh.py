"""Discovery on a real node: what is found, in which order, and how few questions it takes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cloudmesh_world import OTHER_CID, World, cloudmesh_world
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from localnet.solana.accounts import StoredAccount
from localnet.solana.client import JobPoster
from millrace.errors import Transient
from protocols.solana.job_account import JobAccount, JobStatus, JobType, encode_job_account, job_address
from protocols.solana.rpc import SolanaRpc
from stages.discover import cloudmesh
from stages.discover.cloudmesh import FINALITY_SECONDS, CloudMeshDiscovery

RENT_LAMPORTS = 3_034_560


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with cloudmesh_world(tmp_path) as world:
        yield world


@pytest.fixture
def other_owner() -> Pubkey:
    return Keypair().pubkey()


class Looking:
    """A discovery over a folder that outlives it, and the questions it asks."""

    def __init__(self, world: World, *owners: Pubkey) -> None:
        self.world = world
        self.rpc = SolanaRpc([world.net.url])
        self.program = Pubkey.from_string(world.net.program_id)
        self.owners = owners
        self.restart()

    def restart(self) -> None:
        self.discovery = CloudMeshDiscovery(
            self.rpc,
            self.program,
            self.world.net.genesis_hash,
            self.world.folder / "discover",
            owners=self.owners,
            clock=self.world.clock,
        )

    async def titles(self) -> list[str]:
        return [job.title for job in await self.discovery.pending()]

    async def calls(self) -> tuple[list[str], int, int]:
        """Titles of the pending jobs, and the listings and batch reads that it took to find them."""
        calls = self.world.chain.calls
        calls.clear()
        titles = await self.titles()
        return titles, calls["getProgramAccounts"], calls["getMultipleAccounts"]


@pytest.fixture
async def looking(world: World) -> AsyncIterator[Looking]:
    looking = Looking(world)
    async with looking.rpc:
        yield looking


def seeded(world: World, title: str, status: JobStatus, *, owner: Pubkey | None = None, start: int = 1) -> JobAccount:
    """A job put on the chain as if it had been there from the beginning."""
    owner = owner or world.owner.keypair.pubkey()
    address, bump = job_address(owner, title, Pubkey.from_string(world.net.program_id))
    completed, pending = status is JobStatus.completed, status is JobStatus.pending
    job = JobAccount(
        address=address,
        owner=owner,
        title=title,
        code_cid="Qm",
        result_cid="Qr" if completed else "",
        start_time=start,
        end_time=0 if pending else start + 1,
        status=status,
        job_type=JobType.api,
        cost_lamports=5 if completed else 0,
        cost_paid=False,
        bump=bump,
    )
    put(world, address, encode_job_account(job))
    return job


def put(world: World, address: Pubkey, content: bytes) -> None:
    world.chain.set_account(str(address), StoredAccount(RENT_LAMPORTS, world.net.program_id, content))


async def test_pending_jobs_are_found_oldest_first_with_all_that_a_worker_needs(world: World, looking: Looking) -> None:
    seeded(world, "young", JobStatus.pending, start=300)
    seeded(world, "old", JobStatus.pending, start=100)
    seeded(world, "done", JobStatus.completed, start=50)
    seeded(world, "withdrawn", JobStatus.cancelled, start=60)
    expected = seeded(world, "middle", JobStatus.pending, start=200)
    jobs = await looking.discovery.pending()
    assert [job.title for job in jobs] == ["old", "middle", "young"]
    job = jobs[1]
    assert job.key == f"cloudmesh/{world.net.genesis_hash}/{expected.address}"
    assert (job.program_id, job.owner) == (world.net.program_id, world.owner.address)
    assert (job.code_cid, job.job_type) == ("Qm", "api")


async def test_a_job_is_seen_as_soon_as_it_is_confirmed_and_gone_as_soon_as_its_end_is(
    world: World, looking: Looking
) -> None:
    """Pins stale reads: at `finalized`, a job appeared and disappeared about twelve seconds late, and ran twice."""
    address = world.post("fresh", finalize=False)
    assert await looking.titles() == ["fresh"]
    world.cancel(address)
    assert await looking.titles() == []


async def test_jobs_that_ended_cost_nothing_after_a_restart(world: World, looking: Looking) -> None:
    for number in range(150):
        seeded(world, f"ended {number}", JobStatus.completed if number % 2 else JobStatus.cancelled)
    seeded(world, "open", JobStatus.pending)
    assert await looking.calls() == (["open"], 1, 2)
    await world.sleep(FINALITY_SECONDS)
    await looking.titles()
    assert await looking.calls() == (["open"], 1, 1)
    looking.restart()
    assert await looking.calls() == (["open"], 1, 1)


async def test_nothing_new_costs_one_listing_and_no_read(world: World, looking: Looking) -> None:
    assert await looking.calls() == ([], 1, 0)


async def test_an_end_that_is_only_confirmed_is_not_remembered_for_good(world: World, looking: Looking) -> None:
    """Pins a job lost for ever because a fork that showed it as ended was dropped."""
    address = world.post("ending")
    world.cancel(address)
    assert await looking.titles() == []
    looking.restart()
    assert await looking.calls() == ([], 1, 1)  # read again: the file does not know it
    await world.sleep(FINALITY_SECONDS / 2)
    looking.restart()
    assert await looking.calls() == ([], 1, 1)
    await world.sleep(FINALITY_SECONDS)
    assert await looking.titles() == []
    looking.restart()
    assert await looking.calls() == ([], 1, 0)


@pytest.mark.parametrize("backlog", [0, 300])
async def test_on_a_slow_chain_an_end_is_not_final_because_time_has_passed(
    world: World, looking: Looking, backlog: int
) -> None:
    for number in range(backlog):
        seeded(world, f"open {number}", JobStatus.pending)
    world.cancel(world.post("ending"))
    assert "ending" not in await looking.titles()
    world.seconds += 2 * FINALITY_SECONDS  # and not one slot
    await looking.titles()
    assert list((world.folder / "discover").iterdir()) == []  # nothing was remembered for good


async def test_an_end_that_is_taken_back_brings_the_job_back(world: World, looking: Looking) -> None:
    job = seeded(world, "forked", JobStatus.cancelled)
    assert await looking.titles() == []
    seeded(world, "forked", JobStatus.pending)
    await world.sleep(FINALITY_SECONDS)
    assert await looking.titles() == ["forked"]
    assert job.title == "forked"


async def test_a_backlog_is_remembered_at_once_and_hides_no_open_job(world: World, looking: Looking) -> None:
    for number in range(450):
        seeded(world, f"ended {number}", JobStatus.completed)
    seeded(world, "open", JobStatus.pending)
    fresh = world.post("fresh", finalize=False)
    assert sorted(await looking.titles()) == ["fresh", "open"]
    looking.restart()
    titles, listings, reads = await looking.calls()
    assert (sorted(titles), listings, reads) == (["fresh", "open"], 1, 1)
    assert fresh


async def test_a_backlog_longer_than_one_look_is_worked_off_in_several(
    world: World, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloudmesh, "MOST_BATCHES", 3)
    for number in range(700):
        seeded(world, f"ended {number}", JobStatus.completed)
    assert await looking.calls() == ([], 1, 3)
    assert await looking.calls() == ([], 1, 3)
    assert await looking.calls() == ([], 1, 1)
    assert await looking.calls() == ([], 1, 0)


async def test_open_jobs_are_read_again_before_a_backlog(
    world: World, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloudmesh, "MOST_BATCHES", 1)
    seeded(world, "open", JobStatus.pending)
    assert await looking.titles() == ["open"]
    for number in range(500):
        seeded(world, f"ended {number}", JobStatus.completed)
    for _ in range(3):
        assert await looking.titles() == ["open"]


async def test_a_malformed_account_is_reported_once_and_hides_no_other(
    world: World, looking: Looking, caplog: pytest.LogCaptureFixture
) -> None:
    """Pins a public worker's fault: what could not be decoded was swallowed without a word."""
    job = seeded(world, "good", JobStatus.pending)
    bad = Keypair().pubkey()
    put(world, bad, encode_job_account(job))  # a right account at a wrong address
    for _ in range(3):
        assert await looking.titles() == ["good"]
        await world.sleep(FINALITY_SECONDS)
    looking.restart()
    assert await looking.calls() == (["good"], 1, 1)
    reports = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(reports) == 1
    assert str(bad) in reports[0]
    assert "derive another address" in reports[0]


async def test_only_the_owners_we_serve_are_asked_for(world: World, looking: Looking, other_owner: Pubkey) -> None:
    seeded(world, "ours", JobStatus.pending)
    seeded(world, "theirs", JobStatus.pending, owner=other_owner)
    stranger = Keypair().pubkey()
    seeded(world, "a stranger's", JobStatus.pending, owner=stranger)
    served = Looking(world, world.owner.keypair.pubkey(), other_owner)
    async with served.rpc:
        titles, listings, reads = await served.calls()
    assert (sorted(titles), listings, reads) == (["ours", "theirs"], 2, 1)
    assert len(await looking.titles()) == 3


async def test_a_failing_listing_is_transient_and_the_next_look_works(world: World, looking: Looking) -> None:
    """Pins a public worker's fault: an RPC failure looked like an empty market."""
    seeded(world, "open", JobStatus.pending)
    for method in ("getProgramAccounts", "getMultipleAccounts"):
        world.chain.fail(method)
        with pytest.raises(Transient):
            await looking.titles()
        assert await looking.titles() == ["open"]


async def test_what_is_known_of_one_program_says_nothing_about_another(world: World, looking: Looking) -> None:
    seeded(world, "done", JobStatus.completed)
    await looking.titles()
    await world.sleep(FINALITY_SECONDS)
    await looking.titles()
    looking.program = Keypair().pubkey()
    looking.restart()
    assert await looking.titles() == []
    assert len(list((world.folder / "discover").iterdir())) == 1


async def test_a_completion_by_another_worker_takes_the_job_off_the_list(world: World, looking: Looking) -> None:
    address = world.post("raced")
    with JobPoster(world.net.url, world.net.program_id) as poster:
        assert await looking.titles() == ["raced"]
        await world.beat_us_to(address)
        assert await looking.titles() == []
        job = poster.job(address)
    assert job is not None
    assert job.result_cid == OTHER_CID
