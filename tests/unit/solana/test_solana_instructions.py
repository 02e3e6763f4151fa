from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from protocols.solana import instructions
from protocols.solana.instructions import InvalidInstruction
from protocols.solana.job_account import DISCRIMINATOR, InvalidAccount, JobType, job_address

PROGRAM = Pubkey.from_bytes(bytes(range(32)))
OWNER = Pubkey.from_bytes(bytes([7]) * 32)


@pytest.mark.parametrize("name", ["initialize_job", "complete_job", "cancel_job", "mark_payment"])
def test_discriminators_are_those_that_anchor_derives(name: str) -> None:
    assert getattr(instructions, name.upper()) == hashlib.sha256(f"global:{name}".encode()).digest()[:8]


def test_the_account_discriminator_is_the_one_that_anchor_derives() -> None:
    assert hashlib.sha256(b"account:Job").digest()[:8] == DISCRIMINATOR


def test_initialize_job_is_signed_and_paid_by_the_owner_of_the_derived_account() -> None:
    instruction = instructions.initialize_job(PROGRAM, OWNER, "té", "Qm", JobType.api)
    address, _ = job_address(OWNER, "té", PROGRAM)
    assert bytes(instruction.data).hex() == "89168a294cd07232" + "03000000" + "74c3a9" + "02000000" + "516d" + "01"
    job, owner, system = instruction.accounts
    assert (job.pubkey, job.is_signer, job.is_writable) == (address, False, True)
    assert (owner.pubkey, owner.is_signer, owner.is_writable) == (OWNER, True, True)
    assert bytes(system.pubkey) == bytes(32)


def test_complete_job_carries_result_and_cost_and_is_signed_by_the_worker() -> None:
    job = Pubkey.new_unique()
    instruction = instructions.complete_job(PROGRAM, job, OWNER, "Qm", 0x0102)
    assert bytes(instruction.data).hex() == "ddd8e14865fa030b" + "02000000" + "516d" + "0201000000000000"
    assert [(a.pubkey, a.is_signer, a.is_writable) for a in instruction.accounts] == [
        (job, False, True),
        (OWNER, True, False),
    ]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=120), st.integers(-5, 2**65))
def test_complete_job_takes_exactly_what_the_program_takes(result_cid: str, cost_lamports: int) -> None:
    acceptable = 1 <= len(result_cid.encode()) <= 100 and 1 <= cost_lamports < 2**64
    try:
        instructions.complete_job(PROGRAM, OWNER, OWNER, result_cid, cost_lamports)
    except InvalidInstruction:
        assert not acceptable
    else:
        assert acceptable


def test_a_title_over_32_bytes_is_refused() -> None:
    with pytest.raises(InvalidAccount):
        instructions.initialize_job(PROGRAM, OWNER, "t" * 33, "Qm", JobType.manual)
