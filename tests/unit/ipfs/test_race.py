"""Several gateways for one content: who is asked when, whose answer counts, and what becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from millrace.errors import MillraceError
from protocols.ipfs.cid import CID, RAW
from protocols.ipfs.errors import ContentRefused, ContentUnavailable, InvalidBlock, LimitExceeded
from protocols.ipfs.race import MOST_IN_FLIGHT, first_verified
from protocols.ipfs.reader import ReadLimits
from protocols.ipfs.verified import Verified

CONTENT = b"content"
WANTED = CID.of(CONTENT, RAW)
LIMITS = ReadLimits()
HEDGE = 0.02


class Source:
    """A source that does as told, and remembers what was done to it."""

    def __init__(self, name: str, error: MillraceError | None = None, *, hangs: bool = False) -> None:
        self.name = name
        self.share_seconds = 0.0
        self.asked = self.cancelled = False
        self._error = error
        self._hangs = hangs

    async def check(self) -> str:
        return ""

    async def fetch(self, cid: CID, limits: ReadLimits, timeout_seconds: float) -> Verified:
        self.asked, self.share_seconds = True, timeout_seconds
        try:
            if self._hangs:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self._error is not None:
            raise self._error
        return Verified(cid, CONTENT)

    async def fetch_block(self, cid: CID, timeout_seconds: float) -> bytes:
        return (await self.fetch(cid, LIMITS, timeout_seconds)).content


async def race(*sources: Source, seconds: float = 60.0, clock: Callable[[], float] = lambda: 0.0) -> str:
    found, name = await first_verified(
        sources,
        WANTED,
        lambda source, share_seconds: source.fetch(WANTED, LIMITS, share_seconds),
        seconds,
        clock=clock,
        hedge_seconds=HEDGE,
    )
    assert found.content == CONTENT
    return name


async def test_while_the_first_answers_nobody_else_is_asked() -> None:
    first, second = Source("first"), Source("second")
    assert await race(first, second) == "first"
    assert not second.asked


async def test_a_silent_source_is_joined_by_the_next_and_cancelled_when_that_one_wins() -> None:
    silent, second = Source("silent", hangs=True), Source("second")
    assert await race(silent, second) == "second"
    assert silent.cancelled


async def test_the_next_is_asked_at_once_when_one_fails() -> None:
    clockwork = asyncio.get_running_loop()
    started = clockwork.time()
    failing = [Source(str(number), ContentUnavailable("no")) for number in range(5)]
    assert await race(*failing, Source("last")) == "last"
    assert clockwork.time() - started < HEDGE


async def test_a_lie_does_not_win() -> None:
    assert await race(Source("liar", InvalidBlock("wrong")), Source("honest")) == "honest"


async def test_no_more_than_three_are_asked_at_a_time() -> None:
    sources = [Source(str(number), hangs=True) for number in range(MOST_IN_FLIGHT + 1)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(HEDGE * 10):
            await race(*sources)
    assert [source.asked for source in sources] == [True] * MOST_IN_FLIGHT + [False]
    assert all(source.cancelled for source in sources[:-1])


async def test_each_gets_its_share_so_that_all_get_their_turn() -> None:
    sources = [Source(str(number), ContentUnavailable("no")) for number in range(7)]
    with pytest.raises(ContentUnavailable):
        await race(*sources, seconds=30.0)
    assert [source.share_seconds for source in sources] == [10.0, 15.0, 15.0, 15.0, 30.0, 30.0, 30.0]


async def test_what_the_content_itself_shows_ends_the_race() -> None:
    second = Source("second")
    with pytest.raises(LimitExceeded):
        await race(Source("first", LimitExceeded("too large")), second)
    assert not second.asked


async def test_when_all_fail_their_reasons_are_told_and_any_hope_makes_it_worth_another_try() -> None:
    with pytest.raises(ContentUnavailable, match=r"never here; not now"):
        await race(Source("a", ContentRefused("never here")), Source("b", ContentUnavailable("not now")))
    with pytest.raises(ContentRefused):
        await race(Source("a", ContentRefused("never here")), Source("b", InvalidBlock("wrong")))
