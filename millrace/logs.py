"""Log records: our own say which job and stage they are about, and none shows a secret."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from millrace.redaction import redact
from millrace.text import printable_lines

OUR_LOGGERS = ("millrace", "protocols", "stages", "flows", "localnet", "deployments")
"""Names of our root loggers; Prefect is told to collect them (PREFECT_LOGGING_EXTRA_LOGGERS)."""

_CLEANED = (*OUR_LOGGERS, "prefect")
"""Loggers whose messages may quote strangers: ours, and Prefect's, which repeat the texts of our errors."""

_where: ContextVar[tuple[str, str]] = ContextVar("where", default=("", ""))


@contextmanager
def located(job_key: str, stage: str) -> Iterator[None]:
    """Our log records made inside carry `job_key` and `stage`."""
    token = _where.set((job_key, stage))
    try:
        yield
    finally:
        _where.reset(token)


class Sparing:
    """Logs at most `most` records in `seconds`: what a stranger makes us say may never end.

    Arguments: `log` is a logger's method; `elapsed` gives seconds that never go back.
    """

    def __init__(
        self, log: Callable[..., None], elapsed: Callable[[], float], *, most: int = 20, seconds: float = 60.0
    ) -> None:
        self._log = log
        self._elapsed = elapsed
        self._most = most
        self._seconds = seconds
        self._logged: list[float] = []

    def __call__(self, text: str, *arguments: object) -> None:
        """Log it, or drop it."""
        now = self._elapsed()
        self._logged = [at for at in self._logged if now - at < self._seconds]
        if len(self._logged) < self._most:
            self._logged.append(now)
            self._log(text, *arguments)


def install_logging() -> None:
    """Locate our records and mask secrets in everybody's, whichever logger or handler they meet.

    Works on the record factory: a filter on a logger misses its children's records, and one on a handler misses
    the handlers that others add later. Calling it again changes nothing.
    """
    for name in OUR_LOGGERS:
        if logging.getLogger(name).level == logging.NOTSET:
            # Prefect lends its handlers to extra loggers, and leaves their level to the root's WARNING.
            logging.getLogger(name).setLevel(logging.INFO)
    make_record = logging.getLogRecordFactory()
    if getattr(make_record, "_is_millrace", False):
        return

    def make_ours(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        _finish(record)
        return record

    make_ours._is_millrace = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_ours)


def _finish(record: logging.LogRecord) -> None:
    try:
        message = record.getMessage()
    except Exception as error:  # noqa: BLE001 - a handler would print the arguments as they are, secrets included
        message = f"{record.msg} (its arguments cannot be shown: {type(error).__name__})"
        record.msg, record.args = message, None
    record.job, record.stage = job, stage = _where.get()
    shown, origin = redact(message), record.name.partition(".")[0]
    if job and origin in OUR_LOGGERS:
        shown = f"[{job} {stage}] {shown}"
    if origin in _CLEANED:
        shown = printable_lines(shown)
    if shown != message:
        record.msg, record.args = shown, None
    if record.exc_info and record.exc_info[0] is not None:
        # Formatters use exc_text when it is there instead of formatting the traceback themselves.
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        masked = redact(text)
        if origin in _CLEANED:
            masked = printable_lines(masked)
        if masked != text:
            record.exc_text, record.exc_info = masked, None
