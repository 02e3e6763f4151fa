"""The demo's verdict: each job compared, on the chain and behind its CID, with what it should have come to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Protocol

import httpx
from prefect.client.schemas.objects import FlowRun
from rich.table import Table
from rich.text import Text

from deployments.demo_challenges import Challenge, challenge_faults
from deployments.demo_jobs import DemoJob
from deployments.demo_requests import Asked, answers_fault, request_faults
from deployments.demo_validator import PushedJob, pushed_faults
from localnet.solana.client import JobPoster
from millrace.receipt import Receipt
from millrace.receipt_log import ReceiptLog
from millrace.text import printable
from protocols.solana.job_account import JobAccount, JobStatus

_STAGES = ("fetch", "compile", "execute", "upload", "sign", "confirm")


class Judged(Protocol):
    """A posted job, as far as its verdict needs to know it."""

    job: DemoJob
    address: str
    key: str


def verdict_table(
    runs: Mapping[str, FlowRun],
    posted: Sequence[Judged],
    challenges: Sequence[Challenge],
    pushed: PushedJob,
    asked: Sequence[Asked],
    addresses: dict[str, str],
    folder: Path,
) -> tuple[Table, bool]:
    """A table with a row for each job, and whether every one of them ended as it should."""
    receipts = ReceiptLog(folder / "receipts")
    table = Table(
        "job",
        "outcome",
        "result CID",
        "transaction",
        *_STAGES,
        "fee",
        "price",
        title="seconds a stage; lamports, wei and NEAR",
    )
    all_good = True
    with httpx.Client(timeout=10) as http:
        for entry in posted:
            receipt = receipts.find(entry.key)
            run = runs.get(entry.address)
            faults = _faults(http, addresses, entry, run, receipt)
            all_good = all_good and not faults
            table.add_row(*_row(entry.job.title, run, receipt, faults))
        for challenge in challenges:
            receipt = receipts.find(challenge.key(addresses))
            run = runs.get(challenge.job_id)
            faults = challenge_faults(http, addresses, challenge, run, receipt)
            all_good = all_good and not faults
            table.add_row(*_row(challenge.told, run, receipt, faults))
        receipt, run = receipts.find(pushed.key(addresses)), runs.get(pushed.job_id)
        faults = pushed_faults(http, addresses, pushed, run, receipt)
        all_good = all_good and not faults
        table.add_row(*_row(pushed.title, run, receipt, faults))
        for request in asked:
            receipt = receipts.find(request.key(addresses))
            run = runs.get(request.job_id)
            faults = request_faults(http, addresses, request, run, receipt)
            all_good = all_good and not faults
            table.add_row(*_row(request.title, run, receipt, faults))
        if faults := answers_fault(http, addresses, len(asked)):
            all_good = False
            table.add_row("NEAR", Text(printable("; ".join(faults)), "red"))
    receipts.verify()
    return table, all_good


def _row(name: str, run: FlowRun | None, receipt: Receipt | None, faults: list[str]) -> list[str | Text]:
    title = Text(printable(name))
    if faults:
        return [title, Text(printable("; ".join(faults)), "red")]
    if receipt is None:
        return [title, Text((run.state_name if run else "") or "", "green")]
    seconds = [f"{spent:.2f}" if (spent := receipt.stage_seconds.get(stage)) is not None else "" for stage in _STAGES]
    return [
        title,
        Text(f"{receipt.outcome}: {_ended(receipt)}", "green"),
        Text(_short(receipt.result_cid)),
        Text(_short(receipt.transaction_id)),
        *seconds,
        _fee(receipt),
        _amount(receipt.price, receipt.network) if receipt.price is not None else "",
    ]


def _fee(receipt: Receipt) -> str:
    unknown = "?" if receipt.transaction_id else ""
    return _amount(receipt.fee, receipt.network) if receipt.fee is not None else unknown


def _amount(amount: int, network: str) -> str:
    """In the smallest unit, but for NEAR's, of which nobody can read so many."""
    return f"{Decimal(amount).scaleb(-24):.6f}" if network == "offchainvm" else f"{amount:,}"


def _ended(receipt: Receipt) -> str:
    if receipt.execution is not None:
        code = receipt.execution.returncode
        return receipt.execution.status if code is None else f"{receipt.execution.status}, {code}"
    return f"root {_short(receipt.solved.root)}" if receipt.solved is not None else ""


def _short(text: str) -> str:
    return text if len(text) <= 16 else f"{text[:8]}…{text[-6:]}"


def _faults(
    http: httpx.Client, addresses: dict[str, str], entry: Judged, run: FlowRun | None, receipt: Receipt | None
) -> list[str]:
    """Everything about this job that is not as it should be; empty if all is well."""
    account, landed = _on_chain(http, addresses, entry.address)
    # Posting a job is its first transaction; completing or cancelling it must be the only other one.
    faults = [] if landed == 2 else [f"{landed} transactions on the chain instead of 2"]
    if entry.job.cancelled:
        if run is None or run.state_name != "Declined":
            faults.append(f"its flow run should be Declined, is {run.state_name if run else 'missing'}")
        if account is None or account.status is not JobStatus.cancelled:
            faults.append(f"on the chain it is {account.status.name if account else 'missing'}")
        return faults
    if run is None or run.state_name != "Settled" or receipt is None or receipt.execution is None:
        return [*faults, f"no receipt; its flow run is {run.state_name if run else 'missing'}"]
    if account is None:
        return [*faults, "its account is missing"]
    if account.status is not JobStatus.completed or account.result_cid != receipt.result_cid:
        faults.append(f"on the chain it is {account.status.name} with result {account.result_cid}")
    if receipt.execution.status != entry.job.status:
        faults.append(f"ended {receipt.execution.status} instead of {entry.job.status}")
    return faults + _result_faults(http, addresses, entry, account.result_cid)


def _result_faults(http: httpx.Client, addresses: dict[str, str], entry: Judged, cid: str) -> list[str]:
    """What is wrong with the result that anybody can fetch from a gateway."""
    reply = http.get(f"{addresses['ipfs_legacy_gateway_url']}/ipfs/{cid}")
    if not reply.is_success:
        return [f"its result cannot be fetched: HTTP {reply.status_code}"]
    result = reply.json()
    if sorted(result) != ["executed_at", "returncode", "stderr", "stdout"]:
        return [f"its result has the fields {sorted(result)}"]
    faults = []
    if result["returncode"] != entry.job.returncode:
        faults.append(f"return code {result['returncode']} instead of {entry.job.returncode}")
    if entry.job.shows not in result["stdout"] + result["stderr"]:
        faults.append(f"its output lacks {json.dumps(entry.job.shows)}")
    return faults


def _on_chain(http: httpx.Client, addresses: dict[str, str], address: str) -> tuple[JobAccount | None, int]:
    """The job's account at `finalized`, and how many successful transactions touched it."""
    with JobPoster(addresses["solana_rpc_url"], addresses["program_id"]) as anybody:
        account = anybody.job(address, "finalized")
    params = [address, {"commitment": "confirmed"}]
    body = {"jsonrpc": "2.0", "id": 1, "method": "getSignaturesForAddress", "params": params}
    signatures = http.post(addresses["solana_rpc_url"], json=body).raise_for_status().json()["result"]
    return account, sum(signature["err"] is None for signature in signatures)
