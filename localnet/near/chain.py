"""The chain in this process: the node, and what a test, a demo or an operator may do to it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from localnet.faults import EVERY_CALL, Fault
from localnet.near.accounts import NONCES_A_BLOCK, AccessKey, Account
from localnet.near.contract_early import EarlyContract
from localnet.near.contract_head import HeadContract
from localnet.near.contract_state import to_json
from localnet.near.node import Node
from localnet.near.relay import RelayContract
from protocols.near.contract import Dialect
from protocols.near.keys import NearKey, hash_bytes, parse_public_key
from protocols.near.lanes import VALIDITY_BLOCKS
from protocols.near.transactions import FunctionCall, SignedTransaction, Transaction

YOCTO_PER_NEAR = 10**24
CONTRACT = "offchainvm.test.near"
OWNER = "owner.test.near"
OPERATOR = "worker.test.near"
REQUESTER = "requester.test.near"
RELAY = "relay.test.near"

CALLS = (
    "query",
    "block",
    "status",
    "send_tx",
    "broadcast_tx_commit",
    "broadcast_tx_async",
    "tx",
    "EXPERIMENTAL_tx_status",
    "EXPERIMENTAL_changes",
    "EXPERIMENTAL_receipt",
    "EXPERIMENTAL_receipt_to_tx",
    "EXPERIMENTAL_light_client_proof",
    "neardata",
)
"""The RPC's methods and the block server's one, for faults and counters."""


class Chain(Node):
    """A node with all controls; every method may be called from any thread.

    Arguments: as `Node` has them; `dialect` is the contract's. The operator and the requester have a key each, and
    each 100 NEAR. `calls` counts the HTTP server's requests by method.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        chain_id: str = "localnet",
        block_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
        validity_blocks: int = VALIDITY_BLOCKS,
        finality_lag: int = 0,
        operator: NearKey,
        requester: NearKey,
    ) -> None:
        super().__init__(
            chain_id,
            block_seconds=block_seconds,
            clock=clock,
            validity_blocks=validity_blocks,
            finality_lag=finality_lag,
        )
        self.calls: Counter[str] = Counter()
        self.untracked_receipts = False
        self.contract: EarlyContract | HeadContract = (
            EarlyContract(OWNER, OPERATOR) if dialect is Dialect.early else HeadContract(OWNER, OPERATOR)
        )
        self.runtime.contracts = {CONTRACT: self.contract, RELAY: RelayContract()}
        for name in (CONTRACT, OWNER, RELAY):
            self.runtime.accounts[name] = Account()
        self._operator, self._requester = operator, requester
        for name, key in ((OPERATOR, operator), (REQUESTER, requester)):
            self.fund(name, 100 * YOCTO_PER_NEAR)
            self.add_key(name, key.public_key)

    def make_block(self, count: int = 1) -> int:
        """Make blocks at once, frozen or not; returns the newest height."""
        with self._settled():
            for _ in range(count):
                self._make_block(self._now())
            return self.tip.height

    def freeze(self) -> int:
        """Make no blocks but by `make_block`, until `thaw`; returns the height."""
        with self._settled():
            self._schedule.freeze()
            return self.tip.height

    def thaw(self) -> int:
        """Let blocks come by themselves again; returns the height."""
        with self._settled():
            self._schedule.thaw()
            return self.tip.height

    def set_block_seconds(self, seconds: float) -> None:
        """Let that much time lie between blocks from now on."""
        with self._settled():
            self._schedule.set_block_seconds(seconds)

    def skip_heights(self, count: int = 1) -> None:
        """Let the next block leave out so many heights, as consensus does now and then."""
        with self.lock:
            self._to_skip += count

    def fund(self, account_id: str, yocto: int) -> int:
        """Give yoctoNEAR out of nothing, to a new account if need be; returns the balance."""
        with self._settled():
            account = self.runtime.accounts.setdefault(account_id, Account())
            account.balance_yocto += int(yocto)
            return account.balance_yocto

    def balance(self, account_id: str) -> int:
        """In yoctoNEAR."""
        with self._settled():
            return self.runtime.accounts[account_id].balance_yocto

    def add_key(
        self,
        account_id: str,
        public_key: str,
        receiver_id: str = "",
        methods: list[str] | None = None,
        allowance_yocto: int | None = None,
    ) -> None:
        """Give an account another access key, restricted to calls of `receiver_id` if that is set."""
        parse_public_key(public_key)
        with self._settled():
            nonce = self.tip.height * NONCES_A_BLOCK
            key = AccessKey(nonce, receiver_id, tuple(methods or ()), allowance_yocto)
            self.runtime.accounts.setdefault(account_id, Account()).keys[public_key] = key

    def delete_key(self, account_id: str, public_key: str) -> None:
        """Take an access key away."""
        with self._settled():
            del self.runtime.accounts[account_id].keys[public_key]

    def call(
        self, key: NearKey, signer_id: str, receiver_id: str, calls: tuple[FunctionCall, ...]
    ) -> SignedTransaction:
        """Sign calls with the key's next nonce and put them into the pool. Raises ValueError if they are refused."""
        with self._settled():
            used = self.runtime.accounts[signer_id].keys[key.public_key].nonce
            nonce = max(used, self.pool.newest_nonce(signer_id, key.public_bytes))
            signed = Transaction(
                signer_id, key.public_bytes, nonce + 1, receiver_id, hash_bytes(self.tip.hash), calls
            ).signed_by(key)
            problem = self.receive(signed)
            if problem is not None:
                raise ValueError(f"the node refuses the transaction: {problem}")
            return signed

    def request(self, args: dict[str, Any], deposit_yocto: int = YOCTO_PER_NEAR, relayed: bool = False) -> str:
        """Have the requester call `request_execution`, by way of another contract if `relayed`; returns the hash.

        It takes two blocks (three if relayed) until the request is there.
        """
        if not relayed:
            call = FunctionCall("request_execution", to_json(args), deposit_yocto=int(deposit_yocto))
            return self.call(self._requester, REQUESTER, CONTRACT, (call,)).hash
        inner = {"receiver_id": CONTRACT, "method": "request_execution", "args": args}
        return self.call(
            self._requester,
            REQUESTER,
            RELAY,
            (FunctionCall("relay", to_json(inner), deposit_yocto=int(deposit_yocto)),),
        ).hash

    def cancel(self, request_id: int) -> str:
        """Have the requester call `cancel_stale_execution`; returns the hash."""
        call = FunctionCall("cancel_stale_execution", to_json({"request_id": request_id}))
        return self.call(self._requester, REQUESTER, CONTRACT, (call,)).hash

    def pending(self) -> list[int]:
        """Ids of the requests that the contract has."""
        with self._settled():
            return sorted(self.contract.state.pending)

    def result_of(self, transaction_hash: str) -> Any:
        """The transaction's status as the RPC has it; "NotStarted" before it is in a block."""
        with self._settled():
            included = self._included.get(transaction_hash)
            return "NotStarted" if included is None else self.status_of(included)

    def pause(self, paused: bool = True) -> None:
        """Let the contract take no requests."""
        with self._settled():
            self.contract.state.paused = paused

    def add_project(self, project_id: str, source: dict[str, Any]) -> None:
        """Register what `{"Project": ...}` resolves to, in HEAD's contract."""
        with self._settled():
            self.contract.state.projects[project_id] = source

    def refuse_resumes(self, times: int = 1) -> None:
        """Let the chain not find the next yielded promises that are to be resumed."""
        with self.lock:
            self.runtime.resumes_to_refuse = times

    def reject_next(self, error: Any, times: int = 1) -> None:
        """Refuse the next transactions that are sent with this InvalidTxError, such as "Expired"."""
        with self.lock:
            self._rejections += [error] * times

    def drop_next(self, times: int = 1) -> None:
        """Lose the next transactions that are accepted."""
        with self.lock:
            self.pool.to_drop = times

    def take_nonce(self, nonce: int | None = None) -> str:
        """Let somebody else who has the operator's key use this nonce, by default the next one, on top of the next
        block and past this node's pool: of those that wait, none with it or a lower one can land. Returns the hash of
        that transaction, whose call fails."""
        with self._settled():
            key = self._operator
            wanted = self.runtime.accounts[OPERATOR].keys[key.public_key].nonce + 1 if nonce is None else nonce
            call = FunctionCall("nothing_that_there_is", b"{}")
            signed = Transaction(
                OPERATOR, key.public_bytes, wanted, RELAY, hash_bytes(self.tip.hash), (call,)
            ).signed_by(key)
            self._of_strangers.append(signed)
            return signed.hash

    def rollback(self, blocks: int = 1) -> int:
        """Undo the newest blocks, as when others were built in their place; returns the height that is left.

        Their transactions go nowhere. Raises ValueError if one of them is final: then there is no going back.
        """
        with self._settled():
            most = min(sum(height > self._final_height for height in self._blocks), len(self._blocks) - 2)
            if not 0 < blocks <= most:
                raise ValueError(f"cannot take {blocks} blocks back: {most} are not final")
            self._take_back(blocks)
            return self.tip.height

    def restart(self) -> None:
        """Restart the node: what waits for a block is lost."""
        with self._settled():
            self.pool.clear()

    def track_no_receipts(self, untracked: bool = True) -> None:
        """Keep no map from receipts to transactions, as most nodes do."""
        with self.lock:
            self.untracked_receipts = untracked

    def fail(
        self,
        call: str,
        times: int = 1,
        status: int = 503,
        kind: str = "status",
        seconds: float = 30.0,
        retry_after_seconds: int | None = None,
    ) -> None:
        """Let the next requests of a call meet a fault; see `CALLS` and `localnet.faults`. Call `*` is every call.

        Raises ValueError for an unknown call or kind.
        """
        if call not in (*CALLS, EVERY_CALL):
            raise ValueError(f"no call is named {call!r}; known: {', '.join(CALLS)}")
        with self.lock:
            self.faults.add(call, Fault(times, kind, status, seconds, retry_after_seconds))

    def clear_faults(self) -> None:
        """Behave from now on; what is lost already stays so."""
        with self.lock:
            self.faults.clear()
            self._rejections.clear()
            self.pool.to_drop = self.runtime.resumes_to_refuse = 0
