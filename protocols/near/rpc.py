"""NEAR's RPC over several nodes: one of them is asked until it fails, then the next."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ValidationError

from millrace.errors import MillraceError, Permanent, Transient, UnknownOutcome
from millrace.text import printable
from protocols.http_json import Unreadable
from protocols.near.answers import (
    AccessKey,
    Account,
    Block,
    NodeStatus,
    OutcomeProof,
    OutcomeWithId,
    Receipt,
    ReceiptOrigin,
    StateChanges,
    TransactionView,
    ViewResult,
    WaitUntil,
)
from protocols.near.endpoint import HINT, Endpoint
from protocols.near.rpc_errors import (
    EndpointRefused,
    NodeError,
    NotTaken,
    SendUnanswered,
    UnknownTransaction,
    send_error,
    shown,
)
from protocols.near.transactions import SignedTransaction

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Finality = Literal["optimistic", "near-final", "final"]

_logger = logging.getLogger(__name__)


class NearRpc:
    """One network, asked through several nodes; an async context manager.

    Arguments: `urls` in order of preference; `timeout_seconds` for one question to one node, `send_timeout_seconds`
    for a transaction, which the node answers only when it is as far as was asked. Raises Permanent if there is no
    node, or one is not a URL.

    Every method raises Transient if no node can answer now, EndpointRefused if none ever will, and what a node says
    of the request itself: see `protocols.near.rpc_errors`.
    """

    def __init__(
        self, urls: Sequence[str], *, timeout_seconds: float = 30.0, send_timeout_seconds: float = 60.0
    ) -> None:
        if not urls:
            raise Permanent("no NEAR RPC node is set", hint="set MILLRACE_NEAR__RPC_URLS")
        self._endpoints = [Endpoint(url, timeout_seconds) for url in urls]
        self._send_timeout_seconds = send_timeout_seconds
        self._asked = 0
        """The node that is asked first. They may disagree for a while, so that it is the same one until it fails."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()

    async def status(self) -> NodeStatus:
        """The chain's name and how far the node is."""
        return await self._read("status", [], NodeStatus)

    async def view_access_key(
        self, account_id: str, public_key: str, *, finality: Finality = "optimistic"
    ) -> AccessKey:
        """The key's state in the newest block. Raises UnknownAccessKey if the account has no such key.

        Its nonce is for the next transaction: in the newest final block, two or three behind, it may still be the one
        that our last transaction has used. Its block hash may belong to a block that never becomes final.
        """
        question = {"request_type": "view_access_key", "account_id": account_id, "public_key": public_key}
        return await self._query(question, AccessKey, finality=finality)

    async def view_account(self, account_id: str) -> Account:
        """The account's balance in the newest final block."""
        return await self._query({"request_type": "view_account", "account_id": account_id}, Account)

    async def block(self, reference: int | str | None = None, *, finality: Finality = "final") -> Block:
        """The block at a height or with a hash; the newest of that finality if there is no reference.

        Raises UnknownBlock (a Transient) if no node has it: at that height there may be none.
        """
        params = {"finality": finality} if reference is None else {"block_id": reference}
        block = await self._read("block", params, Block)
        if reference is not None and reference not in (block.header.height, block.header.hash):
            raise Unreadable(f"asked for block {reference}, a node sends block {block.header.height}", hint=HINT)
        return block

    async def call_function(
        self, contract_id: str, method: str, args: dict[str, Any] | None = None, *, at: int | str | None = None
    ) -> ViewResult:
        """What a view method returns, in the newest final block or in the block `at` a height or hash.

        Raises ContractRefused if the contract fails.
        """
        packed = base64.b64encode(json.dumps(args or {}, separators=(",", ":")).encode()).decode()
        question = {
            "request_type": "call_function",
            "account_id": contract_id,
            "method_name": method,
            "args_base64": packed,
        }
        return await self._query(question, ViewResult, at)

    async def send_tx(
        self, signed: SignedTransaction, wait_until: WaitUntil = WaitUntil.executed_optimistic
    ) -> TransactionView:
        """Hand over a signed transaction; returns when it is as far as `wait_until` says.

        The same bytes may go out any number of times. Raises ExecutionFailed (or another error for its failure) if it
        was carried out and failed; SendUnanswered if it cannot be told what became of it, as after a time-out;
        LookFirst, NotTaken, TransactionRefused or Declined(too_poor) as the node says. What a node refuses counts
        only if none before it, in this call, went unanswered: that one may have taken it.
        """
        params = {"signed_tx_base64": signed.to_base64(), "wait_until": wait_until.value}
        unanswered: list[str] = []

        async def hand_over(endpoint: Endpoint) -> TransactionView | MillraceError:
            try:
                said = await endpoint.say("send_tx", params, self._send_timeout_seconds)
                if not isinstance(said, NodeError):
                    return model_of(said, TransactionView, "send_tx")
            except Transient as error:
                unanswered.append(error.message)
                raise
            verdict = send_error(said, endpoint.label)
            if isinstance(verdict, SendUnanswered):
                unanswered.append(verdict.message)
                raise Transient(verdict.message)
            if isinstance(verdict, NotTaken | EndpointRefused):
                raise verdict
            return verdict

        verdict: TransactionView | MillraceError
        try:
            verdict = await self._first(hand_over)
        except (Transient, EndpointRefused) as error:
            verdict = error
        if unanswered and not isinstance(verdict, TransactionView):
            if isinstance(verdict, UnknownOutcome):
                raise verdict
            also = "" if verdict.message in unanswered else f"; then {verdict.message}"
            verdict = SendUnanswered(f"{unanswered[0]}{also}", hint="look the transaction up before anything else")
        if isinstance(verdict, MillraceError):
            raise verdict
        if verdict.failure is not None:
            raise verdict.failure
        return verdict

    async def tx(
        self, transaction_hash: str, sender_id: str, wait_until: WaitUntil = WaitUntil.none
    ) -> TransactionView | None:
        """The transaction as a node sees it now; None if one was asked and none knows it.

        None is no proof that it will never land: that takes a nonce that another has used, or a block hash that is
        too old. A failure is in the answer (`failure`) and is not raised.
        """
        params = {"tx_hash": transaction_hash, "sender_account_id": sender_id, "wait_until": wait_until.value}
        patience = None if wait_until is WaitUntil.none else self._send_timeout_seconds
        unknown = False

        async def ask(endpoint: Endpoint) -> TransactionView:
            nonlocal unknown
            try:
                return model_of(await endpoint.ask("tx", params, patience), TransactionView, "tx")
            except UnknownTransaction:
                unknown = True
                raise

        try:
            return await self._first(ask)
        except (Transient, EndpointRefused):
            if unknown:
                return None
            raise

    async def data_changes(self, account_id: str, block_hash: str) -> StateChanges:
        """Which receipts changed the account's data in a block."""
        params = {
            "changes_type": "data_changes",
            "account_ids": [account_id],
            "key_prefix_base64": "",
            "block_id": block_hash,
        }
        return await self._read("EXPERIMENTAL_changes", params, StateChanges)

    async def receipt_outcome(self, receipt_id: str, receiver_id: str, head_hash: str) -> OutcomeWithId:
        """What a receipt did, as of a final block `head_hash` that is later than the receipt's own."""
        params = {
            "type": "receipt",
            "receipt_id": receipt_id,
            "receiver_id": receiver_id,
            "light_client_head": head_hash,
        }
        found = (await self._read("EXPERIMENTAL_light_client_proof", params, OutcomeProof)).outcome_proof
        if found.id != receipt_id:
            raise Unreadable(f"asked for receipt {receipt_id}, a node sends {printable(found.id, 60)}", hint=HINT)
        return found

    async def receipt(self, receipt_id: str) -> Receipt:
        """The receipt itself."""
        return await self._read("EXPERIMENTAL_receipt", {"receipt_id": receipt_id}, Receipt)

    async def receipt_origin(self, receipt_id: str) -> ReceiptOrigin | None:
        """The transaction that a receipt comes from; None where no node keeps track of that (few do)."""
        try:
            return await self._read("EXPERIMENTAL_receipt_to_tx", {"receipt_id": receipt_id}, ReceiptOrigin)
        except EndpointRefused:
            return None

    async def _query(
        self, question: dict[str, Any], kind: type[M], at: int | str | None = None, finality: Finality = "final"
    ) -> M:
        where = {"finality": finality} if at is None else {"block_id": at}
        return await self._read("query", {**question, **where}, kind)

    async def _read(self, method: str, params: Any, kind: type[M]) -> M:
        async def ask(endpoint: Endpoint) -> M:
            return model_of(await endpoint.ask(method, params), kind, method)

        return await self._first(ask)

    async def _first(self, ask: Callable[[Endpoint], Awaitable[T]]) -> T:
        """The first answer, asking one node after the other. Raises the first Transient one's error if there is none.

        Where one node can be asked later and another refuses for good, later is right.
        """
        failures: list[Transient | EndpointRefused] = []
        for step in range(len(self._endpoints)):
            number = (self._asked + step) % len(self._endpoints)
            try:
                found = await ask(self._endpoints[number])
            except (Transient, EndpointRefused) as error:
                _logger.info("%s", error)
                failures.append(error)
            else:
                self._asked = number
                return found
        raise next((error for error in failures if isinstance(error, Transient)), failures[0])


def model_of(result: Any, kind: type[M], method: str) -> M:
    """A result as what was asked for. Raises Unreadable."""
    try:
        return kind.model_validate(result)
    except (ValidationError, RecursionError):
        raise Unreadable(f"a node answers {method} with what cannot be read: {shown(result)}", hint=HINT) from None
