"""What a person reads about a job in the Prefect UI; text from strangers is shown, never interpreted."""

from __future__ import annotations

import hashlib
import re

from millrace.receipt import Receipt
from millrace.text import printable
from stages.execute.python import Execution

_TICKS = re.compile(r"`+")


def code(text: str) -> str:
    """`text` as a code span that fits into a table: neither markdown, HTML nor typography makes anything of it.

    A backslash before a pipe becomes a visible escape: renderers disagree whether it escapes the pipe or itself, and
    in Prefect's UI the pipe would end the cell and set free what follows it.
    """
    shown = printable(text).replace("\\|", "\\x5c|")
    fence = "`" * (_longest_run(shown) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}".replace("|", "\\|") if shown else ""


def code_block(text: str, longest: int = 100_000) -> str:
    """`text` as a block of code, its control characters made visible, cut after `longest` characters."""
    shown = "\n".join(printable(line, longest) for line in text[:longest].split("\n"))
    fence = "`" * max(3, _longest_run(shown) + 1)
    return f"{fence}\n{shown}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(ticks) for ticks in _TICKS.findall(text)), default=0)


def receipt_key(job_key: str) -> str:
    """The artifact key of a job's receipt: lower-case letters, digits and dashes, as Prefect demands."""
    return f"receipt-{hashlib.sha256(job_key.encode()).hexdigest()[:20]}"


def receipt_markdown(receipt: Receipt) -> str:
    """A receipt as tables: what ran, under which limits, what it used, what came out, and what it cost."""
    parts = [
        f"# Receipt: {receipt.outcome.value}",
        _table({"job": receipt.job_key, "network": receipt.network}),
    ]
    if run := receipt.execution:
        limits, usage = run.limits, run.usage
        parts += [
            "## What ran",
            _table(
                {
                    "source": run.source,
                    "SHA-256": run.source_sha256,
                    "sandbox": run.backend,
                    "ended": run.status,
                    "return code": run.returncode,
                }
            ),
            "## Limits and use",
            "| | used | limit |\n|---|---|---|\n"
            + f"| wall time | {usage.wall_seconds:.2f} s | {limits.wall_seconds:g} s |\n"
            + f"| CPU time | {_number(usage.cpu_seconds, ' s')} | {limits.cpus:g} cores |\n"
            + f"| memory | {_mebibytes(usage.peak_memory_bytes)} | {_mebibytes(limits.memory_bytes)} |\n"
            + f"| stdout | {usage.stdout_bytes} bytes | {limits.output_bytes} bytes |\n"
            + f"| stderr | {usage.stderr_bytes} bytes | {limits.output_bytes} bytes |",
        ]
    parts += [
        "## What came out",
        _table(
            {
                "result": receipt.result_cid,
                "result SHA-256": receipt.result_sha256,
                "evidence": receipt.evidence_cid,
                "published to": ", ".join(receipt.published_to),
            }
        ),
        "## What the chain says",
        _table(
            {
                "transaction": receipt.transaction_id,
                "slot or block": receipt.height,
                "signed by": receipt.worker,
                "fee paid": receipt.fee,
                "price claimed": receipt.price,
                "settled at": receipt.settled_at.isoformat(timespec="seconds"),
            }
        ),
    ]
    if receipt.stage_seconds:
        parts += ["## Time", _table({name: f"{seconds:.2f} s" for name, seconds in receipt.stage_seconds.items()})]
    return "\n\n".join(parts)


def declined_markdown(job_key: str, reason: str, text: str) -> str:
    """Why a job was left alone."""
    return "\n\n".join(["# Declined", _table({"job": job_key, "reason": reason}), code_block(text)])


def _table(rows: dict[str, object]) -> str:
    lines = [f"| {name} | {code(str(value))} |" for name, value in rows.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _number(value: float | None, unit: str) -> str:
    return "not measured" if value is None else f"{value:.2f}{unit}"


def _mebibytes(value: int | None) -> str:
    return "not measured" if value is None else f"{value / 1024 / 1024:.1f} MiB"


def execution_markdown(run: Execution) -> str:
    """A run in the sandbox, with the whole result document."""
    return "\n\n".join(
        [
            "# Execution",
            _table({"ended": run.status, "return code": run.returncode, "sandbox": run.backend}),
            code_block(run.result_json),
        ]
    )
