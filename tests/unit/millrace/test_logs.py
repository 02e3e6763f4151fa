from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, SecretStr

from millrace import redaction
from millrace.logs import install_logging, located
from millrace.redaction import MASK, redact, register_secret, register_secrets_of

SECRET = "eyJhbGciOi.swordfish.signature"


@pytest.fixture(autouse=True)
def clean_slate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_secrets", set())
    factory = logging.getLogRecordFactory()
    install_logging()
    yield
    logging.setLogRecordFactory(factory)


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """What a handler prints that others added: Prefect's, an operator's."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    names = ("protocols.ipfs.pinata", "somebody.elses.library")
    for name in names:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield stream
    for name in names:
        logging.getLogger(name).removeHandler(handler)


def test_a_secret_is_masked_in_message_and_arguments(printed: io.StringIO) -> None:
    register_secret(SECRET)
    logger = logging.getLogger("somebody.elses.library")
    logger.info("Authorization: Bearer %s", SECRET)
    logger.info("url=https://rpc.example/?key=" + SECRET)
    assert SECRET not in printed.getvalue()
    assert printed.getvalue().count(MASK) == 2


def test_a_secret_is_masked_in_a_traceback(printed: io.StringIO) -> None:
    register_secret(SECRET)
    try:
        raise ValueError(f"token {SECRET} refused")
    except ValueError:
        logging.getLogger("somebody.elses.library").exception("it failed")
    assert "ValueError" in printed.getvalue()
    assert SECRET not in printed.getvalue()


def test_without_registration_the_secret_would_show(printed: io.StringIO) -> None:
    """The negative control: the tests above bite."""
    logging.getLogger("somebody.elses.library").info("Bearer %s", SECRET)
    assert SECRET in printed.getvalue()


def test_every_secret_of_the_settings_is_registered_at_any_depth() -> None:
    class Inner(BaseModel):
        token: SecretStr = SecretStr("inner-secret-token")

    class Outer(BaseModel):
        inner: Inner = Inner()
        many: list[SecretStr] = [SecretStr("listed-secret-token")]

    register_secrets_of(Outer())
    assert redact("inner-secret-token listed-secret-token") == f"{MASK} {MASK}"


def test_a_secret_that_contains_another_is_masked_whole() -> None:
    register_secret("swordfish")
    register_secret("swordfish-and-more")
    assert redact("x swordfish-and-more y") == f"x {MASK} y"


def test_our_records_say_which_job_and_stage(printed: io.StringIO) -> None:
    with located("cloudmesh/devnet/abc", "upload"):
        logging.getLogger("protocols.ipfs.pinata").info("100%% of %d bytes", 5)
        logging.getLogger("somebody.elses.library").info("theirs stay as they are")
    assert printed.getvalue().splitlines() == [
        "INFO [cloudmesh/devnet/abc upload] 100% of 5 bytes",
        "INFO theirs stay as they are",
    ]


def test_a_record_with_wrong_arguments_shows_none_of_them(
    printed: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    """The handler reported the mistake on stderr with the arguments as they were."""
    register_secret(SECRET)
    logging.getLogger("somebody.elses.library").info("%d bytes", SECRET)
    assert "%d bytes (its arguments cannot be shown: TypeError)" in printed.getvalue()
    assert SECRET not in printed.getvalue() + capsys.readouterr().err


def test_an_argument_that_cannot_be_printed_stops_nobody(printed: io.StringIO) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no")

    logging.getLogger("somebody.elses.library").info("%s", Unprintable())
    assert "RuntimeError" in printed.getvalue()


def test_what_strangers_said_cannot_move_a_cursor(printed: io.StringIO) -> None:
    """In our messages and tracebacks alike; what other libraries print is theirs."""
    hostile = "\x1b]0;title\x07 \u202e"
    ours = logging.getLogger("protocols.ipfs.pinata")
    try:
        raise ValueError(hostile)
    except ValueError:
        ours.exception("first line\nthe daemon says: %s", hostile)
    assert all(line.isprintable() for line in printed.getvalue().splitlines())
    assert "first line\nthe daemon says: \\x1b]0;title" in printed.getvalue()
