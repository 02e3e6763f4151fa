"""The chain: slots, blockhashes, commitment and fees around the virtual machine, and what tests may do to it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from operator import itemgetter

from solders.compute_budget import set_compute_unit_price
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from localnet.faults import HTTP_FAULTS, Fault, Faults
from localnet.solana.accounts import AccountHistory, StoredAccount
from localnet.solana.compute_budget import unit_price
from localnet.solana.runtime import SYSTEM_PROGRAM, Runtime
from localnet.solana.slots import COMMITMENT_LAG, FIRST_SLOT, SlotClock
from localnet.solana.transactions import Execution, LandedTransaction, TransactionLog

GENESIS_HASH = str(Hash.hash(b"millrace localnet: genesis"))
BLOCKHASH_LIFE_BLOCKS = 150
SKIPPED_SLOTS = 137
"""Slots without a block, all before the first one we show: block height and slot are never the same number."""

UNHEALTHY = "unhealthy"
"""The fault that only this network has: the JSON-RPC error -32005."""

_REMEMBERED_BLOCKHASHES = 4_096
_FAUCET_LAMPORTS = 10**18
_EMPTY = StoredAccount(0, SYSTEM_PROGRAM, b"")


class Chain:
    """One chain in this process; every method may be called from any thread.

    Arguments: `clock` gives Unix time in seconds; `slot_milliseconds` is the length of a slot.
    """

    def __init__(self, clock: Callable[[], float] = time.time, slot_milliseconds: int = 400) -> None:
        self.lock = threading.RLock()  # the virtual machine is one mutable thing
        self.slots = SlotClock(clock, slot_milliseconds)
        self.runtime = Runtime()
        self.accounts = AccountHistory()
        self.log = TransactionLog()
        self.faults = Faults([*HTTP_FAULTS, UNHEALTHY])
        self.calls: Counter[str] = Counter()
        self.reported_priority_fee = 0
        self._blockhash_slots: dict[str, int] = {}
        self._to_drop = 0
        self._to_hold = self._hold_slots = 0
        self._held: list[tuple[int, VersionedTransaction]] = []
        self._faucet = Keypair()
        self._airdrops = count(1)
        self.set_account(str(self._faucet.pubkey()), StoredAccount(_FAUCET_LAMPORTS, SYSTEM_PROGRAM, b""))

    # ---- reading ----

    def slot(self, commitment: str = "processed") -> int:
        """The newest slot of that commitment level."""
        with self.lock:
            return max(0, self.slots.slot - COMMITMENT_LAG[commitment])

    def block_height(self, slot: int) -> int:
        """How many blocks there are up to that slot."""
        return slot - SKIPPED_SLOTS

    def account(self, address: str, commitment: str = "processed") -> StoredAccount | None:
        """The account as that commitment level sees it; None if it does not exist there."""
        with self.lock:
            self.settle()
            return self.account_at(address, self.slot(commitment))

    def account_at(self, address: str, slot: int) -> StoredAccount | None:
        """The account as that slot, one of the last 32, saw it."""
        if address in self.accounts:
            return self.accounts.at(address, slot)
        return self.runtime.account(address)  # native programs and sysvars, which nobody here has changed

    def blockhash(self, slot: int) -> str:
        """The hash of that slot's block."""
        blockhash = str(Hash(hashlib.sha256(f"{GENESIS_HASH}/{slot}".encode()).digest()))
        self._blockhash_slots[blockhash] = slot
        if len(self._blockhash_slots) > _REMEMBERED_BLOCKHASHES:
            del self._blockhash_slots[next(iter(self._blockhash_slots))]
        return blockhash

    def blockhash_is_valid(self, blockhash: str, slot: int) -> bool:
        """Whether a transaction with that blockhash could be in the block of `slot`."""
        born = self._blockhash_slots.get(blockhash)
        return born is not None and born <= slot <= born + BLOCKHASH_LIFE_BLOCKS

    def landed(self, address: str) -> list[str]:
        """Signatures of the successful transactions that named the address, oldest first."""
        with self.lock:
            self.settle()
            return [landed.signature for landed in self.log.touching(address) if landed.execution.error is None]

    # ---- transactions ----

    def simulate(
        self, transaction: VersionedTransaction, slot: int, *, check_blockhash: bool = True
    ) -> tuple[Execution, dict[str, StoredAccount | None]]:
        """Run a transaction on the state of `slot` and keep nothing: execution, and accounts afterwards."""
        if check_blockhash and not self.blockhash_is_valid(str(transaction.message.recent_blockhash), slot):
            return Execution("BlockhashNotFound", [], 0, 0), {}
        known = self.log.get(str(transaction.signatures[0]))
        if known is not None and known.slot <= slot:
            return Execution("AlreadyProcessed", [], 0, 0), {}
        instead = {}
        for address in map(str, transaction.message.account_keys):
            seen = self.account_at(address, slot)
            if seen != self.account_at(address, self.slots.slot):
                instead[address] = seen
        self.runtime.set_time(slot, self.slots.unix_seconds(slot))
        return self.runtime.simulate(transaction, instead)

    def receive(self, transaction: VersionedTransaction) -> None:
        """What the leader does with a transaction: include it now or later, or never and without a word."""
        with self.lock:
            self.settle()
            if self._to_drop > 0:
                self._to_drop -= 1
                self.faults.note("dropped")
            elif self._to_hold > 0:
                self._to_hold -= 1
                self._held.append((self.slots.slot + self._hold_slots, transaction))
                self._held.sort(key=itemgetter(0))
            else:
                self._include(transaction, self.slots.slot)

    def settle(self) -> None:
        """Include the held transactions whose slot has come."""
        while self._held and self._held[0][0] <= self.slots.slot:
            slot, transaction = self._held.pop(0)
            self._include(transaction, slot)

    def _include(self, transaction: VersionedTransaction, slot: int) -> None:
        signature = str(transaction.signatures[0])
        fresh = self.blockhash_is_valid(str(transaction.message.recent_blockhash), slot)
        if not fresh or self.log.get(signature) is not None or not all(transaction.verify_with_results()):
            return
        addresses = tuple(map(str, transaction.message.account_keys))
        for address in addresses:
            if address not in self.accounts and (untouched := self.runtime.account(address)) is not None:
                self.accounts.record(address, 0, untouched, finalized_slot=0)
        before = self._balances(addresses)
        self.runtime.set_time(slot, self.slots.unix_seconds(slot))
        execution = self.runtime.execute(transaction)
        after = self._balances(addresses)
        if execution.error is not None and before == after:
            return  # it could not even pay its fee: no block contains such a transaction
        for address in addresses:
            self._record(address, slot, self.runtime.account(address))
        price = unit_price(transaction.message)
        self.log.add(
            LandedTransaction(signature, slot, transaction, addresses, execution, before, after, unit_price=price)
        )

    def _balances(self, addresses: tuple[str, ...]) -> tuple[int, ...]:
        accounts = map(self.runtime.account, addresses)
        return tuple(account.lamports if account else 0 for account in accounts)

    def _record(self, address: str, slot: int, account: StoredAccount | None) -> None:
        if address in self.accounts and self.accounts.at(address, slot) == account:
            return
        if account is None and address not in self.accounts:
            return
        self.accounts.record(address, slot, account, slot - COMMITMENT_LAG["finalized"])

    # ---- what a test, a demo or an operator may do to the chain ----

    def load_program(self, address: str, shared_object: bytes) -> None:
        """Deploy a program at an address, from the first slot on."""
        with self.lock:
            self.runtime.load_program(address, shared_object)

    def set_account(self, address: str, account: StoredAccount) -> None:
        """Put an account in place, as if it had been there from the first slot on."""
        self.seed_accounts([(address, account)])

    def seed_accounts(self, accounts: Iterable[tuple[str, StoredAccount]]) -> int:
        """Put many new accounts in place at once, finalized already; returns how many."""
        seeded = 0
        with self.lock:
            for address, account in accounts:
                self.runtime.set_account(address, account)
                self.accounts.replace(address, account)
                seeded += 1
        return seeded

    def airdrop(self, address: str, lamports: int) -> None:
        """Give lamports, visible at every commitment level at once."""
        with self.lock:
            self.settle()
            self.accounts.credit(address, lamports, self.runtime.account(address) or _EMPTY)
            self.runtime.set_account(address, self.accounts.at(address, self.slots.slot))

    def request_airdrop(self, address: str, lamports: int) -> str:
        """Give lamports by a transaction of the faucet, as the RPC method does; returns its signature."""
        with self.lock:
            payment = TransferParams(
                from_pubkey=self._faucet.pubkey(), to_pubkey=Pubkey.from_string(address), lamports=lamports
            )
            # The price makes every transaction of the faucet a different one.
            instructions = [set_compute_unit_price(next(self._airdrops)), transfer(payment)]
            blockhash = Hash.from_string(self.blockhash(self.slots.slot))
            message = Message.new_with_blockhash(instructions, self._faucet.pubkey(), blockhash)
            transaction = VersionedTransaction(message, [self._faucet])
            self._include(transaction, self.slots.slot)
            return str(transaction.signatures[0])

    def advance(self, slots: int) -> int:
        """Let slots pass at once; returns the new slot."""
        with self.lock:
            return self.slots.advance(slots)

    def freeze(self) -> int:
        """Stop the slots; only `advance` moves them until `thaw`."""
        with self.lock:
            return self.slots.freeze()

    def thaw(self) -> int:
        """Let the slots go on by themselves."""
        with self.lock:
            return self.slots.thaw()

    def drop_next(self, times: int = 1) -> None:
        """Lose the next transactions on their way to the leader, after the node has accepted them."""
        with self.lock:
            self._to_drop = times

    def rollback(self, slots: int) -> int:
        """Undo what landed in the newest slots, as when the fork that had them lost; returns how many transactions.

        The slots themselves go on, and blockhashes stay valid. Raises ValueError if one of the slots is finalized.
        """
        with self.lock:
            self.settle()
            newest = self.slots.slot
            if not 0 < slots <= COMMITMENT_LAG["finalized"]:
                raise ValueError(f"cannot take {slots} slots back: {COMMITMENT_LAG['finalized']} are not final")
            undone = self.log.take_back(newest - slots + 1)
            for address in {address for landed in undone for address in landed.addresses if address in self.accounts}:
                self.accounts.revert(address, newest - slots)
                self.runtime.set_account(address, self.accounts.at(address, newest))
            self.faults.note("rolled_back", len(undone))
            return len(undone)

    def hold_next(self, times: int = 1, slots: int = 4) -> None:
        """Let the next transactions land only that many slots later."""
        with self.lock:
            self._to_hold, self._hold_slots = times, slots

    def fail(
        self,
        method: str,
        times: int = 1,
        status: int = 503,
        kind: str = "status",
        seconds: float = 30.0,
        retry_after_seconds: int | None = None,
    ) -> None:
        """Let the next calls of an RPC method meet a fault; see `localnet.faults`. Method `*` is every method,
        and kind `unhealthy` the JSON-RPC error -32005."""
        with self.lock:
            self.faults.add(method, Fault(times, kind, status, seconds, retry_after_seconds))

    def clear_faults(self) -> None:
        """Forget every fault, drop and hold that still waits; what is held already stays held."""
        with self.lock:
            self.faults.clear()
            self._to_drop = self._to_hold = 0

    def set_priority_fee(self, micro_lamports: int) -> None:
        """The fee that `getRecentPrioritizationFees` reports at least, as if others had paid it."""
        with self.lock:
            self.reported_priority_fee = micro_lamports

    def recent_priority_fees(self, addresses: list[str]) -> Iterator[tuple[int, int]]:
        """Slot and micro-lamports per compute unit, for the last 150 blocks: what the cheapest transaction
        that locked all the addresses paid, or anybody's if there are none."""
        newest = self.slots.slot
        cheapest: dict[int, int] = {}
        for landed in self.log.since(newest - BLOCKHASH_LIFE_BLOCKS + 1):
            if all(address in landed.addresses for address in addresses):
                cheapest[landed.slot] = min(landed.unit_price, cheapest.get(landed.slot, landed.unit_price))
        for slot in range(max(FIRST_SLOT, newest - BLOCKHASH_LIFE_BLOCKS + 1), newest + 1):
            yield slot, max(cheapest.get(slot, 0), self.reported_priority_fee)
