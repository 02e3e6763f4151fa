"""The job program's interface written down once more, byte by byte, independent of our client."""

from __future__ import annotations

import base64
import struct
from typing import Any

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from localnet.solana.accounts import StoredAccount
from localnet.solana.program import PROGRAM_ID, SHARED_OBJECT
from localnet.solana.runtime import SYSTEM_PROGRAM, Runtime
from localnet.solana.transactions import Execution

PROGRAM = Pubkey.from_string(PROGRAM_ID)
SYSTEM = Pubkey.from_string(SYSTEM_PROGRAM)
CODE_CID = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"
RENT = 3_034_560
INITIALIZE, COMPLETE = bytes.fromhex("89168a294cd07232"), bytes.fromhex("ddd8e14865fa030b")
CANCEL, MARK = bytes.fromhex("7ef19bf132ec5376"), bytes.fromhex("a45ec3b9502ce9f3")


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(raw)) + raw


def job_address(owner: Pubkey, title: str | bytes, program: Pubkey = PROGRAM) -> Pubkey:
    seed = title.encode() if isinstance(title, str) else title
    assert len(seed) <= 32, "a longer seed makes solders panic"
    return Pubkey.find_program_address([b"job", bytes(owner), seed], program)[0]


def initialize(
    owner: Pubkey, title: str | bytes, code_cid: str | bytes = CODE_CID, job_type: int = 2, job: Pubkey | None = None
) -> Instruction:
    accounts = [
        AccountMeta(job or job_address(owner, title), False, True),
        AccountMeta(owner, True, True),
        AccountMeta(SYSTEM, False, False),
    ]
    return Instruction(PROGRAM, INITIALIZE + text(title) + text(code_cid) + bytes([job_type]), accounts)


def on_job(job: Pubkey, signer: Pubkey, content: bytes, *, signs: bool = True, writable: bool = True) -> Instruction:
    return Instruction(PROGRAM, content, [AccountMeta(job, False, writable), AccountMeta(signer, signs, False)])


def complete(job: Pubkey, worker: Pubkey, result_cid: str | bytes = CODE_CID, cost: int = 1_000_000) -> Instruction:
    return on_job(job, worker, COMPLETE + text(result_cid) + struct.pack("<Q", cost))


def custom(number: int, instruction: int = 0) -> dict[str, Any]:
    return {"InstructionError": [instruction, {"Custom": number}]}


def events(execution: Execution) -> list[bytes]:
    prefix = "Program data: "
    return [base64.b64decode(line[len(prefix) :]) for line in execution.logs if line.startswith(prefix)]


class Bench:
    """The program on the real runtime, without a chain around it."""

    def __init__(self, shared_object: bytes | None = None) -> None:
        self.runtime = Runtime()
        self.runtime.load_program(PROGRAM_ID, shared_object or SHARED_OBJECT.read_bytes())
        self.owner, self.worker = self.funded(), self.funded()
        self._sent = 0

    def funded(self) -> Keypair:
        keypair = Keypair()
        self.runtime.set_account(str(keypair.pubkey()), StoredAccount(10**10, SYSTEM_PROGRAM, b""))
        return keypair

    def run(self, instruction: Instruction, payer: Keypair) -> Execution:
        self._sent += 1
        message = Message.new_with_blockhash([instruction], payer.pubkey(), Hash(self._sent.to_bytes(32, "big")))
        return self.runtime.execute(VersionedTransaction(message, [payer]))

    def post(self, title: str = "hello", code_cid: str = CODE_CID) -> Pubkey:
        execution = self.run(initialize(self.owner.pubkey(), title, code_cid), self.owner)
        assert execution.error is None, execution.logs
        return job_address(self.owner.pubkey(), title)

    def content(self, job: Pubkey) -> bytes:
        account = self.runtime.account(str(job))
        assert account is not None
        return account.content


def signed(
    instructions: list[Instruction] | Instruction, payer: Keypair, blockhash: str, *others: Keypair
) -> VersionedTransaction:
    several = instructions if isinstance(instructions, list) else [instructions]
    message = Message.new_with_blockhash(several, payer.pubkey(), Hash.from_string(blockhash))
    return VersionedTransaction(message, [payer, *others])


def encoded(transaction: VersionedTransaction) -> str:
    return base64.b64encode(bytes(transaction)).decode()
