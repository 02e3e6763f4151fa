"""Claim what a coordinator handed out: having a request is no right to do it, in the later of the two APIs."""

from __future__ import annotations

import asyncio

from millrace.errors import Permanent
from millrace.settings import Settings
from protocols.coordinator.client import Coordinator
from protocols.coordinator.link import NotLetIn
from protocols.near.keys import NearKey, to_base58
from stages.discover.coordinator import Desk, Handed
from stages.discover.coordinator_opening import capabilities_of, worker_id_of
from stages.submit.offchainvm_opening import credentials_of


async def claim_work(job_id: str, *, desk: Desk, coordinator: Coordinator | None, settings: Settings) -> Handed:
    """The work with what of it is ours; `is_ours` tells whether anything is. A task of EARLY needs no claim.

    A claim is noted before it is sent. If its answer was lost and the next one gets nothing, the job may be ours: it
    is then done whole, which the chain lets happen once, and nobody is told, for we do not know its number.

    Raises Permanent if nobody handed it out, or no coordinator is set any more; NotLetIn, Refused and Transient as
    the coordinator answers.
    """
    handed = desk.find(job_id)
    if handed is None:
        raise Permanent(f"no coordinator handed {job_id} out", hint="give <height>-<request id> for one of the chain's")
    if handed.ended or handed.is_ours or handed.execution is None:
        return handed
    if coordinator is None:
        raise Permanent("no coordinator is set any more, so that nothing can be claimed", hint="set API_BASE_URL")
    if not handed.asked:
        desk.change(job_id, asked=True)
    able = await asyncio.to_thread(capabilities_of, settings)
    try:
        try:
            claim = await coordinator.jobs.claim(handed.execution, worker_id_of(settings), able)
        except NotLetIn:
            await register(coordinator, credentials_of(settings.near)[0].key)
            claim = await coordinator.jobs.claim(handed.execution, worker_id_of(settings), able)
    except Permanent:
        # It has understood and refused: nothing was claimed, unless a claim before was.
        desk.change(job_id, asked=handed.asked)
        raise
    if claim is not None:
        return _known(desk.change(job_id, claimed=claim.jobs, pricing=claim.pricing), handed)
    if handed.asked:
        return _known(desk.change(job_id, alone=True), handed)
    return handed


async def register(coordinator: Coordinator, key: NearKey) -> str:
    """Open a session with a coordinator that gives executions only to registered keys; its id.

    Raises NotLetIn if it does not know this key, Refused if the challenge came too late.
    """
    challenge = await coordinator.workers.tee_challenge()
    return await coordinator.workers.register_tee(
        key.public_key, challenge, f"ed25519:{to_base58(key.sign(challenge))}"
    )


def _known(changed: Handed | None, before: Handed) -> Handed:
    return before if changed is None else changed
