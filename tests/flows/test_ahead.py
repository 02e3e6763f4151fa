"""The server's time, as a machine learns it whose own clock may be wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import format_datetime
from typing import Any, cast

import httpx
import pytest
from prefect.client.orchestration import PrefectClient

from flows import ahead
from flows.ahead import ServerClock, server_now

NOON = datetime(2026, 11, 27, 12, 0, 0, 600_000, UTC)
MOST = timedelta(seconds=2.5)


class Server:
    """What a Prefect client has of a server: an answer with a `Date`."""

    def __init__(self, date: str | None) -> None:
        self.date = date
        self.asked = 0
        self._client = httpx.AsyncClient(base_url="http://server/api", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        assert request.url.path == "/api/health"
        return httpx.Response(200, headers={} if self.date is None else {"Date": self.date})

    @property
    def client(self) -> PrefectClient:
        return cast("PrefectClient", self)


class OwnClock:
    """This machine's clock, and the seconds since it was started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time, self.elapsed = NOON, 0.0
        clock = self

        class Told(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                assert tz is UTC
                return clock.time

        monkeypatch.setattr(ahead, "datetime", Told)

    def go_on(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.elapsed += seconds


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> OwnClock:
    return OwnClock(monkeypatch)


def told(moment: datetime) -> str:
    return format_datetime(moment.replace(microsecond=0), usegmt=True)


@pytest.mark.parametrize("age", [0.0, 0.6, 1.7, 2.4])
async def test_a_right_clock_is_believed_to_the_microsecond(own: OwnClock, age: float) -> None:
    """A busy server tells a time that is two seconds old: what had just been scheduled was not due yet."""
    server = Server(told(NOON))
    own.time = NOON.replace(microsecond=0) + timedelta(seconds=age)
    assert await server_now(server.client) == own.time


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_wrong_clock_is_not(own: OwnClock, hours: int) -> None:
    server = Server(told(NOON))
    own.time += timedelta(hours=hours)
    assert NOON.replace(microsecond=0) <= await server_now(server.client) <= NOON + MOST


@pytest.mark.parametrize("date", [None, "", "yesterday", "Fri, 99 Nov 2026 12:00:00 GMT"])
async def test_where_no_time_is_told_ours_has_to_do(own: OwnClock, date: str | None) -> None:
    assert await server_now(Server(date).client) == NOON
    assert await ServerClock(lambda: 0.0).now(Server(date).client) == NOON


@pytest.mark.parametrize(
    "date", ["Fri Nov 27 12:00:00 2026", "Fri, 27 Nov 2026 12:00:00 -0000", "Fri, 27 Nov 2026 21:00:00 +0900"]
)
async def test_a_date_is_in_utc_unless_it_says_otherwise(own: OwnClock, date: str) -> None:
    own.time += timedelta(hours=9)
    assert await server_now(Server(date).client) == NOON.replace(microsecond=0) + MOST


async def test_who_asks_often_asks_the_server_now_and_then(own: OwnClock) -> None:
    server = Server(told(NOON))
    clock = ServerClock(lambda: own.elapsed)
    for _ in range(50):
        assert await clock.now(server.client) == own.time
        own.go_on(0.2)
    assert server.asked == 1
    own.go_on(1.0)
    server.date = told(own.time)
    assert await clock.now(server.client) == own.time
    assert server.asked == 2


async def test_an_answer_that_is_older_than_the_one_before_is_not_believed(own: OwnClock) -> None:
    """A server that is busy tells a time of seconds ago; for ten seconds nothing new would be due."""
    server = Server(told(NOON))
    clock = ServerClock(lambda: own.elapsed)
    await clock.now(server.client)
    for late, right in ((5, True), (3_600, False)):
        own.go_on(11)
        server.date = told(own.time - timedelta(seconds=late))
        assert (await clock.now(server.client) == own.time) is right, "a server whose clock is set is believed"


async def test_a_clock_that_is_stepped_between_two_answers_is_noticed_at_once(own: OwnClock) -> None:
    server = Server(told(NOON))
    clock = ServerClock(lambda: own.elapsed)
    await clock.now(server.client)
    own.go_on(5)
    right = own.time
    for hours in (1, -2):
        own.time += timedelta(hours=hours)
        assert abs(await clock.now(server.client) - right) <= MOST
    assert server.asked == 1


async def test_a_server_that_does_not_answer_is_an_error(own: OwnClock) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away", request=request)

    server = Server(None)
    server._client = httpx.AsyncClient(base_url="http://server/api", transport=httpx.MockTransport(refuse))
    with pytest.raises(httpx.ConnectError):
        await ServerClock(lambda: 0.0).now(server.client)
