"""Every kill point on every network: each job is settled once, whatever its process was doing when it was killed."""

from __future__ import annotations

import asyncio

import pytest
from crash_world import BUILDER_IMAGE, CrashJob, World
from killed_flows import order, was_killed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700), pytest.mark.asyncio(loop_scope="module")]

AROUND = ("fetch", "execute", "upload", "sign", "confirm", "settle")
EFFECTS = ("publish", "persist", "send", "mark", "receipt", "put away")
NETWORKS = ("cloudmesh", "computechain", "offchainvm")
POINTS = [f"{when} {what}" for what in (*AROUND, *EFFECTS) for when in ("before", "after")]
POINTS += ["during execute", "between uploads"]
NOT_ON = {
    # A challenge is seeded by its block, so there is nothing to fetch, and its bundle is all that is uploaded.
    "computechain": {"before fetch", "after fetch", "between uploads"},
}
COMPILING = ["before fetch", "after fetch", "before compile", "during compile", "after compile"]


async def test_a_process_killed_at_any_point_costs_time_and_nothing_else(world: World) -> None:
    """All of them at once: each job's process is killed at a point of its own, and reconciled."""
    points = {name: [point for point in POINTS if point not in NOT_ON.get(name, set())] for name in NETWORKS}
    jobs = [job for name in NETWORKS for job in await world.make(name, points[name])]
    await all_killed_and_settled(world, jobs, 500)
    for network in NETWORKS:
        print(f"\n{network}: {len(points[network])} kill points, every job settled once", end="")


@pytest.mark.skipif(
    not BUILDER_IMAGE,
    reason="needs a builder, as root: export DOCKER_HOST=$(.ci/docker start)"
    " TEST_BUILDER_IMAGE=$(deployments/images/wasm-builder/from-debian)",
)
async def test_a_process_killed_around_a_compilation_leaves_no_container_and_no_lock(world: World) -> None:
    """From `sign` on, a request whose repository was compiled is like any other."""
    jobs = await world.make("compiled", COMPILING)
    await all_killed_and_settled(world, jobs, 240)
    print(f"\noffchainvm, compiled: {len(jobs)} kill points, every job settled once", end="")


async def all_killed_and_settled(world: World, jobs: list[CrashJob], seconds: float) -> None:
    """Begin the jobs, each killed once at its point, and see each of them settled once."""
    for job in jobs:
        order(world.orders, job.job_id, job.point)
    await world.begin(jobs)
    receipts = await world.until_settled(jobs, seconds)
    untouched = [(job.kind, job.point) for job in jobs if not was_killed(world.orders, job.job_id)]
    assert untouched == [], "these points were never reached: the test proves nothing about them"
    assert world.faults(jobs, receipts) == []


async def test_every_worker_killed_at_once_with_jobs_in_every_stage(world: World) -> None:
    jobs = [job for name in NETWORKS for job in await world.make(name, [""] * 3)]
    await world.begin(jobs)
    await world.until_one_settled(jobs)
    for name, pool in (("worker", "cpu"), ("worker-gpu", "gpu"), ("worker-docker", "docker")):
        world.stack.kill_worker(name)
        world.stack.start_worker(pool)
    receipts = await world.until_settled(jobs, 240)
    assert world.faults(jobs, receipts) == []


async def test_the_server_away_and_nodes_that_lose_what_waits_in_them(world: World) -> None:
    jobs = [job for name in NETWORKS for job in await world.make(name, [""] * 2)]
    await world.begin(jobs)
    await world.until_one_settled(jobs)
    world.stack.kill_server()
    for _ in range(40):
        world.stack.compute.chain.restart()
        world.stack.near.chain.restart()
        await asyncio.sleep(0.5)
    await world.stack.start_server()
    receipts = await world.until_settled(jobs, 240)
    assert world.faults(jobs, receipts) == []


async def test_nothing_is_left_behind(world: World) -> None:
    """The last test of the module: whatever was killed before has left no process, lease or file."""
    await world.stack.ended(await world.stack.run("reconcile/reconcile"))
    assert world.orphans() == []
