"""The stages as tasks: the names that the Prefect UI shows, bound to the functions that do the work."""

from __future__ import annotations

from typing import Any

from flows.stage import Stage
from flows.workbench import current_workbench
from millrace.receipt import Receipt
from protocols.ipfs.content import Content
from stages import admit as admission
from stages.execute import python
from stages.execute.matmul.solution import Solution
from stages.execute.matmul.stage import execute_challenge
from stages.fetch.ipfs import Fetched, fetch_content
from stages.submit.record import settle_and_record
from stages.submit.validator import answer_job
from stages.upload.documents import Published, publish_documents, publish_text
from stages.upload.ipfs import Uploaded


async def _is_kept(fetched: Fetched) -> bool:
    """Whether the store still has it: it may have been emptied, or have set damaged content aside."""
    content: Content = await current_workbench().tool("content")
    return content.store.has(fetched.cid)


admit: Stage[Any] = Stage("admit", admission.admit_job, cached=False, tell=lambda job: f"admitted {job.key}")
admit_challenge: Stage[Any] = Stage(
    "admit", admission.admit_challenge, cached=False, tell=lambda job: f"admitted {job.key}"
)
admit_poc: Stage[admission.AdmittedPocJob] = Stage(
    "admit", admission.admit_poc_job, cached=False, tell=lambda admitted: f"admitted {admitted.key}"
)
fetch: Stage[Fetched] = Stage(
    "fetch", fetch_content, tell=lambda f: f"{f.cid}: {f.size_bytes} bytes from {f.source}", holds=_is_kept
)
execute_python: Stage[python.Execution] = Stage(
    "execute",
    python.execute_python,
    tell=lambda run: (
        f"{run.status}, return code {run.returncode}, after {run.usage.wall_seconds:.2f} s in {run.backend}"
    ),
)
solve: Stage[Solution] = Stage(
    "execute",
    execute_challenge,
    tell=lambda solution: (
        f"root {solution.root} after {sum(solution.timings.values()):.2f} s on {solution.device.name}"
    ),
)
upload: Stage[Published] = Stage("upload", publish_documents, tell=lambda p: f"{p.result.cid} to {_list(p.result)}")
publish: Stage[Uploaded] = Stage("upload", publish_text, tell=lambda uploaded: f"{uploaded.cid} to {_list(uploaded)}")
settle: Stage[Receipt] = Stage(
    "settle", settle_and_record, cached=False, tell=lambda receipt: f"{receipt.outcome} by {receipt.transaction_id}"
)
answer: Stage[Receipt] = Stage(
    "answer", answer_job, cached=False, tell=lambda receipt: f"the validator gets {receipt.result_cid}"
)


def _list(uploaded: Uploaded) -> str:
    return ", ".join(uploaded.places)
