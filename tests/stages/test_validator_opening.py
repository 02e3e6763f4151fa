"""Settings of a validator that cannot work are refused before anything is sent, and not quoted."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from millrace.errors import Permanent
from millrace.settings import Settings, ValidatorSettings
from stages.discover.validator_opening import link_of


@pytest.mark.parametrize(
    ("url", "token", "fault"),
    [
        ("wss://user:password@v.example/worker", "a-token", "names a user"),
        ("https://user:password@v.example", "a-token", "names a user"),
        ("https://v.example?key=password", "", "has a query"),
        ("wss://v.example/worker", "password\n", "no bearer token"),
        ("ftp://v.example/password", "", "no ws, wss, http or https"),
    ],
)
def test_what_cannot_work_is_refused_without_being_quoted(url: str, token: str, fault: str) -> None:
    """A user beside a token made two headers of one name, and whose turn it was differed with the transport."""
    own = ValidatorSettings(url=url, token=SecretStr(token), worker_address="cpc1us")
    with pytest.raises(Permanent, match=fault) as caught:
        link_of(Settings(validator=own))
    assert "password" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "url", ["wss://v.example/worker?key=1", "wss://user:password@v.example/worker", "http://v.example"]
)
def test_what_can_work_is_not(url: str) -> None:
    link_of(Settings(validator=ValidatorSettings(url=url, worker_address="cpc1us")))
