"""Negative controls: workers that do what Millrace must not do, and a model that finds each of them out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, settings
from submission_actor import Flaw, StoppingNetwork
from submission_model import model_settings, run_model
from test_submission_model_cloudmesh import CloudMeshMachine
from test_submission_model_computechain import ComputeChainMachine
from test_submission_model_offchainvm import OffchainVmMachine

from millrace.errors import Declined, DeclineReason
from millrace.job import Job
from millrace.network import Fate, Network, Outcome, Result, SignedSubmission
from protocols.computechain.rpc import ComputeChainRpc
from protocols.near.rpc import NearRpc
from protocols.solana.rpc import SolanaRpc
from stages.submit.outbox import Outbox


async def sends_first(
    job: Job, result: Result, generation: int, *, network: Network[Any], outbox: Outbox
) -> SignedSubmission:
    """Signs, sends, and writes down afterwards what it sent."""
    if (recorded := outbox.recorded(job.key, generation)) is not None:
        return recorded
    signed = await network.prepare(job, result, generation)
    await network.send(signed)
    outbox.record(signed)
    return signed


async def forgets_its_lane(
    job: Job, result: Result, generation: int, *, network: Network[Any], outbox: Outbox
) -> SignedSubmission:
    """Takes the nonce that the node calls free, whatever else was signed with it and is not there yet."""
    async with outbox.lock(job.key):
        if (recorded := outbox.recorded(job.key, generation)) is not None:
            return recorded
        outbox.ensure_next(job.key, generation)
        try:
            signed = await network.prepare(job, result, generation)
        except Declined as error:
            if error.reason is DeclineReason.closed:
                outbox.settle(job.key)
            raise
        outbox.record(signed)
        return signed


class ImpatientNetwork(StoppingNetwork):
    """Takes a transaction that nobody has seen for one that never lands."""

    async def outcome(self, submission: SignedSubmission) -> Outcome:
        outcome: Outcome = await super().outcome(submission)
        return Outcome(fate=Fate.expired, final=True) if outcome.fate is Fate.unknown else outcome


def found_out(examples: int) -> settings:
    """The same examples each time, and no time spent on making the failing one small."""
    return settings(model_settings(examples, 50), derandomize=True, database=None, phases=[Phase.generate])


def test_a_worker_that_sends_before_it_writes_is_found_out() -> None:
    class Flawed(CloudMeshMachine):
        flaw = Flaw(sign=sends_first)

    with pytest.raises(AssertionError, match="is sent and was never recorded"):
        run_model(Flawed, SolanaRpc, ["read", "send"], found_out(20))


def test_a_worker_that_takes_silence_for_expiry_is_found_out() -> None:
    class Flawed(CloudMeshMachine):
        flaw = Flaw(network=ImpatientNetwork)

    with pytest.raises(AssertionError, match=r"it may yet land|a dead one landed|more than one may land"):
        run_model(Flawed, SolanaRpc, ["read", "send"], found_out(20))


def test_a_worker_that_forgets_its_lane_is_found_out() -> None:
    class Flawed(ComputeChainMachine):
        flaw = Flaw(sign=forgets_its_lane)

    with pytest.raises(AssertionError, match="two of one nonce"):
        run_model(Flawed, ComputeChainRpc, ["status", "nonce", "send"], found_out(40))


def test_a_worker_that_forgets_its_lane_on_near_is_found_out() -> None:
    class Flawed(OffchainVmMachine):
        flaw = Flaw(sign=forgets_its_lane)

    with pytest.raises(AssertionError, match="two of one nonce"):
        run_model(Flawed, NearRpc, ["view_access_key", "send_tx"], found_out(40))
