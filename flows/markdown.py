"""What a person reads about a job in the Prefect UI; text from strangers is shown, never interpreted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from millrace.receipt import Execution as RunReceipt
from millrace.receipt import Inclusion, Receipt, Solved
from millrace.text import printable
from stages.compile.docker import Compiled
from stages.compile.failure import CompileFailure
from stages.execute.matmul.solution import Solution
from stages.execute.python import Execution
from stages.execute.wasm.interface import WasmExecution

_UNITS = {"cloudmesh": "lamports", "computechain": "wei", "offchainvm": "yoctoNEAR"}
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
    parts = [f"# Receipt: {receipt.outcome.value}", _table({"job": receipt.job_key, "network": receipt.network})]
    if receipt.execution:
        parts += _what_ran(receipt.execution)
    if receipt.solved:
        parts += _what_was_solved(receipt.solved)
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
                "fee paid": _money(receipt.fee, receipt.network),
                "price claimed": _money(receipt.price, receipt.network),
                "settled at": receipt.settled_at.isoformat(timespec="seconds"),
            }
        ),
    ]
    if receipt.inclusion:
        parts += _proof_of(receipt.inclusion)
    if receipt.stage_seconds:
        parts += ["## Time", _seconds(receipt.stage_seconds)]
    return "\n\n".join(parts)


def _what_ran(run: RunReceipt) -> list[str]:
    limits, usage = run.limits, run.usage
    return [
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
        + f"| stderr | {usage.stderr_bytes} bytes | {limits.output_bytes} bytes |"
        + (f"\n| instructions | {run.instructions} | {run.most_instructions} |" if run.most_instructions else ""),
    ]


def _what_was_solved(solved: Solved) -> list[str]:
    return [
        "## The challenge",
        _table(
            {
                "block": solved.block_height,
                "block hash": solved.block_hash,
                "algorithm": solved.algorithm,
                "side n": solved.size,
                "root": solved.root,
            }
        ),
        "## The device",
        _device(solved.device, solved.device_kind, solved.driver, solved.peak_memory_bytes, solved.seconds),
    ]


def _device(name: str, kind: str, driver: str, peak_memory_bytes: int | None, seconds: Mapping[str, float]) -> str:
    spent = {part: f"{value:.3f} s" for part, value in seconds.items()}
    memory = _mebibytes(peak_memory_bytes)
    return _table({"device": name, "kind": kind, "driver": driver, "peak memory": memory, **spent})


def _proof_of(inclusion: Inclusion) -> list[str]:
    rows: dict[str, object] = {
        "block": inclusion.block_height,
        "block hash": inclusion.block_hash,
        "compute root": inclusion.root,
        "our result": f"{inclusion.index + 1} of {inclusion.count}",
        "leaf": inclusion.leaf,
    }
    beside = {f"beside, level {level}": each for level, each in enumerate(inclusion.path)}
    return ["## Proof that the block has it", _table({**rows, **beside})]


def declined_markdown(job_key: str, reason: str, text: str) -> str:
    """Why a job was left alone."""
    return "\n\n".join(["# Declined", _table({"job": job_key, "reason": reason}), code_block(text)])


def _table(rows: dict[str, object]) -> str:
    lines = [f"| {name} | {code(str(value))} |" for name, value in rows.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _seconds(seconds: Mapping[str, float]) -> str:
    return _table({name: f"{value:.2f} s" for name, value in seconds.items()})


def _money(amount: int | None, network: str) -> str:
    return "" if amount is None else f"{amount:,} {_UNITS.get(network, '')}".rstrip()


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


def wasm_markdown(run: WasmExecution) -> str:
    """A module run by hand: how it ended, what it used, what it wrote."""
    rows: dict[str, object] = {
        "ended": run.status,
        "detail": run.detail,
        "code": run.code,
        "instructions": f"{run.fuel} of {run.limits.max_instructions}",
        "peak memory": _mebibytes(run.peak_memory_bytes),
        "time": f"{run.milliseconds:.1f} ms",
        "called as": run.abi,
        "runtime": run.runtime,
    }
    written = [code_block(each.decode("utf-8", "replace")) for each in (run.output, run.stderr) if each]
    return "\n\n".join(["# Execution", _table(rows), *written])


def solution_markdown(solution: Solution) -> str:
    """A challenge solved by hand: its answer, and on what."""
    device = solution.device
    return "\n\n".join(
        [
            "# Solved",
            _table({"algorithm": solution.algorithm, "side n": solution.n, "root": solution.root}),
            _device(device.name, device.kind, device.driver, solution.peak_memory_bytes, solution.timings),
        ]
    )


def build_key(repo: str, commit: str) -> str:
    """The artifact key of a build."""
    return f"build-{hashlib.sha256(f'{repo}@{commit}'.encode()).hexdigest()[:20]}"


def build_markdown(built: Compiled) -> str:
    """What came of a build, and all that it wrote."""
    rows: dict[str, object] = {
        "repository": built.repo,
        "commit": built.commit,
        "target": built.target,
        "builder": built.builder,
        "image": built.image,
        "taken from": built.origin,
        "time": f"{built.seconds:.2f} s",
        "peak memory": _mebibytes(built.peak_memory_bytes),
        "dependencies": ", ".join(built.dependencies),
        "module": f"{built.size_bytes} bytes",
        "module's SHA-256": built.wasm_sha256,
    }
    return "\n\n".join(["# Built", _table(rows), code_block(built.log)])


def failed_build_markdown(failure: CompileFailure) -> str:
    """Why nothing came of a build, and all that it wrote."""
    rows: dict[str, object] = {"reason": failure.reason, "time": f"{failure.seconds:.2f} s", "detail": failure.message}
    return "\n\n".join(["# Not built", _table(rows), code_block(failure.log)])
