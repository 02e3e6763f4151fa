"""The append-only, hash-chained log of receipts; readable and verifiable without Prefect.

One JSON object a line: `{"n": 0, "previous": "00…", "receipt": {…}, "hash": "…"}` where `hash` is the SHA-256 of
the line's canonical JSON without `hash`. Changing, removing or reordering a line breaks every hash after it;
cutting lines off the end is seen by comparing `head()` with a copy of it kept elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from millrace.errors import Permanent
from millrace.receipt import Receipt

GENESIS = "0" * 64


def _digest(entry: dict[str, Any]) -> str:
    text = json.dumps(
        {name: entry[name] for name in ("n", "previous", "receipt")}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()


class ReceiptLog:
    """The receipts under `folder`: the chained log and an index of which jobs have one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "receipts.jsonl"
        self._index = folder / "by-job"

    def append(self, receipt: Receipt) -> str:
        """Append `receipt`, durably; returns its hash.

        A job has one receipt: appending again, after a crash for instance, returns the first one's hash.
        Raises Permanent if the log's last line does not verify.
        """
        self._index.mkdir(parents=True, exist_ok=True)
        with self._locked() as log:
            last = self._last_entry(log)
            if last is not None:
                self._remember(last)  # a crash may have come between the line and its index entry
            known = self._marker(receipt.job_key)
            if known.exists():
                return str(json.loads(known.read_text())["hash"])
            entry: dict[str, Any] = {
                "n": last["n"] + 1 if last else 0,
                "previous": last["hash"] if last else GENESIS,
                "receipt": receipt.model_dump(mode="json"),
            }
            entry["hash"] = _digest(entry)
            log.write(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n")
            log.flush()
            os.fsync(log.fileno())
            self._remember(entry)
            return str(entry["hash"])

    def find(self, job_key: str) -> Receipt | None:
        """The receipt of that job, if there is one."""
        marker = self._marker(job_key)
        if not marker.exists():
            return None
        return Receipt.model_validate(json.loads(marker.read_text())["receipt"])

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every line, verified as it is read. Raises Permanent naming the first line that does not fit.

        A last line without its end is left out: it is being written, or was torn by a crash, and nobody was told
        that it is there. The next append cuts it off.
        """
        if not self.path.exists():
            return
        previous = GENESIS
        with self.path.open("rb") as log:
            for number, line in enumerate(log):
                if not line.endswith(b"\n"):
                    return
                entry = _parse(line, number)
                if entry["n"] != number or entry["previous"] != previous or entry["hash"] != _digest(entry):
                    raise _broken(number, "its hash or its place in the chain is wrong")
                previous = entry["hash"]
                yield entry

    def verify(self) -> tuple[int, str]:
        """Check the whole chain: how many receipts, and the last one's hash. Raises Permanent if it is broken."""
        count, head = 0, GENESIS
        for entry in self.entries():
            count, head = count + 1, entry["hash"]
        return count, head

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        # flock: the system releases it when its holder is killed.
        with self.path.open("a+b") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            yield log

    def _last_entry(self, log: BinaryIO) -> dict[str, Any] | None:
        """The last whole line. A torn one, left by a crash during a write, is cut off: it was never acknowledged."""
        end = log.seek(0, os.SEEK_END)
        tail = b""
        while end > 0 and tail.count(b"\n") < 2:
            step = min(65_536, end)
            end -= step
            log.seek(end)
            tail = log.read(step) + tail
        whole, newline, torn = tail.rpartition(b"\n")
        if torn:
            log.truncate(end + len(whole) + len(newline))
        log.seek(0, os.SEEK_END)
        if not whole:
            return None
        entry = _parse(whole.rsplit(b"\n", 1)[-1], None)
        if entry["hash"] != _digest(entry):
            raise _broken(entry["n"], "its hash is wrong")
        return entry

    def _marker(self, job_key: str) -> Path:
        return self._index / f"{hashlib.sha256(job_key.encode()).hexdigest()}.json"

    def _remember(self, entry: dict[str, Any]) -> None:
        marker = self._marker(entry["receipt"]["job_key"])
        if marker.exists():
            return
        partial = marker.with_suffix(".tmp")
        with partial.open("w") as file:
            json.dump({"hash": entry["hash"], "receipt": entry["receipt"]}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(marker)


def _parse(line: bytes, number: int | None) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        if not isinstance(entry, dict) or not {"n", "previous", "receipt", "hash"} <= entry.keys():
            raise ValueError("not a receipt line")
    except ValueError as error:
        raise _broken(number, str(error)) from None
    return entry


def _broken(number: int | None, why: str) -> Permanent:
    which = "the last line" if number is None else f"line {number + 1}"
    return Permanent(f"the receipt log is broken at {which}: {why}", hint="keep the file and restore it from a copy")
