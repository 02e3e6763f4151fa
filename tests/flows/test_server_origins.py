"""Who may call the API of the server that we start: no page of another site in the operator's browser."""

from __future__ import annotations

import httpx
import pytest
from prefect.settings import PREFECT_API_URL

pytestmark = pytest.mark.usefixtures("prefect_server")


def preflight(origin: str) -> str | None:
    """The origin that a browser is told may post JSON, if any."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    reply = httpx.options(f"{PREFECT_API_URL.value()}/flows/", headers=asked)
    return reply.headers.get("access-control-allow-origin")


def test_a_page_of_another_site_may_not_call_the_api() -> None:
    assert preflight("https://evil.example") is None
    assert preflight("null") is None


def test_the_ui_may() -> None:
    own = str(PREFECT_API_URL.value()).removesuffix("/api")
    assert preflight(own) == own
