"""What a chain's accounts and errors say, and the worker's own key file."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pydantic_core
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from bench.fuzzing.decoder import DEEP_JSON, Decoder, agree, presentable, well_said
from protocols.solana.job_account import (
    ACCOUNT_BYTES,
    InvalidAccount,
    JobAccount,
    JobStatus,
    JobType,
    decode_job_account,
    encode_job_account,
    job_address,
)
from protocols.solana.keypair import UnusableKeypair, load_keypair
from protocols.solana.program_errors import explain

PROGRAM = Pubkey.from_bytes(bytes(range(32)))
_OWNER = Keypair.from_seed(bytes(32))
_CID = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"


def example_job(status: JobStatus, title: str = "a title") -> JobAccount:
    """A job as the program writes it."""
    address, bump = job_address(_OWNER.pubkey(), title, PROGRAM)
    done = status is JobStatus.completed
    return JobAccount(
        address=address,
        owner=_OWNER.pubkey(),
        title=title,
        code_cid=_CID,
        result_cid=_CID if done else "",
        start_time=1_700_000_000,
        end_time=1_700_000_100 if done else 0,
        status=status,
        job_type=JobType.manual,
        cost_lamports=5 if done else 0,
        cost_paid=False,
        bump=bump,
    )


def check_job_account(given: bytes) -> None:
    """The account as it is; then with the bump corrected, at the address that it derives: an attacker would."""
    address, account = _derived(given)
    for content in (given, account):
        try:
            job = decode_job_account(address, PROGRAM, content, PROGRAM)
        except InvalidAccount as error:
            well_said(error)
            continue
        agree(encode_job_account(job) == content, "an account with two spellings")


def _derived(account: bytes) -> tuple[Pubkey, bytes]:
    if len(account) < 40:
        return PROGRAM, account
    try:
        owner = Pubkey.from_bytes(account[8:40])
        offset, texts = 40, []
        for _ in range(3):
            (length,) = struct.unpack_from("<I", account, offset)
            texts.append(account[offset + 4 : offset + 4 + length])
            offset += 4 + min(length, ACCOUNT_BYTES)
        address, bump = job_address(owner, texts[0].decode(), PROGRAM)
    except (ValueError, struct.error, InvalidAccount):
        return PROGRAM, account
    at = offset + 27
    return address, account[:at] + bytes([bump]) + account[at + 1 :]


def check_program_error(given: bytes) -> None:
    """A TransactionError in JSON, parsed as the RPC client parses it."""
    try:
        error = pydantic_core.from_json(given)
    except ValueError:
        return
    words, _ = explain(error)
    presentable(words)


def check_keypair(given: bytes) -> None:
    file = _key_file()
    os.ftruncate(file, 0)
    os.pwrite(file, given, 0)
    os.lseek(file, 0, os.SEEK_SET)
    try:
        keypair = load_keypair(Path(f"/dev/fd/{file}"))
    except UnusableKeypair as error:
        well_said(error)
        return
    agree(bytes(keypair) == bytes(json.loads(given)), "another key than the file holds")


@cache
def _key_file() -> int:
    """A file of ours alone that has no name, so that it is gone with this process, however that ends."""
    descriptor, name = tempfile.mkstemp()
    Path(name).unlink()
    return descriptor


ERRORS = (
    "BlockhashNotFound",
    {"InstructionError": [2, {"Custom": 6003}]},
    {"InstructionError": [0, {"Custom": 1}]},
    {"InstructionError": [2, "ProgramFailedToComplete"]},
    {"InstructionError": [2, {"BorshIoError": "Unknown"}]},
    {"InsufficientFundsForRent": {"account_index": 0}},
    {"DuplicateInstruction": 1},
)
"""TransactionErrors as nodes write them."""


def _accounts() -> Iterator[bytes]:
    for status in JobStatus:
        yield encode_job_account(example_job(status))
        yield encode_job_account(example_job(status, "t" * 32))


def _key_files() -> Iterator[bytes]:
    key = json.dumps(list(bytes(_OWNER)))
    yield key.encode()
    yield (key + "\n").encode()
    yield DEEP_JSON
    yield key.encode("utf-16")
    yield b'{"key": "' + str(_OWNER).encode() + b'"}'


DECODERS = (
    Decoder("job account", check_job_account, _accounts, ACCOUNT_BYTES + 8),
    Decoder("program error", check_program_error, lambda: (json.dumps(error).encode() for error in ERRORS)),
    Decoder("key file", check_keypair, _key_files, 5000),
)
