"""ComputeChain's RPC over several nodes: one of them is asked until it fails, then the next."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Literal, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from millrace.errors import Declined, MillraceError, Permanent, Transient, UnknownOutcome
from millrace.text import printable
from protocols.computechain.block import Block
from protocols.computechain.endpoint import Answer, Endpoint, Unreadable
from protocols.computechain.events import Event, event_in
from protocols.computechain.refusals import TAKEN_ALREADY, Refused, refusal
from protocols.computechain.transaction import Transaction

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_logger = logging.getLogger(__name__)

_MOST_LINES_BESIDE = 10_000
"""Of the event stream, between two events: keep-alives for twenty hours."""


class Status(BaseModel):
    """What a node says of itself; `height` is -1 before the first block."""

    model_config = ConfigDict(frozen=True)

    height: int = Field(ge=-1, lt=1 << 63)
    last_hash: str
    network: str


class Receipt(BaseModel):
    """What a node says of a transaction. A hint only: on the node that took it, it can stay `pending` for ever."""

    model_config = ConfigDict(frozen=True)

    status: Literal["pending", "confirmed", "failed"]
    block_height: int | None = Field(default=None, ge=0, lt=1 << 63)
    error: str | None = None


class _Balance(BaseModel):
    balance: int = Field(ge=0, lt=1 << 256)  # a decimal string of wei


class _Nonce(BaseModel):
    nonce: int = Field(ge=0, lt=1 << 63)


class _Sent(BaseModel):
    status: Literal["received", "rejected"]
    error: str | None = None


class SendUnanswered(UnknownOutcome):
    """No node said that it took the transaction, though one may have."""


class ComputeChainRpc:
    """One network, asked through several nodes; an async context manager.

    Arguments: `urls` in order of preference; `timeout_seconds` for one call to one node. Raises Permanent if there is
    none, or one is not a URL.

    Every method raises Transient if no node can be asked now, and Permanent if a node answers what cannot be.
    """

    def __init__(self, urls: Sequence[str], *, timeout_seconds: float = 10.0) -> None:
        if not urls:
            raise Permanent("no ComputeChain node is set", hint="set MILLRACE_COMPUTECHAIN__RPC_URLS")
        self._endpoints = [Endpoint(url, timeout_seconds) for url in urls]
        self._asked = 0
        """The node that is asked first. They may disagree for a while, so that it is the same one until it fails."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()

    async def status(self) -> Status:
        """Height and hash of the newest block, and the network's name."""
        return await self._read("/status", Status)

    async def block(self, height: int) -> Block | None:
        """The block at `height`, unchecked (see `check_block`); None if the node has none."""
        found = await self._find(f"/block/{height}", Block)
        if found is not None and found.header.height != height:
            raise Unreadable(f"asked for block {height}, a node sends block {found.header.height}")
        return found

    async def balance(self, address: str) -> int:
        """In wei. The node does not look at the address: one that does not exist has nothing."""
        return (await self._read(f"/balance/{quote(address, safe='')}", _Balance)).balance

    async def nonce(self, address: str, *, pending: bool) -> int:
        """The nonce of the address's next transaction; with `pending`, after those in the node's mempool as well."""
        return (await self._read(f"/nonce/{quote(address, safe='')}?pending={str(pending).lower()}", _Nonce)).nonce

    async def receipt(self, transaction_id: str) -> Receipt | None:
        """What the node says of the transaction, as a hint; None if it does not know it."""
        return await self._find(f"/tx/{quote(transaction_id, safe='')}/receipt", Receipt)

    async def send(self, transaction: Transaction) -> None:
        """Hand over a signed transaction; returns when a node has it, now or since before.

        The same bytes may go out any number of times. Raises SendUnanswered if no node said so, though one may have
        it; LookFirst if its nonce has been used; Refused, Declined(too_poor) or Transient(busy) as the node says.
        What a node refuses counts only if none before it, in this call, went unanswered: that one may have taken it.
        """
        body = transaction.model_dump(mode="json")
        unanswered: list[str] = []

        async def hand_over(endpoint: Endpoint) -> MillraceError | None:
            try:
                return _verdict(await endpoint.post("/tx/send", body))
            except Transient as error:
                unanswered.append(error.message)
                raise

        try:
            verdict = await self._first(hand_over)
        except Transient:
            verdict = SendUnanswered(unanswered[0], hint=_ASK_THE_CHAIN)
        if unanswered and isinstance(verdict, Permanent | Declined | Transient):
            verdict = SendUnanswered(f"{unanswered[0]}; then {verdict.message}", hint=_ASK_THE_CHAIN)
        if verdict is not None:
            raise verdict

    async def events(self, *, silence_seconds: float = 60.0) -> AsyncGenerator[Event, None]:
        """What one node says happened to transactions, from now on: a hint to look sooner, never a reason to believe.

        Events can come late or not at all, and what happened before is not repeated. Ends when the node hangs up;
        raises Transient if it does not answer or is silent for `silence_seconds` (it sends a comment every 15 s);
        Unreadable if it sends line after line that is no event.
        """
        endpoint, others = self._endpoints[self._asked], 0
        async with aclosing(endpoint.lines("/events/stream", silence_seconds)) as lines:
            async for line in lines:
                if (event := event_in(line)) is not None:
                    others = 0
                    yield event
                elif (others := others + 1) > _MOST_LINES_BESIDE:
                    raise Unreadable(f"{endpoint.label} sends {others} lines without an event among them")

    async def _read(self, path: str, kind: type[M]) -> M:
        found = await self._find(path, kind)
        if found is None:
            raise Permanent(f"the node knows no {path.partition('?')[0]}", hint="is it a ComputeChain node?")
        return found

    async def _find(self, path: str, kind: type[M]) -> M | None:
        """What a node answers to GET `path`; None if it answers 404."""

        async def ask(endpoint: Endpoint) -> M | None:
            answer = await endpoint.get(path)
            if answer.status == 404:
                return None
            if answer.status != 200:
                shown = printable(str(answer.body), 300)
                raise Unreadable(f"{endpoint.label} answers with the status {answer.status}: {shown}")
            return model_of(answer, kind)

        return await self._first(ask)

    async def _first(self, ask: Callable[[Endpoint], Awaitable[T]]) -> T:
        """The first answer, asking one node after the other. Raises the first one's error if there is none."""
        failures: list[MillraceError] = []
        for step in range(len(self._endpoints)):
            number = (self._asked + step) % len(self._endpoints)
            try:
                found = await ask(self._endpoints[number])
            except Transient as error:
                _logger.info("%s", error)
                failures.append(error)
            else:
                self._asked = number
                return found
        raise failures[0]


_ASK_THE_CHAIN = "ask the chain what became of the transaction"


def _verdict(answer: Answer) -> MillraceError | None:
    """What the answer to a sent transaction says: an error of ours, or None if the node has it.

    Raises Unreadable if it says neither.
    """
    if answer.status != 200:
        shown = printable(str(answer.body), 300)
        return Refused(f"the node cannot read the transaction: {shown}", hint="is it a ComputeChain node?")
    sent = model_of(answer, _Sent)
    if sent.status == "received" or sent.error == TAKEN_ALREADY:
        return None
    return refusal(sent.error or "")


def model_of(answer: Answer, kind: type[M]) -> M:
    """The answer as what was asked for. Raises Unreadable."""
    try:
        return kind.model_validate(answer.body)
    except (ValidationError, RecursionError):
        shown = printable(str(answer.body)[:200], 200)
        raise Unreadable(f"a node answers what cannot be read: {shown}", hint="is it a ComputeChain node?") from None
