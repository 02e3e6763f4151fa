"""Slots, account history and base58 against plain models of what they should be."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from localnet.solana import base58
from localnet.solana.accounts import AccountHistory, StoredAccount
from localnet.solana.chain import Chain
from localnet.solana.rpc_error import RpcError
from localnet.solana.slots import FIRST_SLOT, SlotClock
from localnet.solana.transactions import Execution, LandedTransaction, TransactionLog
from localnet.solana.wire import address_of, transaction_of

LAG = 32


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@given(st.binary(max_size=80))
def test_base58_comes_back_as_it_went(content: bytes) -> None:
    assert base58.decode(base58.encode(content)) == content


@given(st.binary(min_size=32, max_size=32))
def test_base58_is_solanas(content: bytes) -> None:
    assert base58.encode(content) == str(Pubkey.from_bytes(content))


def test_slots_pass_with_the_clock_and_stop_when_frozen() -> None:
    clock = Clock()
    slots = SlotClock(clock, slot_milliseconds=400)
    clock.now += 0.81
    assert slots.slot == FIRST_SLOT + 2
    assert slots.freeze() == FIRST_SLOT + 2
    clock.now += 100
    assert slots.advance(5) == FIRST_SLOT + 7
    slots.thaw()
    slots.thaw()
    clock.now += 0.41
    assert slots.slot == FIRST_SLOT + 8


def test_slots_never_go_back_even_if_the_clock_does() -> None:
    clock = Clock()
    slots = SlotClock(clock, slot_milliseconds=400)
    clock.now += 4
    reached = slots.slot
    clock.now -= 1_000
    assert slots.slot == reached
    with pytest.raises(ValueError, match="only ever go up"):
        slots.advance(-1)


def test_blocks_bear_the_time_of_their_slot() -> None:
    chain = Chain(Clock(), slot_milliseconds=500)
    assert chain.slots.unix_seconds(FIRST_SLOT + 10) == 1_700_000_005


account = st.builds(
    StoredAccount,
    lamports=st.integers(1, 9),
    owner=st.sampled_from(["program one", "program two"]),
    content=st.binary(max_size=2),
)
changes = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from("abc"), st.one_of(st.none(), account)), min_size=1, max_size=60
)


@given(changes)
def test_every_slot_not_yet_final_sees_what_was_true_then(steps: list[tuple[int, str, StoredAccount | None]]) -> None:
    history = AccountHistory()
    slot = 100
    truth: dict[int, dict[str, StoredAccount | None]] = {slot: {}}
    for passed, address, version in steps:
        for between in range(slot + 1, slot + passed + 1):
            truth[between] = dict(truth[slot])
        slot += passed
        truth[slot][address] = version
        history.record(address, slot, version, finalized_slot=slot - LAG)
    for seen in range(max(100, slot - LAG), slot + 1):
        for address in "abc":
            assert history.at(address, seen) == truth[seen].get(address)
        for program in ("program one", "program two"):
            expected = {name: each for name, each in truth[seen].items() if each and each.owner == program}
            assert dict(history.owned_by(program, seen)) == expected


def test_an_account_that_changes_for_ever_takes_bounded_memory() -> None:
    history = AccountHistory()
    for slot in range(10_000):
        history.record("a", slot, StoredAccount(slot + 1, "program", b""), finalized_slot=slot - LAG)
        history.record("a", slot, StoredAccount(slot + 2, "program", b""), finalized_slot=slot - LAG)
    assert len(history._versions["a"]) == LAG + 1


def test_an_unknown_blockhash_is_not_valid_and_old_ones_are_forgotten() -> None:
    chain = Chain(Clock())
    first = chain.blockhash(chain.slot())
    assert chain.blockhash_is_valid(first, chain.slot())
    assert not chain.blockhash_is_valid(str(Hash.new_unique()), chain.slot())
    for slot in range(5_000):
        chain.blockhash(slot)
    assert len(chain._blockhash_slots) <= 4_096


@given(st.binary(max_size=300), st.sampled_from(["base64", "base58"]))
def test_any_bytes_are_a_transaction_or_an_error_of_the_request(content: bytes, encoding: str) -> None:
    text = base64.b64encode(content).decode() if encoding == "base64" else base58.encode(content)
    code = -32602
    try:
        transaction_of(text, encoding)
    except RpcError as error:
        code = error.code
    assert code == -32602


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_an_error_of_the_request(text: str) -> None:
    outcome: object = None
    try:
        outcome = address_of(text)
    except RpcError as error:
        outcome = error.code
    assert outcome in (text, -32602)


def test_only_so_many_transactions_are_remembered() -> None:
    log = TransactionLog(most=2)
    keypair, execution = Keypair(), Execution(None, [], 0, 0)
    message = Message.new_with_blockhash([], keypair.pubkey(), Hash.default())
    transaction = VersionedTransaction(message, [keypair])
    for number, address in enumerate(("old", "both", "both")):
        addresses = (address, "everywhere")
        log.add(LandedTransaction(str(number), number, transaction, addresses, execution, (), ()))
    assert (log.get("0"), log.touching("old"), log.count) == (None, [], 3)
    assert [landed.signature for landed in log.touching("everywhere")] == ["1", "2"]
    assert [landed.signature for landed in log.since(2)] == ["2"]
