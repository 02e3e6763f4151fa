"""The one place where a stage function becomes a Prefect task.

A stage is a plain function: its positional parameters are its inputs, its keyword-only parameters are tools that
the workbench hands it. The task made of it has a name, retries by the one retry policy, and a persisted result
under a key made of the job's key, the stage's name and the inputs: tools are not part of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.states import Failed
from pydantic_core import to_jsonable_python

from flows.workbench import current_workbench
from millrace.errors import Declined, MillraceError, Transient
from millrace.logs import located
from millrace.redaction import redact, redact_error
from millrace.retry import ATTEMPTS, BACKOFF_SECONDS, JITTER_FACTOR, is_retriable
from millrace.text import printable

R = TypeVar("R")

_LONGEST_REQUESTED_WAIT_SECONDS = 300.0
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
        tell: Callable[[R], str] = lambda _: "done",
        holds: Callable[[R], Awaitable[bool]] | None = None,
    ) -> None:
        """`name` is what the Prefect UI shows; `cached=False` for stages that must look anew every time.

        `tell` puts a result into words for the log. `holds` says whether a kept result is still true: one that names
        something outside itself may outlive it.
        """
        self.name = name
        self.function = function
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
            cache_policy=CacheKeyFnPolicy(cache_key_fn=self._cache_key) if cached else NO_CACHE,
        )(self._run)

    async def __call__(self, job_key: str, *inputs: object) -> R:
        """Run the stage as a task of the current flow run, or take the result it already has."""
        started = time.monotonic()
        try:
            state = await self.task(job_key, *inputs, return_state=True)
            result = cast("R", await state.aresult())
            if state.name == "Cached" and self._holds is not None and not await self._holds(result):
                state = await self.task.with_options(refresh_cache=True)(job_key, *inputs, return_state=True)
                result = cast("R", await state.aresult())
            return result
        finally:
            seconds = current_workbench().stage_seconds
            seconds[self.name] = round(seconds.get(self.name, 0.0) + time.monotonic() - started, 3)

    async def _run(self, job_key: str, *inputs: object) -> R | State[Any]:
        with located(job_key, self.name):
            try:
                bench = current_workbench()
                tools = {name: await bench.tool(name) for name in self._tools}
                began = time.monotonic()
                result = await _call(self.function, inputs, tools)
                bench.worked_seconds += time.monotonic() - began
                _logger.info("%s", printable(self._tell(result)))
                return result
            except Declined as error:
                _finish(error, job_key, self.name)
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

    def _cache_key(self, context: TaskRunContext, parameters: dict[str, Any]) -> str:
        return result_key(parameters["job_key"], self.name, *parameters["inputs"])


def result_key(job_key: str, stage: str, *inputs: object) -> str:
    """The name under which a stage's result is kept: a hash, because keys become file names."""
    text = json.dumps([job_key, stage, to_jsonable_python(inputs)], sort_keys=True, separators=(",", ":"))
    return f"millrace-{hashlib.sha256(text.encode()).hexdigest()}"


def _keyword_only(function: Callable[..., object]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty)


def _may_retry(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, BaseException) and is_retriable(state.data)


def _finish(error: MillraceError, job_key: str, stage: str) -> None:
    """Say where it happened, and hide what must not be told: error texts become state messages."""
    error.located(job=job_key, stage=stage)
    redact_error(error)


async def _wait_as_asked(error: MillraceError) -> None:
    """Wait as long as the other side asked for, beyond the wait that the retry policy adds."""
    wished = error.retry_after_seconds if isinstance(error, Transient) else None
    if wished:
        _logger.info("told to wait %.0f s before the next try", wished)
        await asyncio.sleep(min(wished, _LONGEST_REQUESTED_WAIT_SECONDS))


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
