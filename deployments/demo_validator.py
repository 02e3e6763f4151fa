"""The demo's job from a PoC validator: pushed over a WebSocket, answered over it, on no chain."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from prefect.client.schemas.objects import FlowRun

from deployments.verify import rows_check
from localnet.controls import CONTROL_PATH
from millrace.receipt import Receipt

_PAYLOAD = {"kind": "matmul-i32-v1", "block_hash": "d1" * 32, "n": 256}


@dataclass(frozen=True)
class PushedJob:
    """A job that the validator pushed."""

    title: str = "validator's job"
    job_id: str = "pushed-1"

    def key(self, addresses: dict[str, str]) -> str:
        """The job's key."""
        return f"validator/{urlsplit(addresses['validator_url']).netloc}/{self.job_id}"


def push_job(addresses: dict[str, str], job: PushedJob) -> None:
    """Have the validator push the job, to everybody who is or will be linked to it."""
    _control(addresses, {"action": "push", "job_id": job.job_id, "payload": _PAYLOAD})


def pushed_faults(
    http: httpx.Client, addresses: dict[str, str], job: PushedJob, run: FlowRun | None, receipt: Receipt | None
) -> list[str]:
    """Everything about this job that is not as it should be; empty if all is well."""
    if run is None or run.state_name != "Answered" or receipt is None or receipt.solved is None:
        return [f"no receipt; its flow run is {run.state_name if run else 'missing'}"]
    bundle = http.get(f"{addresses['ipfs_legacy_gateway_url']}/ipfs/{receipt.result_cid}").raise_for_status().text
    rows = rows_check(receipt.solved, receipt.worker, bundle)
    faults = [] if rows.verdict == "holds" else [f"{rows.claim}: {rows.verdict}: {rows.detail}"]
    answers = _control(addresses, {"action": "answers_to", "job_id": job.job_id})
    told = [answer.get("result_hash") for answer in answers]
    return faults if told == [receipt.solved.root] else [*faults, f"the validator was told {told}"]


def _control(addresses: dict[str, str], action: dict[str, object]) -> list[dict[str, str]]:
    reply = httpx.post(f"{addresses['validator_http_url']}{CONTROL_PATH}", json=action, timeout=10)
    result: list[dict[str, str]] = reply.raise_for_status().json()["result"]
    return result
