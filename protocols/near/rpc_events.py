"""Blocks from plain RPC nodes: which receipts changed the contract's data, and what each of them logged.

A request changes the contract's data, and a receipt that failed changes nothing; so that the node's index of changes
names every receipt that can announce one, also those of contracts that call ours.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocols.near.answers import BlockHeader
from protocols.near.events import RequestContext, SeenHeight, SeenRequest, requests_of
from protocols.near.keys import to_base58
from protocols.near.request_events import STANDARDS, requests_in
from protocols.near.rpc import NearRpc
from protocols.near.rpc_errors import NodeBusy, UnknownBlock

_MOST_SKIPPED = 50
"""Heights in a row without a block that are looked at to be sure; the chain skips one now and then."""


_NO_BLOCK = to_base58(bytes(32))
"""What the chain's first block names as the one before it."""


class RpcSource:
    """A `BlockSource` for the requests to `contract_id`, on nodes that keep changes and outcomes (any RPC node does).

    Arguments: `standards` are the names of the events' standard. A transaction's hash is known only where a node
    maps receipts to transactions.
    """

    def __init__(self, rpc: NearRpc, contract_id: str, *, standards: Iterable[str] = STANDARDS) -> None:
        self._rpc = rpc
        self._contract_id = contract_id
        self._standards = frozenset(standards)
        self._head: BlockHeader | None = None

    async def at(self, height: int) -> SeenHeight | None:
        """As `BlockSource.at`. A block is read once a later one is final, which the outcomes' proofs need."""
        head = self._head
        if head is None or head.height <= height:
            # While old blocks are read, one look at the head is enough.
            head = self._head = (await self._rpc.block()).header
        if head.height <= height:
            return None
        try:
            header = (await self._rpc.block(height)).header
        except UnknownBlock:
            await self._make_sure_there_is_none(height, head.height)
            return SeenHeight(height, skipped=True)
        changes = await self._rpc.data_changes(self._contract_id, header.hash)
        requests: list[SeenRequest] = []
        unreadable: list[str] = []
        for receipt_id in changes.receipts():
            found, problems = await self._requests(receipt_id, header, head)
            requests += found
            unreadable += problems
        return SeenHeight(
            height,
            block_hash=header.hash,
            prev_hash=header.prev_hash,
            timestamp_ns=header.timestamp,
            requests=tuple(requests),
            unreadable=tuple(unreadable),
        )

    async def _make_sure_there_is_none(self, height: int, head_height: int) -> None:
        """Return if the chain has no block at `height`; a node says the same of one that it has lost.

        Raises NodeBusy if the chain has one.
        """
        for later in range(height + 1, min(head_height, height + _MOST_SKIPPED) + 1):
            try:
                header = (await self._rpc.block(later)).header
            except UnknownBlock:
                continue
            is_first = header.prev_hash == _NO_BLOCK
            if is_first or (header.prev_height is not None and header.prev_height < height):
                return
            break
        raise NodeBusy(
            f"no node has block {height}, and the chain may have one",
            hint="it may be too old: put an archival node into MILLRACE_NEAR__RPC_URLS",
        )

    async def _requests(
        self, receipt_id: str, header: BlockHeader, head: BlockHeader
    ) -> tuple[tuple[SeenRequest, ...], tuple[str, ...]]:
        found = await self._rpc.receipt_outcome(receipt_id, self._contract_id, head.hash)
        if found.block_hash != header.hash:
            raise NodeBusy(f"the nodes disagree about the block of receipt {receipt_id}")
        if not requests_in(found.outcome.logs, self._standards).requests:
            # Most receipts announce nothing; what is known of this one is enough to say so.
            bare = RequestContext(self._contract_id, header.height, header.timestamp, receipt_id, 0)
            return requests_of(found.outcome, bare, self._standards)
        receipt = await self._rpc.receipt(receipt_id)
        origin = await self._rpc.receipt_origin(receipt_id)
        context = RequestContext(
            contract_id=self._contract_id,
            block_height=header.height,
            block_timestamp_ns=header.timestamp,
            receipt_id=receipt_id,
            gas_burnt=found.outcome.gas_burnt,
            transaction_hash=None if origin is None else origin.transaction_hash,
            predecessor_id=receipt.predecessor_id,
            signer_public_key=receipt.signer_public_key,
        )
        return requests_of(found.outcome, context, self._standards)
