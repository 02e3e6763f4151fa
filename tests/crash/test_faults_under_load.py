"""Everything around the workers misbehaves while jobs of all networks are in flight: none is lost, doubled or stuck.

Each fault proves that it was there: whoever commits it counts, and the test asks for the count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from faults_world import NETWORKS, SEND, Bad, FaultWorld, fault_world
from faulty_machine import missing_compiler

from localnet.ipfs.faults import Faults
from millrace.network import Fate
from protocols.ipfs.standing import Standings
from stages.execute.sandbox import missing_tools

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700), pytest.mark.asyncio(loop_scope="module")]

RUDE = [
    *(Bad("status", more={"status": status}) for status in (429, 500, 502, 503)),
    Bad("status", more={"status": 429, "retry_after_seconds": 1}),
    *(Bad(kind) for kind in ("reset", "lost_reply", "cut", "malformed", "other_json", "endless", "gzip_bomb")),
    *(Bad(kind, more={"seconds": 1.5}) for kind in ("hang", "slow", "drip")),
]
"""What any call may meet."""

ON_SENDING = ["reset", "lost_reply", "cut", "malformed", "other_json"]
"""What leaves open whether a node has the transaction."""

BUSY = [
    Faults(status=429, headers={"Retry-After": "1"}),
    Faults(status=503),
    Faults(cut=True),
    Faults(drip_seconds=0.02),
]
FAILING = [
    Faults(status=429, headers={"Retry-After": "1"}),
    Faults(status=500),
    Faults(cut=True),
    Faults(html=True),
    Faults(other_cid=True),
    Faults(hang_seconds=8),
]

NEEDED = ("outbox", "receipts", "results")
"""What no job can do without."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultWorld]:
    lacking = [what for what, _ in missing_tools()] + [what for what in [missing_compiler()] if what]
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}; install it and this runs")
    async with fault_world(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture(autouse=True)
def good_weather_afterwards(world: FaultWorld) -> Iterator[None]:
    """A test that failed leaves nothing wrong for the next one."""
    yield
    world.calm()


async def test_nodes_that_answer_rudely_slowly_wrongly_or_not_at_all_and_a_minute_without_the_server(
    world: FaultWorld,
) -> None:
    """Every node at once, from the first call on; in the midst of it the Prefect server is killed."""
    plans = {name: RUDE + [Bad(kind, SEND[name]) for kind in ON_SENDING] for name in NETWORKS}
    plans["cloudmesh"] += [Bad("unhealthy")]
    before = {name: world.served(name) for name in NETWORKS}
    jobs = [job for name in NETWORKS for job in await world.make(name, [""] * 3)]
    for name in NETWORKS:
        world.chains[name].drop_next()
    world.chains["computechain"].reject_next("mempool_full", 2)
    await world.begin(jobs)
    storm = asyncio.create_task(world.storm(plans))
    await world.until_signed(jobs[:1])
    calls_while_away = await world.server_away(60)
    await storm
    await world.settled_well(jobs)
    for name in NETWORKS:
        met = world.served(name) - before[name]
        print(f"\n{name}: {dict(met)}", end="")
        assert met.keys() >= {"429", "500", "502", "503", "hang", "slow", "drip", "reset", "lost_reply", "dropped"}
        assert met.keys() >= {"cut", "malformed", "other_json", "endless", "gzip_bomb"}
        assert met["lost_reply"] >= 2, "one of them a send"
    assert (world.served("computechain") - before["computechain"])["rejected"] == 2
    print(f"\n{calls_while_away} calls to nodes while there was no server", end="")
    # How many depends on how far the jobs had come: those that wait for a word of Prefect's ask no node.
    assert calls_while_away > len(jobs), "the workers went on without the server"
    world.signed_once_but_for_what_expired(jobs)


async def test_gateways_that_lie_a_pinning_service_that_fails_and_a_clock_that_is_stepped(world: FaultWorld) -> None:
    """The gateway that lies is not asked again; meanwhile the other is not there. The clock goes an hour forward, where
    gateways ask for a moment's rest, and two hours back."""
    ipfs, machine = world.stack.ipfs, world.machine
    before = {name: service.served.copy() for name, service in ipfs.services.items()}
    machine.step_clock(3_600)
    jobs = await world.in_flight(3, ("computechain", "offchainvm"))
    failing = asyncio.gather(
        world.misbehave("legacy_gateway", [*BUSY, Faults(hang_seconds=2)]), world.misbehave("pinata", FAILING)
    )
    await world.stack.ended(await world.stack.run("reconcile/reconcile"))
    await failing
    ipfs.misbehave("legacy_gateway", Faults(status=503))
    jobs += await world.in_flight(3, ("cloudmesh",))  # as many as a worker takes at once
    lying = asyncio.create_task(world.misbehave("gateway", [*BUSY, Faults(wrong_bytes=True)]))
    await world.until(lambda: bool(ipfs.services["gateway"].served - before["gateway"]), "the gateway is busy")
    told_ahead = machine.wrong_times_told
    machine.step_clock(-3_600)
    await lying
    ipfs.misbehave("legacy_gateway")
    await asyncio.sleep(3)
    told_behind = machine.wrong_times_told - told_ahead
    machine.step_clock(0)
    await world.settled_well(jobs)
    met = {name: dict(service.served - before[name]) for name, service in ipfs.services.items()}
    print(f"\n{met}; {told_ahead} times an hour ahead, {told_behind} an hour behind", end="")
    assert met["gateway"].keys() >= {"429", "503", "cut", "drip_seconds", "wrong_bytes"}
    assert met["legacy_gateway"].keys() >= {"429", "503", "cut", "drip_seconds", "hang_seconds"}
    assert met["pinata"].keys() >= {"429", "500", "cut", "html", "other_cid", "hang_seconds"}
    assert "wrong bytes" in Standings(world.stack.folder / "gateways.json").of(ipfs.gateway_url).banned
    assert min(told_ahead, told_behind) > 100
    assert all(len(world.signatures(job)) == 1 for job in jobs), "nothing was believed to have expired"


@pytest.mark.parametrize("hours", [1, -1], ids=["ahead", "behind"])
async def test_a_clock_that_stands_wrong_keeps_no_job_waiting(world: FaultWorld, hours: int) -> None:
    """Found, begun and settled while it stands wrong: what is due goes by the server's clock.

    Ahead, workers began what the server then let wait for an hour; behind, they began nothing.
    """
    before = world.machine.wrong_times_told
    world.machine.step_clock(hours * 3_600)
    jobs = [job for name in NETWORKS for job in await world.make(name, [""])]
    found = [job for job in jobs if job.network != "computechain"]  # whose blocks are the tests' to choose
    await world.begin([job for job in jobs if job not in found])
    await world.until(lambda: all(world.stack.receipts.find(job.key) for job in jobs), "a receipt for each")
    assert world.machine.wrong_times_told - before > 100
    await world.settled_well(jobs)


async def test_signatures_that_expire_and_nonces_that_a_stranger_takes(world: FaultWorld) -> None:
    """A new signature each, and only then: the mark that it happened."""
    solana, compute, near = (world.chains[name] for name in NETWORKS)
    before = {name: world.served(name) for name in NETWORKS}
    jobs = [job for name in NETWORKS for job in await world.make(name, [""] * 2)]
    of = {name: [job for job in jobs if job.network == name] for name in NETWORKS}
    for chain in (solana, near):
        chain.drop_next(10**6)
    compute.freeze()
    await world.begin(jobs)
    await world.until_signed(jobs)
    with compute.lock:
        for nonce in sorted(world.signatures(job)[0].submission.nonce or 0 for job in of["computechain"]):
            compute.take_nonce(world.compute_key, nonce)
        compute.make_block()
        compute.thaw()
    with near.lock:
        near.drop_next(0)
        near.take_nonce(max(world.signatures(job)[0].submission.nonce or 0 for job in of["offchainvm"]))
        near.make_block()
    solana.advance(200)
    solana.drop_next(0)
    await world.settled_well(jobs)
    for job in jobs:
        fates = [entry.fate for entry in world.signatures(job)]
        # A blockhash lives for seconds here: on a slow machine one more may expire by itself.
        assert fates[-1] is Fate.landed, f"{job.key}: {fates}"
        assert set(fates[:-1]) == {Fate.expired}, f"{job.key}: {fates}"
        assert job.network == "cloudmesh" or len(fates) == 2
    assert (world.served("cloudmesh") - before["cloudmesh"])["dropped"] >= 2
    assert (world.served("computechain") - before["computechain"])["nonce_taken"] == 2
    assert (world.served("offchainvm") - before["offchainvm"])["nonce_taken"] == 1


async def test_blocks_that_are_taken_back_after_our_transaction_had_landed(world: FaultWorld) -> None:
    """Noted as landed, and then it was not: the same bytes land again, and only what is final is settled."""
    before = {name: world.served(name) for name in NETWORKS}
    mesh, challenge, request = jobs = [job for name in NETWORKS for job in await world.make(name, [""])]
    world.chains["offchainvm"].make_block(3)  # the request itself is to stay
    await world.begin(jobs)
    await asyncio.gather(
        world.roll_back_cloudmesh(mesh), world.roll_back_computechain(challenge), world.roll_back_offchainvm(request)
    )
    await world.settled_well(jobs)
    for name in NETWORKS:
        assert (world.served(name) - before[name])["rolled_back"] >= 1
    assert all(len(world.signatures(job)) == 1 for job in jobs), "nothing was signed anew"


async def test_a_disk_that_is_full_for_a_while(world: FaultWorld) -> None:
    """Nothing that was signed is forgotten for want of room, and nothing is sent that could not be written down."""
    before, compute = world.machine.refused_writes, world.chains["computechain"]
    compute.freeze()
    jobs = await world.in_flight(1, ("computechain",))
    await world.until_signed(jobs)  # that it lands is noted on the full disk: the outbox needs room
    jobs += await world.in_flight(2, ("cloudmesh", "offchainvm"))
    await world.until(lambda: any(map(world.waits_for_its_receipt, jobs)), "one has landed and has no receipt yet")
    world.machine.fill_disk()
    compute.thaw()
    jobs += await world.in_flight(1)
    try:
        await world.until(
            lambda: all(world.machine.refused_writes[place] > before[place] for place in NEEDED), "no room for each"
        )
        await asyncio.sleep(8)
    finally:
        world.machine.fill_disk(False)
        print(f"\nrefused: {world.machine.refused_writes}", end="")
    await world.settled_well(jobs)


async def test_nothing_is_left_behind(world: FaultWorld) -> None:
    """The last test of the module: no process, lease or file is left of all that went wrong."""
    await world.stack.ended(await world.stack.run("reconcile/reconcile"))
    assert world.orphans() == []
