"""`io` without durability: plain asyncio, nothing ever put down. What perdure's results are held against.

Only within one execution is anything remembered: a body that is tried again finds what its children returned before.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

from perdure import Retry, TaskError
from perdure.errors import qualified_name
from perdure.testing.virtual_clock import START

UNWIND_SECONDS = 5


class Ended(BaseException):
    """Code goes on after the body that it was started in has ended."""


class Scope:
    """A running body: the asyncio tasks started in it end with it."""

    def __init__(self, path: str = "", attempts: int = 0) -> None:
        self.path = path
        self.attempts = attempts
        self.tasks: list[asyncio.Task[Any]] = []
        self.ended = False

    async def close(self) -> None:
        left = [task for task in self.tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=UNWIND_SECONDS)
        self.ended = True


_scope: ContextVar[Scope] = ContextVar("direct_scope")


def current_task() -> Any:
    return SimpleNamespace(attempts=_scope.get().attempts)


class DirectIO:
    """The part of `IO` that programs use. `noise` is awaited before and after everything."""

    is_unwinding = False

    def __init__(self, noise: Callable[[], Awaitable[None]]) -> None:
        self._noise = noise
        self._known: dict[str, Any] = {}

    async def run_task(
        self,
        key: Any,
        fn: Callable[..., Any],
        *args: Any,
        retry: Retry | None = None,
        timeout: float | None = None,
    ) -> Any:
        path = await self._enter(key)
        if path in self._known:
            return self._recall(path)
        attempts = 0
        while True:
            attempts += 1
            try:
                value = await self._attempt(Scope(path, attempts), fn, args, timeout)
            except Exception as error:
                delay = None
                if retry is not None and not isinstance(error, TaskError):
                    delay = retry.next_delay_ms(attempts, 0)
                if delay is None:
                    self._known[path] = _task_error(key, error)
                    break
                await asyncio.sleep(delay / 1000)
            else:
                self._known[path] = value
                break
        await self._noise()
        return self._recall(path)

    async def _attempt(
        self, scope: Scope, fn: Callable[..., Any], args: tuple[Any, ...], timeout: float | None
    ) -> Any:
        token = _scope.set(scope)
        try:
            async with asyncio.timeout(timeout):
                if inspect.iscoroutinefunction(fn):
                    return await fn(*args)
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(None, partial(copy_context().run, fn, *args))
        finally:
            _scope.reset(token)
            await scope.close()

    async def wait(self, key: Any, duration: timedelta) -> None:
        path = await self._enter(key)
        if path not in self._known:
            await asyncio.sleep(duration.total_seconds())
            self._known[path] = None
            await self._noise()

    async def wait_until(self, key: Any, moment: datetime) -> None:
        await self.wait(key, moment - _now())

    @asynccontextmanager
    async def timeout(self, key: Any, duration: timedelta) -> AsyncIterator[None]:
        path = f"{_scope.get().path}/{key}"
        seconds = {"in time": None, "timed out": 0, None: duration.total_seconds()}[self._known.get(path)]
        try:
            async with asyncio.timeout(seconds):
                yield
            self._known[path] = "in time"
        except TimeoutError:
            self._known[path] = "timed out"
            raise

    async def now(self, key: Any) -> datetime:
        return self._known.setdefault(await self._enter(key), _now())

    async def uuid(self, key: Any) -> uuid.UUID:
        return self._known.setdefault(await self._enter(key), uuid.uuid4())

    async def random(self, key: Any) -> float:
        return self._known.setdefault(await self._enter(key), random.random())

    async def yield_(self, key: Any) -> None:
        await self._enter(key)

    async def parallel(self, key: Any, items: list[Any], fn: Callable[[Any, int], Any]) -> list[Any]:
        async def one(item: Any, index: int) -> Any:
            return await fn(item, index)

        async def all_items() -> list[Any]:
            tasks = [self.run_task(f"[{index}]", one, item, index) for index, item in enumerate(items)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            return results

        return await self.run_task(key, all_items)

    async def _enter(self, key: Any) -> str:
        scope = _scope.get()
        if scope.ended:
            raise Ended
        await self._noise()
        return f"{scope.path}/{key}"

    def _recall(self, path: str) -> Any:
        value = self._known[path]
        if isinstance(value, TaskError):
            raise value
        return value


def _now() -> datetime:
    return START + timedelta(seconds=asyncio.get_running_loop().time())


def _task_error(key: Any, error: Exception) -> TaskError:
    if isinstance(error, TaskError):
        name, message, types = error.error_name, error.error_message, error.error_types
    else:
        name, message = type(error).__name__, str(error)
        types = [qualified_name(cls) for cls in type(error).__mro__ if issubclass(cls, BaseException)]
    return TaskError(key=key, error_name=name, error_message=message, error_types=types)


async def run_directly(
    main: Callable[[DirectIO], Awaitable[Any]], noise: Callable[[], Awaitable[None]]
) -> Any:
    """What `main(io)` returns, as a run function does: the branches that it leaves behind end with it."""
    root = Scope()
    loop = asyncio.get_running_loop()

    def make_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        _scope.get(root).tasks.append(task)
        return task

    _scope.set(root)
    previous = loop.get_task_factory()
    loop.set_task_factory(make_task)
    try:
        return await main(DirectIO(noise))
    finally:
        await root.close()
        loop.set_task_factory(previous)
