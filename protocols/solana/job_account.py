"""The account that holds one CloudMesh job: 308 bytes, decoded strictly."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from solders.pubkey import Pubkey

from millrace.errors import Permanent

ACCOUNT_BYTES = 308
DISCRIMINATOR = bytes.fromhex("4b7c50cba1b4ca50")
"""SHA-256("account:Job")[:8], as Anchor derives it."""

DISCRIMINATOR_BASE58 = "DdJgs2JGpjh"
OWNER_OFFSET = 8
SEED_BYTES = 32
"""Longest seed of a program-derived address, and so the longest title."""

CID_BYTES = 100
TEXT_BYTES = 228
"""Most bytes of title, code CID and result CID together; beyond it the program fails with 3004."""

_TAIL = struct.Struct("<qqBBQBB")


class InvalidAccount(Permanent):
    """The account is not a job that the program could have written; no reading of it can be trusted."""


class JobStatus(IntEnum):
    """Where a job stands; completed and cancelled are for ever."""

    pending = 0
    completed = 1
    cancelled = 2


class JobType(IntEnum):
    """What the owner called the job; the program treats all three alike."""

    cron = 0
    api = 1
    manual = 2


@dataclass(frozen=True)
class JobAccount:
    """A decoded job account. Times are Unix seconds; `end_time` is 0 while the job is pending."""

    address: Pubkey
    owner: Pubkey
    title: str
    code_cid: str
    result_cid: str
    start_time: int
    end_time: int
    status: JobStatus
    job_type: JobType
    cost_lamports: int
    cost_paid: bool
    bump: int


def job_address(owner: Pubkey, title: str, program_id: Pubkey) -> tuple[Pubkey, int]:
    """Address and bump of the account of the job that `owner` called `title`.

    Raises InvalidAccount if the title is empty or over 32 bytes. That is looked at first because solders answers a
    seed that is too long with a panic, which `except Exception` does not catch.
    """
    seed = title.encode()
    if not 0 < len(seed) <= SEED_BYTES:
        raise InvalidAccount(f"a title has 1 to {SEED_BYTES} bytes, this one {len(seed)}")
    return Pubkey.find_program_address([b"job", bytes(owner), seed], program_id)


def decode_job_account(address: Pubkey, owner_program: Pubkey, account: bytes, program_id: Pubkey) -> JobAccount:
    """The job in `account`, the 308 bytes at `address`, which belong to `owner_program`.

    Raises InvalidAccount with the reason if anything is not as `program_id` writes it: owner, size, discriminator,
    a length, text that is not UTF-8, an enumeration or boolean out of range, padding that is not zero, fields that
    contradict the status, or an address that owner and title do not derive.
    """
    if owner_program != program_id:
        raise InvalidAccount(f"{address} belongs to the program {owner_program}, not to {program_id}")
    try:
        job = _decode(address, account)
        _check_state(job)
        if job_address(job.owner, job.title, program_id) != (address, job.bump):
            raise InvalidAccount("its owner and title derive another address")
    except InvalidAccount as error:
        raise InvalidAccount(f"{address} is not a job: {error.message}") from None
    return job


def _decode(address: Pubkey, account: bytes) -> JobAccount:
    if len(account) != ACCOUNT_BYTES:
        raise InvalidAccount(f"{len(account)} bytes instead of {ACCOUNT_BYTES}")
    if account[:OWNER_OFFSET] != DISCRIMINATOR:
        raise InvalidAccount("another discriminator")
    offset = OWNER_OFFSET + 32
    title, offset = _text(account, offset, "title", SEED_BYTES)
    code_cid, offset = _text(account, offset, "code CID", CID_BYTES)
    result_cid, offset = _text(account, offset, "result CID", CID_BYTES)
    if offset + _TAIL.size > ACCOUNT_BYTES:
        raise InvalidAccount("its texts leave no room for the other fields")
    start, end, status, job_type, cost, cost_paid, bump = _TAIL.unpack_from(account, offset)
    if any(account[offset + _TAIL.size :]):
        raise InvalidAccount("padding that is not zero")
    if cost_paid > 1:
        raise InvalidAccount(f"cost_paid is {cost_paid}, neither 0 nor 1")
    if status > max(JobStatus) or job_type > max(JobType):
        raise InvalidAccount(f"status {status} and job type {job_type}: one of them does not exist")
    return JobAccount(
        address=address,
        owner=Pubkey.from_bytes(account[OWNER_OFFSET : OWNER_OFFSET + 32]),
        title=title,
        code_cid=code_cid,
        result_cid=result_cid,
        start_time=start,
        end_time=end,
        status=JobStatus(status),
        job_type=JobType(job_type),
        cost_lamports=cost,
        cost_paid=bool(cost_paid),
        bump=bump,
    )


def _text(account: bytes, offset: int, name: str, most: int) -> tuple[str, int]:
    if offset + 4 > ACCOUNT_BYTES:
        raise InvalidAccount(f"no room for the length of its {name}")
    (length,) = struct.unpack_from("<I", account, offset)
    start, end = offset + 4, offset + 4 + length
    if length > most or end > ACCOUNT_BYTES:
        raise InvalidAccount(f"a {name} of {length} bytes")
    try:
        return account[start:end].decode(), end
    except UnicodeDecodeError:
        raise InvalidAccount(f"a {name} that is not UTF-8") from None


def _check_state(job: JobAccount) -> None:
    if not job.code_cid:
        raise InvalidAccount("no code CID")
    if job.status is JobStatus.pending and (job.result_cid or job.end_time):
        raise InvalidAccount("pending, but with a result or an end")
    if job.status is JobStatus.completed and not (job.result_cid and job.cost_lamports):
        raise InvalidAccount("completed, but without result or cost")


def encode_job_account(job: JobAccount) -> bytes:
    """The 308 bytes that `decode_job_account` reads `job` from.

    Raises InvalidAccount if the texts do not fit.
    """
    body = b"".join(_lengthed(text) for text in (job.title, job.code_cid, job.result_cid))
    tail = _TAIL.pack(
        job.start_time, job.end_time, job.status, job.job_type, job.cost_lamports, job.cost_paid, job.bump
    )
    account = DISCRIMINATOR + bytes(job.owner) + body + tail
    if len(account) > ACCOUNT_BYTES:
        raise InvalidAccount(f"title and CIDs have {len(body) - 12} bytes, {TEXT_BYTES} fit")
    return account.ljust(ACCOUNT_BYTES, b"\0")


def _lengthed(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<I", len(encoded)) + encoded
