"""Work that a coordinator hands out: a long flow run asks for it, and each piece is a flow run of its own."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Sequence
from enum import Enum
from typing import Any, NoReturn

import httpx
from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.states import Completed

from flows.dispatch import Dispatcher
from flows.draining import drained
from flows.endless import first_of, stoppable, told_to_stop
from flows.handed import may_be_answered
from flows.life import job_life
from flows.networks import COORDINATOR, COORDINATOR_NAME, network
from flows.workbench import Workbench
from millrace.errors import MillraceError, Permanent
from millrace.job import Job
from millrace.redaction import redact
from millrace.settings import Settings, load_settings
from protocols.http_json import origin_of
from protocols.near.job import NETWORK
from stages.discover.coordinator import Desk, Handed, desk_of
from stages.discover.coordinator_conversation import Conversation
from stages.discover.coordinator_opening import capabilities_of, worker_id_of
from stages.drain import DrainMark
from stages.execute.wasm.selftest import ensure_keeping
from stages.progress import Progress
from stages.submit.coordinator_outcome import failed
from stages.submit.outbox import OutboxDamaged
from stages.submit.outbox_opening import open_outbox

_logger = logging.getLogger("flows.coordinator")

_LOOK_SECONDS = 1.0
"""Between two looks at the work, and between two looks for room."""

_PAUSE_SECONDS = 10.0
"""Before it is seen again whether what keeps us from working has passed."""

_HELD_BACK_SECONDS = 60.0
"""Before it is seen again whether a job that is given up may still be answered: `reconcile` comes as often."""


@flow(name="coordinator", flow_run_name="coordinator")
async def coordinator(run_seconds: float = 86_400.0) -> State[Any]:
    """Ask the coordinator for work for `run_seconds`, start a flow run for each piece, tell how each ended.

    It asks only while there is room in the work pool, the worker could do what it gets, and the machine does not
    drain. Ended by SIGTERM, it waits for the answer to its last question, and completes; nothing is lost, the next run
    goes on. On a draining machine it completes once all that was taken has ended and was told. `Failed` if the
    coordinator does not let us in. Without a coordinator in the settings it does nothing.
    """
    settings = load_settings()
    if not COORDINATOR.configured(settings):
        return Completed(name="Not configured", message=f"to serve a coordinator: {COORDINATOR.remedy}")
    if not network(NETWORK).configured(settings):
        raise Permanent("a coordinator is set and NEAR is not", hint=network(NETWORK).remedy)
    if await asyncio.to_thread(_is_drained, settings):
        return drained()
    async with stoppable() as told, job_life(NETWORK) as bench, get_client() as client:
        desk: Desk = await bench.tool("desk")
        conversation = Conversation(
            await bench.tool("coordinator"),
            desk,
            api=settings.coordinator.api,
            worker_id=worker_id_of(settings),
            worker_name=socket.gethostname(),
            capabilities=lambda: capabilities_of(settings),
            poll_seconds=settings.coordinator.poll_seconds,
            clock=time.time,
        )
        starting = _Starting(await Dispatcher.create(client, COORDINATOR, settings), desk, settings)
        try:
            await first_of(
                _ask_until(asyncio.ensure_future(told_to_stop(told, run_seconds)), conversation, starting, bench),
                starting.go_on(),
                conversation.tell_on(),
                conversation.live_on(),
            )
        finally:
            await conversation.leave()
    return Completed(name=f"Took {conversation.taken}", message=f"{conversation.taken} new pieces of work came")


class _Starting:
    """Sees to it that all open work has a flow run, as many at once as there is room for."""

    def __init__(self, dispatcher: Dispatcher, desk: Desk, settings: Settings) -> None:
        self._dispatcher = dispatcher
        self._desk = desk
        self._settings = settings
        self._origin = origin_of(settings.coordinator.url) or ""
        self._one_look = asyncio.Lock()
        self._held_back: dict[str, float] = {}
        """Work that is given up and not told as failed, and when that was found, by a clock that never goes back."""

    async def go_on(self) -> NoReturn:
        """Look again and again."""
        while True:
            await self.has_room()
            await asyncio.sleep(_LOOK_SECONDS)

    async def has_room(self) -> bool:
        """Start what is open; whether more would fit. Without a word from Prefect it would not."""
        async with self._one_look:
            try:
                return await self._look()
            except (httpx.HTTPError, PrefectException) as error:
                _logger.warning("no flow run can be started now: %s", redact(f"{type(error).__name__}: {error}"))
                return False

    async def _look(self) -> bool:
        work = {self._key(handed): handed for handed in await asyncio.to_thread(self._desk.open)}
        jobs = [self._job(key, handed) for key, handed in work.items()]
        begun: set[str] = set()

        def note(started: Sequence[Job]) -> None:
            begun.update(job.key for job in started)

        await self._dispatcher.start(jobs, note)
        self._held_back = {key: found for key, found in self._held_back.items() if key in work}
        await self._give_up([(job.chain_id, work[job.chain_id], why) for job, why in self._dispatcher.given_up])
        return len(begun) == len(jobs) and await self._dispatcher.room() > 0

    async def _give_up(self, given_up: Sequence[tuple[str, Handed, str]]) -> None:
        """Tell that these failed, but those that may be answered: `reconcile` has a flow run see to them, which tells.

        Where that was tried in vain too often it is left for a person, as the job of any chain is.
        """
        now = time.monotonic()
        due = [each for each in given_up if now - self._held_back.get(each[0], -math.inf) >= _HELD_BACK_SECONDS]
        if not due:
            return
        works = [handed for _, handed, _ in due]
        answered = await asyncio.to_thread(_may_be_answered, self._settings, self._desk, works)
        for (key, handed, why), found in zip(due, answered, strict=True):
            if found is _Answered.ended:
                continue
            if found is _Answered.no:
                _logger.warning("job %s is given up: %s", handed.job_id, why)
                reports = failed(handed, f"given up: {why}", time.time())
                await asyncio.to_thread(self._desk.end, handed, reports, success=False)
                continue
            self._held_back[key] = now
            _logger.warning(
                "job %s is given up, and its answer may yet land: it is not told as failed; if this goes on, "
                "`millrace jobs --quarantined` has it: %s",
                handed.job_id,
                redact(why if found is _Answered.perhaps else f"{why}; {found}"),
            )

    def _key(self, handed: Handed) -> str:
        """What tells this taking of the work from others: each has flow runs of its own."""
        again = f"~{handed.times}" if handed.times else ""
        return f"{self._origin}/{handed.job_id}{again}"

    def _job(self, key: str, handed: Handed) -> Job:
        return Job(network=NETWORK, chain_id=key, job_id=handed.job_id)


async def _ask_until(
    stop: asyncio.Future[None], conversation: Conversation, starting: _Starting, bench: Workbench
) -> None:
    """Ask for work, one question at a time, until `stop` is done and the last question has its answer."""
    progress = Progress(bench.settings.data_dir)
    try:
        while not stop.done() and not await asyncio.to_thread(_is_drained, bench.settings):
            conversation.asks = await _is_able(bench, progress)
            if not conversation.asks:
                await asyncio.wait([stop], timeout=_PAUSE_SECONDS)
            elif await starting.has_room():
                await conversation.ask()
                if conversation.trouble:
                    progress.could_not_look(COORDINATOR_NAME, now=time.time(), trouble=conversation.trouble)
                else:
                    progress.looked(COORDINATOR_NAME, now=time.time(), head=None, pending=0, given_up=0)
                if conversation.pause_seconds:
                    await asyncio.wait([stop], timeout=conversation.pause_seconds)
            else:
                progress.full(COORDINATOR_NAME, now=time.time())
                await asyncio.wait([stop], timeout=_LOOK_SECONDS)
    finally:
        stop.cancel()


class _Answered(Enum):
    """What is known of work whose flow runs have all ended."""

    no = "no"
    perhaps = "perhaps"
    ended = "ended"  # the last of them has said how, after we looked


def _may_be_answered(settings: Settings, desk: Desk, works: Sequence[Handed]) -> list[_Answered | MillraceError]:
    """What is known of each; an error where that cannot be told."""
    found: list[_Answered | MillraceError] = []
    try:
        # Opened anew each time: another process of this machine may have moved what it has to a fleet's.
        with open_outbox(settings) as outbox:
            for handed in works:
                standing = desk.find(handed.job_id)
                if standing is None or standing.ended or standing.times != handed.times:
                    found.append(_Answered.ended)
                    continue
                try:
                    found.append(_Answered.perhaps if may_be_answered(outbox, standing) else _Answered.no)
                except OutboxDamaged as error:
                    found.append(error)
    except MillraceError as error:
        found += [error] * (len(works) - len(found))  # nor would it answer for the others
    return found


def _is_drained(settings: Settings) -> bool:
    """Whether there is nothing to ask for, to do or to tell any more."""
    if not DrainMark(settings.data_dir).is_set():
        return False
    desk = desk_of(settings)
    return not desk.open() and not desk.reports.waiting()


async def _is_able(bench: Workbench, progress: Progress) -> bool:
    """Whether the worker could do what it gets now: what a poll gives out is lost for everybody else."""
    if DrainMark(bench.settings.data_dir).is_set():
        return False
    desk: Desk = await bench.tool("desk")
    if not await asyncio.to_thread(desk.has_space):
        _logger.warning("no work is asked for: the disk with the data folder is full")
        return False
    try:
        await (await bench.tool("network")).affordable()
        await asyncio.to_thread(ensure_keeping, await bench.tool("runtime"))
    except Permanent:
        raise
    except MillraceError as error:
        why = redact(str(error))
        _logger.warning("no work is asked for: %s", why)
        progress.could_not_look(COORDINATOR_NAME, now=time.time(), trouble=why)
        return False
    return True
