"""The one place where a stage function becomes a Prefect task.

A stage is a plain function: its positional parameters are its inputs, its keyword-only parameters are tools that
the workbench hands it. The task made of it has a name, retries by the one retry policy, and a persisted result
under a key made of the job's key, the stage's name and the inputs: tools are not part of it. The result of a shared
stage is kept without the job's key, and is everybody's who has the same inputs.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.locking.protocol import LockManager
from prefect.results import ResultStore
from prefect.states import Failed
from prefect.transactions import AsyncTransaction, IsolationLevel, get_transaction
from pydantic_core import to_jsonable_python

from flows.lease import DISK_FULL
from flows.locks.choice import Locks
from flows.workbench import current_workbench
from millrace.errors import Declined, MillraceError, Transient
from millrace.logs import located
from millrace.redaction import redact, redact_error
from millrace.retry import (
    ATTEMPTS,
    BACKOFF_SECONDS,
    JITTER_FACTOR,
    LONGEST_REQUESTED_WAIT_SECONDS,
    is_retriable,
)
from millrace.text import printable

R = TypeVar("R")

_logger = logging.getLogger("millrace.stage")


class Defect(MillraceError):
    """A stage raised something that is not in the error tree: a fault of ours, never retried."""


class Stage(Generic[R]):
    """A stage function as a Prefect task; called with the job's key and the stage's inputs."""

    def __init__(
        self,
        name: str,
        function: Callable[..., R | Awaitable[R]],
        *,
        cached: bool = True,
        shared: bool = False,
        tell: Callable[[R], str] = lambda _: "done",
        holds: Callable[[R], Awaitable[bool]] | None = None,
    ) -> None:
        """`name` is what the Prefect UI shows; `cached=False` for stages that must look anew every time.

        `shared=True` for work that is the same for every job: of all flow runs that keep their results in one place
        and use the same locks, one does it, and the others wait for its result. What it returns must be of use on
        another machine, and its inputs say all that it depends on. A failure is not shared: who waited tries itself.

        `tell` puts a result into words for the log. `holds` says whether a kept result is still true: one that names
        something outside itself may outlive it.
        """
        if shared and not cached:
            raise ValueError(f"{name}: what is not kept cannot be shared")
        self.name = name
        self.function = function
        self._shared = shared
        self._tell = tell
        self._holds = holds
        self._tools = _keyword_only(function)
        # Without tags: for a task that has some, the server is asked each time whether they are limited.
        self.task: Task[..., Any] = task(
            name=name,
            retries=ATTEMPTS - 1,
            retry_delay_seconds=list(BACKOFF_SECONDS),
            retry_jitter_factor=JITTER_FACTOR,
            retry_condition_fn=_may_retry,
            persist_result=cached,
            result_serializer="json",
            cache_policy=self._kept_under_key() if cached else NO_CACHE,
        )(self._run)

    async def __call__(self, job_key: str, *inputs: object) -> R:
        """Run the stage as a task of the current flow run, or take the result it already has."""
        started = time.monotonic()
        try:
            async with self._task(job_key) as ready:
                state = await ready(job_key, *inputs, return_state=True)
                result = cast("R", await state.aresult())
                if state.name == "Cached" and self._holds is not None and not await self._holds(result):
                    state = await ready.with_options(refresh_cache=True)(job_key, *inputs, return_state=True)
                    result = cast("R", await state.aresult())
                elif state.name == "Cached":
                    current_workbench().reused.add(self.name)
                    if self._shared:
                        _logger.info("done before: %s", printable(self._tell(result)))
                return result
        finally:
            seconds = current_workbench().stage_seconds
            seconds[self.name] = round(seconds.get(self.name, 0.0) + time.monotonic() - started, 3)

    @asynccontextmanager
    async def _task(self, job_key: str) -> AsyncIterator[Task[..., Any]]:
        """The task to call; that of a shared stage with locks that end with the block."""
        if not self._shared:
            yield self.task
            return
        locks: Locks = await current_workbench().tool("locks")
        with located(job_key, self.name):  # the wait for a lock is before `_run`
            async with locks(job_key) as held:
                try:
                    yield self.task.with_options(cache_policy=self._kept_under_key(held))
                except MillraceError as error:
                    _finish(error, job_key, self.name)
                    raise

    async def _run(self, job_key: str, *inputs: object) -> R | State[Any]:
        with located(job_key, self.name):
            try:
                done = await self._done_meanwhile(job_key, inputs)
                if done is not None:
                    return done
                bench = current_workbench()
                with _full_disk_told():
                    tools = {name: await bench.tool(name) for name in self._tools}
                    began = time.monotonic()
                    result = await _call(self.function, inputs, tools)
                bench.worked_seconds += time.monotonic() - began
                _logger.info("%s", printable(self._tell(result)))
                return result
            except Declined as error:
                _finish(error, job_key, self.name)
                _keep_nothing()
                return Failed(name="Declined", message=f"{error.reason.value}: {error}", data=error)
            except MillraceError as error:
                _finish(error, job_key, self.name)
                await _wait_as_asked(error)
                raise
            except Exception as error:
                _logger.exception("stage %s failed in a way it should not", self.name)
                raise Defect(
                    redact(f"{type(error).__name__}: {error}"),
                    job=job_key,
                    stage=self.name,
                    hint="a defect of Millrace: the log has the traceback, please report it",
                ) from None

    async def _done_meanwhile(self, job_key: str, inputs: tuple[object, ...]) -> R | None:
        """What another has put in the place of a shared result that held no longer, while we waited for the lock."""
        context = TaskRunContext.get()
        if not self._shared or self._holds is None or context is None or not context.task.refresh_cache:
            return None
        # A new store: the run's own remembers what it read before, and would wait for the lock that is ours.
        store = ResultStore(
            result_storage=context.result_store.result_storage, serializer=context.result_store.serializer
        )
        key = self._key(job_key, inputs)
        if not await store.aexists(key):
            return None
        kept = cast("R", (await store.aread(key)).result)
        return kept if await self._holds(kept) else None

    def _kept_under_key(self, locks: LockManager | None = None) -> CacheKeyFnPolicy:
        """Prefect's policy for keeping the result; with `locks`, whoever has the key's lock makes it alone."""
        return CacheKeyFnPolicy(
            cache_key_fn=self._cache_key,
            isolation_level=IsolationLevel.SERIALIZABLE if locks is not None else None,
            lock_manager=locks,
        )

    def _cache_key(self, context: TaskRunContext, parameters: dict[str, Any]) -> str:
        return self._key(parameters["job_key"], parameters["inputs"])

    def _key(self, job_key: str, inputs: tuple[object, ...]) -> str:
        return result_key("" if self._shared else job_key, self.name, *inputs)


def result_key(job_key: str, stage: str, *inputs: object) -> str:
    """The name under which a stage's result is kept: a hash, because keys become file names.

    Without a job key it is the name of a result that all jobs share.
    """
    text = json.dumps([job_key, stage, to_jsonable_python(inputs)], sort_keys=True, separators=(",", ":"))
    return f"millrace-{hashlib.sha256(text.encode()).hexdigest()}"


def _keyword_only(function: Callable[..., object]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty)


def _may_retry(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, BaseException) and is_retriable(state.data)


@contextmanager
def _full_disk_told() -> Iterator[None]:
    """A full disk is no defect of ours, and passes: Transient, with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise Transient(
            f"nothing can be written: {error.strerror}", hint="free some space where MILLRACE_DATA_DIR is"
        ) from None


