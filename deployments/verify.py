"""`millrace verify`: check what a receipt or a proof bundle claims, without trusting the worker that made it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from millrace.errors import MillraceError, Permanent
from millrace.receipt import JobOutcome, Receipt, Solved
from millrace.receipt_log import ReceiptLog
from millrace.redaction import redact
from millrace.settings import Settings
from millrace.text import printable
from protocols.computechain.block import Block, check_block
from protocols.computechain.rpc import ComputeChainRpc
from protocols.ipfs.content import open_content
from stages.execute.matmul.challenge import PORTABLE, Challenge
from stages.execute.matmul.verify import MOST_BUNDLE_BYTES, read_bundle, verify_bundle
from stages.fetch.ipfs import fetch_content
from stages.submit.computechain_inclusion import included_result

Verdict = Literal["holds", "wrong", "not checked"]
_STYLES: dict[Verdict, str] = {"holds": "green", "wrong": "red", "not checked": "yellow"}


@dataclass(frozen=True)
class Check:
    """One claim and what became of it; `detail` says what was checked, what is wrong, or why it could not be."""

    verdict: Verdict
    claim: str
    detail: str = ""


async def verify(what: str, settings: Settings, console: Console) -> int:
    """Check the receipt with that job key, or the bundle in that file; prints each claim.

    Returns 1 if a claim is wrong, else 0, also if some could not be checked: which ones is said. Raises Permanent if
    there is no such receipt or file, or nothing in it that can be checked.
    """
    bundle = await asyncio.to_thread(_read_file, Path(what))
    checks = _checks_of_bundle(bundle) if bundle is not None else await _checks_of_job(what, settings)
    width = max(len(verdict) for verdict in _STYLES)
    for check in checks:
        told = f"{check.claim}: {check.detail}" if check.detail else check.claim
        console.print(Text(f"{check.verdict:<{width}}  ", _STYLES[check.verdict]) + Text(printable(redact(told))))
    return int(any(check.verdict == "wrong" for check in checks))


def _read_file(path: Path) -> str | None:
    """The bundle in that file; None if there is no such file."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MOST_BUNDLE_BYTES + 1)


def _checks_of_bundle(bundle: str) -> list[Check]:
    claimed = read_bundle(bundle)
    if claimed is None:
        raise Permanent("this file is no proof bundle", hint="`bundle_cid` in a receipt names one")
    on_chain = Check(
        "not checked",
        f"{claimed.challenge.worker_address} gave this root as its answer",
        "a bundle names no transaction; `millrace verify <job key>` asks the chain about a receipt",
    )
    return [_rows(claimed.challenge, claimed.root, bundle), on_chain]


async def _checks_of_job(job_key: str, settings: Settings) -> list[Check]:
    receipt = ReceiptLog(settings.data_dir / "receipts").find(job_key)
    if receipt is None:
        raise Permanent(
            f"there is no receipt of {job_key}, and no file of that name",
            hint="`millrace audit export` prints the receipts; run this where the worker runs, with its settings",
        )
    if receipt.solved is None:
        raise Permanent(
            f"the receipt of {job_key} has no proof: what a program prints can only be had by running it again",
            hint="`millrace audit verify` checks that the receipts are as they were written",
        )
    bundle = await _bundle(receipt.solved.bundle_cid, settings)
    if receipt.outcome is JobOutcome.answered:
        told = Check("not checked", "the validator has this answer", "it told nobody else: no chain records it")
        return [rows_check(receipt.solved, receipt.worker, bundle), told]
    return checks_of(receipt, bundle, await _block(receipt, settings))


async def _bundle(cid: str, settings: Settings) -> str | MillraceError:
    """The bundle with that CID, or why it cannot be had."""
    try:
        async with open_content(settings.ipfs, settings.data_dir) as content:
            fetched = await fetch_content(cid, MOST_BUNDLE_BYTES, content=content)
            return content.store.get(fetched.cid).decode(errors="replace")
    except MillraceError as error:
        return error


async def _block(receipt: Receipt, settings: Settings) -> Block | MillraceError:
    """The block that the receipt names, as the chain has it now, or why it cannot be had."""
    try:
        async with ComputeChainRpc(settings.computechain.rpc_urls) as rpc:
            block = await rpc.block(receipt.height if receipt.height is not None else -1)
    except MillraceError as error:
        return error
    return block if block is not None else Permanent(f"the node has no block {receipt.height}")


def checks_of(receipt: Receipt, bundle: str | MillraceError, block: Block | MillraceError) -> list[Check]:
    """Every claim of a solved challenge's receipt, given its bundle and the chain's block, or why there is none."""
    if receipt.solved is None:
        return []
    height = receipt.height if receipt.inclusion is None else receipt.inclusion.block_height
    return [
        rows_check(receipt.solved, receipt.worker, bundle),
        _tried(f"the proof leads from this answer to the hash of block {height}", lambda: _ensure_answer(receipt)),
        _on_chain(receipt, block),
    ]


def rows_check(solved: Solved, worker: str, bundle: str | MillraceError) -> Check:
    """Whether the bundle's rows are those of the challenge under the root, or why that cannot be told."""
    if isinstance(bundle, MillraceError):
        return Check("not checked", f"the rows in the bundle {solved.bundle_cid} are right", bundle.message)
    fields = {"block_hash": solved.block_hash, "worker_address": worker, "n": solved.size}
    try:
        challenge = Challenge.model_validate({**fields, "algorithm": solved.algorithm})
    except ValidationError:
        return Check("wrong", "the receipt is about a challenge", "there is none like this")
    return _rows(challenge, solved.root, bundle)


def _rows(challenge: Challenge, root: str, bundle: str) -> Check:
    claim = f"{root} is the root of {challenge.algorithm} with n = {challenge.n} for block {challenge.block_hash}"
    if challenge.algorithm != PORTABLE:
        return Check("not checked", claim, "other cards give other bytes: only a second run on the same kind can tell")
    verdict = verify_bundle(challenge, root, bundle)
    return Check("holds" if verdict.valid else "wrong", claim, verdict.detail)


def _ensure_answer(receipt: Receipt) -> None:
    """Return if the proof is good and about this receipt's answer; Permanent saying what is wrong if not."""
    if receipt.inclusion is None or receipt.solved is None:
        raise Permanent("the receipt has no proof")
    result = included_result(receipt.inclusion)
    if result.result_hash != receipt.solved.root:
        raise Permanent(f"it is about the answer {result.result_hash}")
    if result.worker_address != receipt.worker:
        raise Permanent(f"it is about an answer of {result.worker_address}")
    if receipt.solved.bundle_cid not in result.proof:
        raise Permanent("it names another bundle")


def _on_chain(receipt: Receipt, block: Block | MillraceError) -> Check:
    claim = f"the chain has that block, with the transaction {receipt.transaction_id}"
    if isinstance(block, MillraceError):
        return Check("not checked", claim, block.message)
    return _tried(claim, lambda: _ensure_on_chain(receipt, block))


def _ensure_on_chain(receipt: Receipt, block: Block) -> None:
    check_block(block)
    if receipt.inclusion is None or block.hash != receipt.inclusion.block_hash:
        raise Permanent(f"the chain's block {block.header.height} has the hash {block.hash}")
    if receipt.transaction_id not in {sent.hash for sent in block.transactions}:
        raise Permanent("the transaction is not in it")


def _tried(claim: str, ensure: Callable[[], None]) -> Check:
    try:
        ensure()
    except MillraceError as error:
        return Check("wrong", claim, error.message)
    return Check("holds", claim)
