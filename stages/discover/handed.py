"""What a coordinator handed out, as a job: the contract's word on the request wins, and the coordinator adds the rest.

The coordinator of EARLY says neither who asks nor what is paid, and forgets the target; whatever it says, it is the
contract that is answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from millrace.errors import Declined, DeclineReason, Permanent, Transient
from protocols.coordinator.executions import ChainContext
from protocols.near.contract import ExecutionRequest, ProjectSource
from protocols.near.contract_views import Contract, StoredRequest
from protocols.near.events import RequestContext
from protocols.near.job import OffchainVmJob
from stages.discover.coordinator import Desk, Handed

_LAGGING_SECONDS = 20.0
"""A node may not have seen a request yet that a coordinator hands out; after this it is taken for settled."""


class HandedDiscovery:
    """The jobs that lie on `desks`; `head` tells the newest final height, `clock` Unix time."""

    def __init__(
        self,
        desks: list[Desk],
        contract: Contract,
        head: Callable[[], Awaitable[int]],
        *,
        chain: str,
        clock: Callable[[], float],
    ) -> None:
        self._desks = desks
        self._contract = contract
        self._head = head
        self._chain = chain
        self._clock = clock

    async def find(self, job_id: str) -> OffchainVmJob:
        """The job, the same one for ever once it was looked up.

        Raises Permanent if no coordinator handed it out to this machine, Declined (closed) if the contract has the
        request no more, (unsupported) if it is none of the contract's; Transient if the node may not have it yet.
        """
        desk, handed = self._lying(job_id)
        if handed.job is not None:
            return handed.job
        work = handed.execution
        if work is not None and work.is_https_call:
            raise Declined(
                "the request came over HTTPS: no contract waits for its answer",
                reason=DeclineReason.unsupported,
                hint="nothing to do: this worker answers contracts",
            )
        # The height first: seen later, the request could look younger than it is.
        head = await self._head()
        stored = await self._contract.get_request(handed.request_id)
        context = work.context if work is not None else ChainContext()
        if stored is None:
            if head < (context.block_height or 0) or self._clock() - handed.taken_at < _LAGGING_SECONDS:
                raise Transient(f"the contract does not show request {handed.request_id} yet")
            raise Declined(
                "the contract has the request no more", reason=DeclineReason.closed, hint="it was settled or cancelled"
            )
        job = OffchainVmJob(
            chain_id=f"{self._chain}:{self._contract.contract_id}",
            job_id=job_id,
            dialect=self._contract.dialect,
            request=_request(handed, stored),
            context=RequestContext(
                self._contract.contract_id,
                context.block_height,
                context.block_timestamp or stored.timestamp_ns,
                context.receipt_id,
                context.gas_burnt,
                context.transaction_hash,
                context.predecessor_id,
                context.signer_public_key,
            ),
            seen_at=head,
        )
        changed = desk.change(job_id, job=job)
        return job if changed is None or changed.job is None else changed.job

    def keep(self, job: OffchainVmJob) -> None:
        """Have the job as it is now on disk when this returns."""
        desk, _ = self._lying(job.job_id)
        desk.change(job.job_id, job=job)

    def height_of(self, job_id: str) -> int | None:
        """Where the request was made, or seen for the first time; None if nothing of it is left here."""
        for desk in self._desks:
            if (handed := desk.find(job_id)) is not None and handed.job is not None:
                return handed.job.height
        return None

    def _lying(self, job_id: str) -> tuple[Desk, Handed]:
        for desk in self._desks:
            if (handed := desk.find(job_id)) is not None:
                return desk, handed
        raise Permanent(
            f"no coordinator handed {job_id} out to this machine",
            hint="only what lies in this machine's data folder can be done",
        )


def _request(handed: Handed, stored: StoredRequest) -> ExecutionRequest:
    """The request with all that the contract keeps of it, and what only its event said as the coordinator tells it."""
    work, task = handed.execution, handed.task
    told: dict[str, Any] = {}
    if work is not None:
        names = ("response_format", "compile_only", "force_rebuild", "store_on_fastfs", "project_uuid", "project_id")
        told = {name: getattr(work, name) for name in (*names, "attached_usd", "secrets_ref")}
        told["predecessor_id"] = work.context.predecessor_id
    source = stored.resolved_source or stored.code_source
    if source is None or isinstance(source, ProjectSource):
        source = work.code_source if work is not None else getattr(task, "code_source", source)
    if source is None:
        raise Permanent(f"neither the contract nor the coordinator names the source of {handed.job_id}")
    handed_input = work.input_data if work is not None else (task.input_data if task is not None else None)
    return ExecutionRequest(
        request_id=handed.request_id,
        data_id=handed_id_data(handed.job_id),
        # EARLY's events have who called, HEAD's who signed: the coordinator knows, the contract keeps the former.
        sender_id=(work.context.sender_id or work.user_account_id if work is not None else None) or stored.sender_id,
        code_source=source,
        resource_limits=stored.resource_limits,
        input_data=stored.input_data if stored.input_data is not None else handed_input,
        payment_yocto=stored.payment_yocto,
        timestamp_ns=stored.timestamp_ns,
        **told,
    )


def handed_id_data(job_id: str) -> str:
    """The data id of a handed job's id."""
    return job_id.partition("-")[2]