def _keep_nothing() -> None:
    """Keep Prefect from storing the error in a returned state as if it were the stage's result."""
    transaction = get_transaction()
    if transaction is not None:
        transaction.write_on_commit = False


def _finish(error: MillraceError, job_key: str, stage: str) -> None:
    """Say where it happened, and hide what must not be told: error texts become state messages."""
    error.located(job=job_key, stage=stage)
    redact_error(error)


async def _wait_as_asked(error: MillraceError) -> None:
    """Wait as long as the other side asked for, beyond the wait that the retry policy adds."""
    wished = error.retry_after_seconds if isinstance(error, Transient) else None
    if wished:
        transaction = get_transaction()
        if isinstance(transaction, AsyncTransaction):
            await transaction.rollback()  # lets the lock of shared work go: another may be told otherwise
        _logger.info("told to wait %.0f s before the next try", wished)
        await asyncio.sleep(min(wished, LONGEST_REQUESTED_WAIT_SECONDS))


async def _call(function: Callable[..., R | Awaitable[R]], inputs: tuple[object, ...], tools: dict[str, Any]) -> R:
    if inspect.iscoroutinefunction(function):
        return cast("R", await function(*inputs, **tools))
    return await _in_thread(cast("Callable[[], R]", lambda: function(*inputs, **tools)))


async def _in_thread(compute: Callable[[], R]) -> R:
    """Run `compute` beside the event loop, in a thread that never keeps a dying process alive."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def deliver(result: R | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(cast("R", result))

    def run() -> None:
        try:
            outcome: tuple[R | None, BaseException | None] = (compute(), None)
        except BaseException as error:  # noqa: BLE001 - delivered to whoever awaits
            outcome = (None, error)
        loop.call_soon_threadsafe(deliver, *outcome)

    threading.Thread(target=run, name="millrace-stage", daemon=True).start()
    return await done
