"""escaped_output: what a stranger wrote reaches a person as it is, and makes nothing of his terminal or his browser."""

from __future__ import annotations

import io
import logging
import re
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from deployments.cli import main
from deployments.doctor import examine
from deployments.processes import Processes
from flows.markdown import declined_markdown, execution_markdown, receipt_markdown
from millrace.errors import Declined, DeclineReason, MillraceError, Permanent, Transient, UnknownOutcome
from millrace.limits import Limits, Usage
from millrace.logs import install_logging
from millrace.receipt import Execution as ReceiptExecution
from millrace.receipt import JobOutcome, Receipt
from millrace.settings import Settings
from stages.execute.python import run_python
from stages.execute.sandbox import Outcome, Status
from stages.submit.outbox import Outbox

HOSTILE = {
    "clears the screen": "\x1b[2J\x1b[H",
    "names the window": "\x1b]0;owned\x07",
    "hides a link": "\x1b]8;;http://evil.invalid\x1b\\click\x1b]8;;\x1b\\",
    "paints over the line": "failed\rmillrace: settled      ",
    "rubs out": "evil\x08\x08\x08\x08good",
    "turns around": "\u202egnp.exe\u2066",
    "C1 control": "\x9b2J",
    "hides": "zero\u200bwidth\u2028line",
    "markup of rich": "[bold red]x[/bold red] [link=http://evil.invalid]y[/link] [/]",
    "markdown": "[click](javascript:alert(1)) ![](http://evil.invalid/x.png) | ` `` ``` # *",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)>&lt;",
}
RENDER = MarkdownIt("gfm-like", {"html": True, "linkify": False, "typographer": True})
TAGS = {"h1", "h2", "table", "thead", "tbody", "tr", "th", "td", "code", "pre"}

hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())


def obeyed(text: str) -> list[str]:
    """The characters in `text` that a terminal would obey; the end of a line is none."""
    return [c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


def test_every_hostile_text_would_be_obeyed_if_it_were_let_through() -> None:
    """Negative control: terminal texts control something, the others make tags or styles of their own."""
    for name, text in HOSTILE.items():
        page = set(re.findall(r"<(\w+)", RENDER.render(text)))
        console = Console(file=io.StringIO(), force_terminal=True)
        if "rich" in name:
            console.print(text.replace("[/]", ""))
            assert "\x1b[1;31m" in console.file.getvalue()  # type: ignore[attr-defined]
        else:
            assert obeyed(text) or page - TAGS - {"p"}, name


@hostile
@pytest.mark.parametrize("kind", [Permanent, Transient, UnknownOutcome])
def test_escaped_output_in_errors(text: str, kind: type[MillraceError]) -> None:
    """Their text becomes state messages, which Prefect's own commands print."""
    error = kind(f"the node said {text}", hint=text, job=f"cloudmesh/{text}", stage="fetch")
    assert not obeyed(str(error))
    assert "the node said" in str(error)
    assert not obeyed(str(Declined(text, reason=DeclineReason.closed)))


@hostile
def test_escaped_output_in_the_last_word_of_the_command_line(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["millrace", "audit", "verify", f"./{text}".replace("/", "_")])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "there is no receipt log" in said.err
    assert not obeyed(said.err + said.out)


@hostile
async def test_escaped_output_in_the_doctors_findings(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A variable with a wrong name, and a damaged file of the outbox: their names are shown."""
    monkeypatch.chdir(tmp_path)
    shown = text.replace("=", "-").replace("/", "_")
    monkeypatch.setenv(f"MILLRACE_{shown}", "x")
    settings = Settings(_env_file=None, data_dir=tmp_path / shown)
    Outbox(tmp_path / shown / "outbox")
    (tmp_path / shown / "outbox" / "damaged.json").write_text("{")
    told = io.StringIO()
    monkeypatch.setattr("deployments.doctor.diagnose", lambda settings: [])
    monkeypatch.setattr("deployments.doctor.networks", dict)
    await examine(settings, Console(file=told, width=10_000))
    assert "damaged.json" in told.getvalue()
    assert not obeyed(told.getvalue())
    if shown.isprintable():
        assert shown in told.getvalue(), "markup is shown as it is written"


@hostile
def test_escaped_output_in_what_is_quoted_of_a_childs_log(text: str, tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text(f"first\n{text}\nlast\n", encoding="utf-8")
    tail = Processes(tmp_path).log_tail("worker", 30)
    assert not obeyed(tail)
    assert tail.startswith("first\n")
    assert tail.endswith("\nlast")


@hostile
@pytest.mark.parametrize("logger", ["stages.fetch", "protocols.ipfs", "prefect.engine"])
def test_escaped_output_in_logs(text: str, logger: str) -> None:
    """Whatever handler meets the record, in the message and in the traceback."""
    install_logging()
    told = io.StringIO()
    try:
        raise ValueError(text)
    except ValueError:
        # Made as the logger makes it, and given to one handler: Prefect's own would send it to a server.
        message = "the node said %s"
        record = logging.getLogger(logger).makeRecord(
            logger, logging.WARNING, __file__, 1, message, (text,), sys.exc_info()
        )
    logging.StreamHandler(told).handle(record)
    assert "the node said" in told.getvalue()
    assert not obeyed(told.getvalue())


def receipt(text: str) -> Receipt:
    run = ReceiptExecution(
        backend=text,
        status=text,
        returncode=1,
        source=text,
        source_sha256=text,
        limits=Limits(),
        usage=Usage(),
    )
    return Receipt(
        job_key=text,
        network=text,
        outcome=JobOutcome.settled,
        execution=run,
        result_cid=text,
        result_sha256=text,
        evidence_cid=text,
        published_to=(text, text),
        worker=text,
        transaction_id=text,
        flow_run_id=text,
        settled_at=datetime(2026, 11, 21, tzinfo=UTC),
    )


class Printed:
    """A sandbox in which every program prints `text`."""

    name = "scripted"

    def __init__(self, text: str) -> None:
        self.text = text.encode("utf-8", "surrogatepass")

    def run(self, spec: object, cancel: object = None) -> Outcome:
        return Outcome(Status.exit, 1, stdout=self.text, stderr=self.text, backend=self.text.decode(), detail="no")


@hostile
def test_escaped_output_in_artifacts(text: str) -> None:
    """Every field of a stranger, in every page that the Prefect UI renders."""
    run = run_python(b"", Limits(), sandbox=Printed(text), clock=lambda: 0.0)  # type: ignore[arg-type]
    pages = [receipt_markdown(receipt(text)), declined_markdown(text, text, text), execution_markdown(run)]
    for page in pages:
        rendered = RENDER.render(page)
        assert set(re.findall(r"<(\w+)", rendered)) <= TAGS
        assert not re.findall(r"<\w+\s[^>]*(?:href|src|on\w+)=", rendered)
        assert not obeyed(page)
