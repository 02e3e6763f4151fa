"""The four instructions of the CloudMesh job program."""

from __future__ import annotations

import struct

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID

from millrace.errors import Permanent
from protocols.solana.job_account import CID_BYTES, JobType, job_address

# SHA-256("global:<name>")[:8], as Anchor derives them.
INITIALIZE_JOB = bytes.fromhex("89168a294cd07232")
COMPLETE_JOB = bytes.fromhex("ddd8e14865fa030b")
CANCEL_JOB = bytes.fromhex("7ef19bf132ec5376")
MARK_PAYMENT = bytes.fromhex("a45ec3b9502ce9f3")

_MAX_U64 = 2**64 - 1


class InvalidInstruction(Permanent):
    """The program would refuse an instruction with these arguments."""


def initialize_job(program_id: Pubkey, owner: Pubkey, title: str, code_cid: str, job_type: JobType) -> Instruction:
    """Post a job; `owner` signs and pays the account's rent.

    Raises InvalidAccount for a title that is empty or over 32 bytes, InvalidInstruction for a CID of no or over 100.
    """
    address, _ = job_address(owner, title, program_id)
    arguments = _text(title) + _cid(code_cid) + struct.pack("<B", job_type)
    accounts = [
        AccountMeta(address, is_signer=False, is_writable=True),
        AccountMeta(owner, is_signer=True, is_writable=True),
        AccountMeta(SYSTEM_PROGRAM_ID, is_signer=False, is_writable=False),
    ]
    return Instruction(program_id, INITIALIZE_JOB + arguments, accounts)


def complete_job(program_id: Pubkey, job: Pubkey, worker: Pubkey, result_cid: str, cost_lamports: int) -> Instruction:
    """Record the result of the job at `job` and the price claimed for it; any signer may.

    Raises InvalidInstruction for a CID of no or over 100 bytes, or a cost that is not 1 to 2^64-1.
    """
    if not 0 < cost_lamports <= _MAX_U64:
        raise InvalidInstruction(f"a cost of {cost_lamports} lamports; the program wants 1 to 2^64-1")
    arguments = _cid(result_cid) + struct.pack("<Q", cost_lamports)
    return Instruction(program_id, COMPLETE_JOB + arguments, _signed_by(job, worker))


def cancel_job(program_id: Pubkey, job: Pubkey, owner: Pubkey) -> Instruction:
    """Withdraw a pending job; `owner` signs."""
    return Instruction(program_id, CANCEL_JOB, _signed_by(job, owner))


def mark_payment(program_id: Pubkey, job: Pubkey, owner: Pubkey) -> Instruction:
    """Set the flag that says the job was paid; moves no money. `owner` signs."""
    return Instruction(program_id, MARK_PAYMENT, _signed_by(job, owner))


def _signed_by(job: Pubkey, signer: Pubkey) -> list[AccountMeta]:
    return [
        AccountMeta(job, is_signer=False, is_writable=True),
        AccountMeta(signer, is_signer=True, is_writable=False),
    ]


def _cid(cid: str) -> bytes:
    if not 0 < len(cid.encode()) <= CID_BYTES:
        raise InvalidInstruction(f"a CID of {len(cid.encode())} bytes; the program wants 1 to {CID_BYTES}")
    return _text(cid)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<I", len(encoded)) + encoded
