from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from localnet.solana import base58
from protocols.solana.job_account import (
    ACCOUNT_BYTES,
    DISCRIMINATOR,
    DISCRIMINATOR_BASE58,
    InvalidAccount,
    JobAccount,
    JobStatus,
    JobType,
    decode_job_account,
    encode_job_account,
    job_address,
)

PROGRAM = Pubkey.from_bytes(bytes(range(32)))
OWNER = Pubkey.from_bytes(bytes([7]) * 32)


def text(most: int, least: int = 1) -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=["Cs"])
    return st.text(characters, min_size=least, max_size=most).filter(lambda s: least <= len(s.encode()) <= most)


def job(**fields: object) -> JobAccount:
    title = str(fields.get("title", "sum of squares"))
    owner = fields.get("owner", OWNER)
    assert isinstance(owner, Pubkey)
    address, bump = job_address(owner, title, PROGRAM)
    pending = JobAccount(
        address=address,
        owner=owner,
        title=title,
        code_cid="QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        result_cid="",
        start_time=1_700_000_000,
        end_time=0,
        status=JobStatus.pending,
        job_type=JobType.manual,
        cost_lamports=0,
        cost_paid=False,
        bump=bump,
    )
    return replace(pending, **fields)  # type: ignore[arg-type]


@st.composite
def jobs(draw: st.DrawFn) -> JobAccount:
    status = draw(st.sampled_from(JobStatus))
    completed = status is JobStatus.completed
    return job(
        owner=Pubkey.from_bytes(draw(st.binary(min_size=32, max_size=32))),
        title=draw(text(32)),
        code_cid=draw(text(100)),
        result_cid=draw(text(96)) if completed else "",
        start_time=draw(st.integers(-(2**63), 2**63 - 1)),
        end_time=0 if status is JobStatus.pending else draw(st.integers(-(2**63), 2**63 - 1)),
        status=status,
        job_type=draw(st.sampled_from(JobType)),
        cost_lamports=draw(st.integers(1 if completed else 0, 2**64 - 1)),
        cost_paid=draw(st.booleans()),
    )


def decode(address: Pubkey, content: bytes) -> JobAccount:
    return decode_job_account(address, PROGRAM, content, PROGRAM)


@given(jobs())
def test_every_job_survives_encoding_and_decoding(account: JobAccount) -> None:
    content = encode_job_account(account)
    assert len(content) == ACCOUNT_BYTES
    assert decode(account.address, content) == account


@given(jobs(), st.data())
def test_a_changed_byte_never_decodes_to_the_same_job_nor_to_another_error(
    account: JobAccount, data: st.DataObject
) -> None:
    content = bytearray(encode_job_account(account))
    at = data.draw(st.integers(0, ACCOUNT_BYTES - 1))
    value = data.draw(st.integers(0, 255))
    assume(content[at] != value)
    content[at] = value
    try:
        decoded = decode(account.address, bytes(content))
    except InvalidAccount:
        return
    assert decoded != account
    assert encode_job_account(decoded) == bytes(content)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_with_one_error(content: bytes) -> None:
    with pytest.raises(InvalidAccount):
        decode(OWNER, content)


def test_title_and_cids_of_228_bytes_fit_and_of_229_do_not() -> None:
    """Pins the program's AccountDidNotSerialize (3004): 32 + 100 + 96 bytes are the most."""
    fitting = job(
        title="t" * 32,
        code_cid="c" * 100,
        result_cid="r" * 96,
        status=JobStatus.completed,
        cost_lamports=1,
        end_time=2,
    )
    assert decode(fitting.address, encode_job_account(fitting)) == fitting
    with pytest.raises(InvalidAccount, match="229 bytes, 228 fit"):
        encode_job_account(replace(fitting, result_cid="r" * 97))


@pytest.mark.parametrize("title", ["", "t" * 33, "é" * 17])
def test_a_title_that_is_no_seed_is_refused_before_the_derivation_panics(title: str) -> None:
    """Pins a panic of solders on seeds over 32 bytes, which is not an Exception and would end the worker."""
    with pytest.raises(InvalidAccount, match="1 to 32 bytes"):
        job_address(OWNER, title, PROGRAM)


def test_an_account_of_another_program_is_refused() -> None:
    account = job()
    with pytest.raises(InvalidAccount, match="belongs to the program"):
        decode_job_account(account.address, OWNER, encode_job_account(account), PROGRAM)


def test_an_account_at_an_address_that_its_owner_and_title_do_not_derive_is_refused() -> None:
    account = job()
    with pytest.raises(InvalidAccount, match="derive another address"):
        decode(OWNER, encode_job_account(account))


def test_a_wrong_bump_is_refused() -> None:
    account = job()
    with pytest.raises(InvalidAccount, match="derive another address"):
        decode(account.address, encode_job_account(replace(account, bump=account.bump - 1)))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"result_cid": "Qm"}, "pending, but with a result"),
        ({"end_time": 5}, "pending, but with a result or an end"),
        ({"status": JobStatus.completed, "cost_lamports": 5}, "completed, but without result"),
        ({"status": JobStatus.completed, "result_cid": "Qm"}, "completed, but without result or cost"),
        ({"code_cid": ""}, "no code CID"),
        ({"status": 3}, "does not exist"),
        ({"job_type": 3}, "does not exist"),
        ({"cost_paid": 2}, "neither 0 nor 1"),
    ],
)
def test_contradictions_and_values_out_of_range_are_refused(fields: dict[str, object], reason: str) -> None:
    account = job(**fields)
    with pytest.raises(InvalidAccount, match=reason):
        decode(account.address, encode_job_account(account))


@pytest.mark.parametrize(
    ("offset", "patch", "reason"),
    [
        (0, b"\0" * 8, "another discriminator"),
        (40, struct.pack("<I", 2**32 - 1), "a title of 4294967295 bytes"),
        (44, b"\xff\xfe", "not UTF-8"),
        (300, b"\1", "padding that is not zero"),
    ],
)
def test_broken_bytes_are_refused_with_what_is_broken(offset: int, patch: bytes, reason: str) -> None:
    account = job()
    content = bytearray(encode_job_account(account))
    content[offset : offset + len(patch)] = patch
    with pytest.raises(InvalidAccount, match=reason):
        decode(account.address, bytes(content))


def test_the_refusal_names_the_account() -> None:
    account = job()
    with pytest.raises(InvalidAccount, match=f"^{account.address} is not a job: 307 bytes"):
        decode(account.address, encode_job_account(account)[:-1])


def test_the_discriminator_in_base58_is_the_discriminator() -> None:
    assert base58.decode(DISCRIMINATOR_BASE58) == DISCRIMINATOR
