"""The append-only, hash-chained log of receipts; readable and verifiable without Prefect.

One JSON object a line: `{"n": 0, "previous": "00…", "receipt": {…}, "hash": "…"}` where `hash` is the SHA-256 of
the line's canonical JSON without `hash`. Changing, removing or reordering a line breaks every hash after it.

Beside it lie `head.json`, `{"count": 1, "hash": "…"}`, and `by-job/`, an entry for each job: a log with fewer lines
than either knows of was cut or emptied. Whoever replaces all three is found by comparing what `verify` returns with a
copy kept elsewhere.
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

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from millrace.errors import Permanent
from millrace.receipt import Receipt

GENESIS = "0" * 64

_HINT = "keep the folder as it is and restore the log from a copy"


class _Head(BaseModel):
    """How far the log had come at least; after a crash it is one line behind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(ge=0)
    hash: str


def _digest(entry: dict[str, Any]) -> str:
    text = json.dumps(
        {name: entry[name] for name in ("n", "previous", "receipt")}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()


class ReceiptLog:
    """The receipts under `folder`: the chained log, its head, and an index of which jobs have one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "receipts.jsonl"
        self._head_path = folder / "head.json"
        self._index = folder / "by-job"

    def append(self, receipt: Receipt) -> str:
        """Append `receipt`, durably; returns its hash.

        A job has one receipt: appending again, after a crash for instance, returns the first one's hash.
        Raises Permanent if the log's last line does not verify, or if lines were cut off.
        """
        self._index.mkdir(parents=True, exist_ok=True)
        with self._locked() as log:
            last = self._last_entry(log)
            self._ensure_whole(last)
            if last is not None:
                self._remember(last)  # a crash may have come between the line and what is written beside it
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

        Raises Permanent after the last line if there were more once: then the log was cut, emptied or removed.
        A last line without its end is left out: it is being written, or was torn by a crash, and nobody was told
        that it is there. The next append cuts it off.
        """
        # What must be there is read before what is there: another process may be appending.
        head, jobs = self._head(), self._known_jobs()
        count = 0
        for entry in self._chained():
            count += 1
            if head is not None and count == head.count and entry["hash"] != head.hash:
                raise _replaced(self.path, head)
            yield entry
        least = max(head.count if head is not None else 0, jobs)
        if count < least:
            raise _cut(self.path, least, count)

    def verify(self) -> tuple[int, str]:
        """Check the whole chain: how many receipts, and the last one's hash. Raises Permanent as `entries` does."""
        count, last = 0, GENESIS
        for entry in self.entries():
            count, last = count + 1, entry["hash"]
        return count, last

    def _chained(self) -> Iterator[dict[str, Any]]:
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

    def _ensure_whole(self, last: dict[str, Any] | None) -> None:
        """Return if the log, which ends with `last`, goes as far as its head says: another line would hide a cut."""
        head = self._head()
        count = last["n"] + 1 if last is not None else 0
        # Counting the jobs takes longer with each one, so only an empty log is asked about them.
        least = head.count if head is not None else 0 if last is not None else self._known_jobs()
        if count < least:
            raise _cut(self.path, least, count)
        if head is not None and last is not None and count == head.count and last["hash"] != head.hash:
            raise _replaced(self.path, head)

    def _head(self) -> _Head | None:
        """What `head.json` says; None if there is none, as beside a log that an older version wrote."""
        try:
            return _Head.model_validate_json(self._head_path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise Permanent(f"{self._head_path} cannot be read", hint=_HINT) from None

    def _known_jobs(self) -> int:
        return sum(1 for _ in self._index.glob("*.json"))

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
        """Note beside the log that it goes as far as `entry`, and whose receipt that is."""
        head = _Head(count=entry["n"] + 1, hash=entry["hash"])
        if self._head() != head:
            _write_atomically(self._head_path, head.model_dump_json())
        marker = self._marker(entry["receipt"]["job_key"])
        if not marker.exists():
            _write_atomically(marker, json.dumps({"hash": entry["hash"], "receipt": entry["receipt"]}))


def _write_atomically(path: Path, text: str) -> None:
    """Put `text` into the file at `path`, durably: whatever happens, the old or the new is there, whole."""
    partial = path.with_suffix(".tmp")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _cut(path: Path, least: int, count: int) -> Permanent:
    found = (
        f"has {count} of at least {least} receipts" if path.exists() else f"is missing, with at least {least} receipts"
    )
    return Permanent(f"the receipt log {path} {found}", hint=_HINT)


def _replaced(path: Path, head: _Head) -> Permanent:
    return Permanent(f"line {head.count} of the receipt log {path} is not the one that was written", hint=_HINT)
