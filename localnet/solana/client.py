"""The other side of the market, for demos and tests: posts jobs, cancels them, marks them paid, waits for results."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from millrace.errors import MillraceError, Permanent, Transient, UnknownOutcome
from protocols.solana import instructions
from protocols.solana.job_account import JobAccount, JobStatus, JobType, decode_job_account

_POLL_SECONDS = 0.1


class Refused(Permanent):
    """The node or the program said no; `error` is the JSON-RPC error, or the transaction's."""

    def __init__(self, message: str, error: Any) -> None:
        super().__init__(message, hint="the message is the node's own")
        self.error = error


class JobPoster:
    """One job owner, at one RPC node; a context manager.

    Arguments: `url` of the node; `program_id` of the job program; `keypair` signs and pays, a new one if unset.
    Every method raises Transient if the node cannot be reached, Refused with its words if it or the program says
    no, and UnknownOutcome if a transaction was sent and did not confirm within `timeout_seconds`.
    """

    def __init__(
        self, url: str, program_id: str, keypair: Keypair | None = None, *, timeout_seconds: float = 30.0
    ) -> None:
        self.keypair = keypair or Keypair()
        self.address = str(self.keypair.pubkey())
        self._program = Pubkey.from_string(program_id)
        self._timeout_seconds = timeout_seconds
        self._http = httpx.Client(base_url=url, timeout=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to the node."""
        self._http.close()

    def fund(self, lamports: int = 1_000_000_000) -> str:
        """Ask the node's faucet for lamports and wait for them; returns the transaction's signature."""
        signature: str = self._call("requestAirdrop", self.address, lamports)
        self._confirm(signature)
        return signature

    def post(self, title: str, code_cid: str, job_type: int = JobType.manual) -> str:
        """Post a job; returns its address. Raises InvalidAccount or InvalidInstruction for what cannot be a job."""
        instruction = instructions.initialize_job(
            self._program, self.keypair.pubkey(), title, code_cid, JobType(job_type)
        )
        self._send(instruction)
        return str(instruction.accounts[0].pubkey)

    def cancel(self, address: str) -> str:
        """Withdraw a pending job; returns the transaction's signature."""
        return self._send(instructions.cancel_job(self._program, Pubkey.from_string(address), self.keypair.pubkey()))

    def complete(self, address: str, result_cid: str, cost_lamports: int) -> str:
        """Complete a pending job as a rival worker would, as the program lets anybody; returns the signature."""
        job, worker = Pubkey.from_string(address), self.keypair.pubkey()
        return self._send(instructions.complete_job(self._program, job, worker, result_cid, cost_lamports))

    def mark_payment(self, address: str) -> str:
        """Say that a job was paid; returns the transaction's signature."""
        return self._send(instructions.mark_payment(self._program, Pubkey.from_string(address), self.keypair.pubkey()))

    def job(self, address: str, commitment: str = "confirmed") -> JobAccount | None:
        """The job as the chain has it now; None if there is no account at the address."""
        config = {"encoding": "base64", "commitment": commitment}
        account = self._call("getAccountInfo", address, config)["value"]
        if account is None:
            return None
        content = base64.b64decode(account["data"][0])
        owner = Pubkey.from_string(account["owner"])
        return decode_job_account(Pubkey.from_string(address), owner, content, self._program)

    def wait(
        self,
        address: str,
        until: Callable[[JobAccount], bool] = lambda job: job.status is not JobStatus.pending,
        timeout_seconds: float = 60.0,
        commitment: str = "confirmed",
    ) -> JobAccount:
        """The job as soon as `until` holds, by default as soon as it is no longer pending.

        Raises Transient after `timeout_seconds`.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            job = self.job(address, commitment)
            if job is not None and until(job):
                return job
            if time.monotonic() > deadline:
                state = "absent" if job is None else job.status.name
                raise Transient(
                    f"job {address} is still {state} after {timeout_seconds} s", hint="is a worker running?"
                )
            time.sleep(_POLL_SECONDS)

    def _send(self, instruction: Instruction) -> str:
        """Sign, send and confirm one instruction; returns the signature."""
        latest = self._call("getLatestBlockhash", {"commitment": "confirmed"})["value"]
        blockhash = Hash.from_string(latest["blockhash"])
        message = Message.new_with_blockhash([instruction], self.keypair.pubkey(), blockhash)
        transaction = VersionedTransaction(message, [self.keypair])
        encoded = base64.b64encode(bytes(transaction)).decode()
        config = {"encoding": "base64", "preflightCommitment": "confirmed"}
        signature: str = self._call("sendTransaction", encoded, config)
        self._confirm(signature)
        return signature

    def _confirm(self, signature: str) -> None:
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            (status,) = self._call("getSignatureStatuses", [signature])["value"]
            if status is not None and status["confirmationStatus"] in ("confirmed", "finalized"):
                if status["err"] is not None:
                    raise Refused(f"transaction {signature} failed: {status['err']}", status["err"])
                return
            if time.monotonic() > deadline:
                raise UnknownOutcome(
                    f"transaction {signature} did not confirm within {self._timeout_seconds} s",
                    hint="look at the job's account before trying again",
                )
            time.sleep(_POLL_SECONDS)

    def _call(self, method: str, *params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        try:
            response = self._http.post("/", json=request).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            kind: type[MillraceError] = UnknownOutcome if method == "sendTransaction" else Transient
            raise kind(f"{method}: {error}", hint="is the node running?") from error
        if "error" in response:
            raise Refused(f"{method}: {response['error'].get('message')}", response["error"])
        return response["result"]
