"""Blocks as a neardata server has them: whole and final, each with all receipts, logs and transaction hashes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self
from urllib.parse import urljoin, urlsplit, urlunsplit

from pydantic import ValidationError

from millrace.errors import Permanent, Transient
from millrace.limits import MIB
from protocols.http_json import Answer, JsonServer, Redirected, Unreadable, mask_keys_in, origin_of
from protocols.near.answers import BlockHeader, ExecutionOutcome, Part, Receipt
from protocols.near.events import RequestContext, SeenHeight, SeenRequest, requests_of
from protocols.near.request_events import STANDARDS

MOST_BYTES = 128 * MIB
"""Of a block: busy ones of mainnet have several MiB."""

PLACEHOLDER = "{block_id}"
_PATH = "/v0/block/"
_MOST_REDIRECTS = 3


class _OutcomeWithId(Part):
    outcome: ExecutionOutcome


class _ExecutedReceipt(Part):
    execution_outcome: _OutcomeWithId
    receipt: Receipt | None = None
    tx_hash: str | None = None


class _Shard(Part):
    receipt_execution_outcomes: list[_ExecutedReceipt]


class _BlockPart(Part):
    header: BlockHeader


class _NeardataBlock(Part):
    block: _BlockPart
    shards: list[_Shard]


class NeardataSource:
    """A neardata server; an async context manager, and a `BlockSource` for the requests to `contract_id`.

    Arguments: `url` is the server's, or has `{block_id}` where the height goes; a query is kept. `standards` are the
    names of the events' standard. `timeout_seconds` is long because a server holds on to the question for a block
    that is about to be. Raises Permanent if `url` is none.
    """

    def __init__(
        self,
        url: str,
        contract_id: str,
        *,
        standards: Iterable[str] = STANDARDS,
        timeout_seconds: float = 60.0,
    ) -> None:
        origin = origin_of(url.replace(PLACEHOLDER, "0"))
        if origin is None:
            raise Permanent("the neardata server is not an http or https URL", hint="check NEARDATA_API_URL")
        mask_keys_in(url.replace(PLACEHOLDER, "0"))
        self._template = _template(url)
        self._contract_id = contract_id
        self._standards = frozenset(standards)
        self._server = JsonServer(
            origin, timeout_seconds=timeout_seconds, hint="is it a neardata server?", most_bytes=MOST_BYTES
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.close()

    async def at(self, height: int) -> SeenHeight | None:
        """As `BlockSource.at`: 404 means that the chain has not come so far, `null` that there is no block."""
        answer = await self._answer(self._template.replace(PLACEHOLDER, str(height)))
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise Transient(
                f"{self._server.label} answers with the status {answer.status} for block {height}",
                hint="check NEARDATA_API_URL" if answer.status in (401, 403) else "",
            )
        if answer.body is None:
            return SeenHeight(height, skipped=True)
        return self._seen(height, answer.body)

    async def _answer(self, url: str) -> Answer:
        """The answer at `url`, or where it is redirected to among the server's own hosts: old blocks are elsewhere."""
        for _ in range(_MOST_REDIRECTS):
            try:
                return await self._server.ask("GET", url)
            except Redirected as error:
                url = _same_house(url, error.location)
                if not url:
                    raise
        return await self._server.ask("GET", url)

    def _seen(self, height: int, body: Any) -> SeenHeight:
        try:
            block = _NeardataBlock.model_validate(body)
        except (ValidationError, RecursionError):
            raise Unreadable(
                f"{self._server.label} sends something else for block {height}", hint="is it a neardata server?"
            ) from None
        header = block.block.header
        if header.height != height:
            raise Unreadable(f"asked for block {height}, {self._server.label} sends block {header.height}")
        requests: list[SeenRequest] = []
        unreadable: list[str] = []
        for shard in block.shards:
            for executed in shard.receipt_execution_outcomes:
                found, problems = self._requests(executed, header)
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

    def _requests(
        self, executed: _ExecutedReceipt, header: BlockHeader
    ) -> tuple[tuple[SeenRequest, ...], tuple[str, ...]]:
        receipt = executed.receipt
        if receipt is None or receipt.receiver_id != self._contract_id:
            return (), ()
        outcome = executed.execution_outcome.outcome
        context = RequestContext(
            contract_id=self._contract_id,
            block_height=header.height,
            block_timestamp_ns=header.timestamp,
            receipt_id=receipt.receipt_id,
            gas_burnt=outcome.gas_burnt,
            transaction_hash=executed.tx_hash,
            predecessor_id=receipt.predecessor_id,
            signer_public_key=receipt.signer_public_key,
        )
        return requests_of(outcome, context, self._standards)


def _same_house(url: str, location: str) -> str:
    """Where a redirect leads, if that is the same host or one below it, over the same protocol; else nothing."""
    try:
        target = urljoin(url, location)
    except ValueError:
        return ""
    host, scheme = urlsplit(url).hostname or "", urlsplit(url).scheme
    if origin_of(target) is None or urlsplit(target).scheme != scheme:
        return ""
    there = urlsplit(target).hostname or ""
    return target if there == host or there.endswith(f".{host}") else ""


def _template(url: str) -> str:
    if PLACEHOLDER in url:
        return url
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix(_PATH.rstrip("/"))
    return urlunsplit(parts._replace(path=f"{path}{_PATH}{PLACEHOLDER}", fragment=""))
