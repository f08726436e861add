"""A thread that runs calls one after another, and how the event loop hears of their ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from contextvars import Context
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Lane:
    """A thread that runs calls one after another; `inline`: none, the caller runs them itself."""

    def __init__(self, name: str, *, inline: bool) -> None:
        self._queue: SimpleQueue[_Call[Any] | _Answered[Any] | None] = SimpleQueue()
        self._thread = None if inline else threading.Thread(target=self._serve, name=name, daemon=True)
        if self._thread:
            self._thread.start()

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. Cancelling the wait doesn't cancel the call."""
        if self._thread is None:
            return call()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Answered(call, loop, answer))
        return await answer

    async def run_for_writer(self, call: Callable[[], T]) -> T:
        """As `run`, a turn of the loop sooner. For a task of our own that nobody else looks at: see _Call."""
        if self._thread is None:
            return call()
        asked = _Call(call, asyncio.get_running_loop())
        self._queue.put(asked)
        return await asked

    async def stop(self) -> None:
        """Finish what was submitted; nothing may be submitted afterwards."""
        if self._thread is not None:
            await self.run(lambda: None)
            self._queue.put(None)
            self._thread.join()

    def _serve(self) -> None:
        while asked := self._queue.get():
            asked.make()
            del asked


class _Answered(Generic[T]):
    """A call in another thread, whose end a future tells."""

    __slots__ = ("_answer", "_call", "_loop")

    def __init__(
        self, call: Callable[[], T], loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T]
    ) -> None:
        self._call = call
        self._loop = loop
        self._answer = answer

    def make(self) -> None:
        """In the lane's thread: make the call, and have the loop tell."""
        value, error = None, None
        try:
            value = self._call()
        except BaseException as caught:  # noqa: BLE001 - it belongs to the caller
            error = caught
        with suppress(RuntimeError):  # the caller's loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._end, value, error)

    def _end(self, value: Any, error: BaseException | None) -> None:
        if self._answer.done():  # its waiter was cancelled
            return
        if error is None:
            self._answer.set_result(value)
        else:
            self._answer.set_exception(error)


class _Call(Generic[T]):
    """A call in another thread, to be awaited once, by a task.

    What a future would do, one turn of the loop sooner: the task goes on inside of the callback that brings the end of
    the call, where a future would only have that scheduled. It offers what tasks ask of a future, and not what others do
    who look at what a task waits for: only the engine's writer may await one.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_call",
        "_context",
        "_error",
        "_is_done",
        "_loop",
        "_value",
        "_wake",
    )

    def __init__(self, call: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._call = call
        self._loop = loop
        self._is_done = False
        self._value: T
        self._error: BaseException | None = None
        self._wake: Callable[[_Call[T]], object] | None = None
        self._context: Context | None = None

    def make(self) -> None:
        """In the lane's thread: make the call, and have the loop go on."""
        value, error = None, None
        try:
            value = self._call()
        except BaseException as caught:  # noqa: BLE001 - it belongs to the caller
            error = caught
        with suppress(RuntimeError):  # the caller's loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._end, value, error)

    def __await__(self) -> Generator[_Call[T], None, T]:
        self._asyncio_future_blocking = True
        yield self
        return self.result()

    def _end(self, value: Any, error: BaseException | None) -> None:
        if self._is_done:  # its waiter was cancelled
            return
        self._is_done = True
        self._value, self._error = value, error
        if self._wake is not None and self._context is not None:
            self._context.run(self._wake, self)

    # --- what a task asks of what it waits for ----------------------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Callable[[_Call[T]], object], *, context: Context) -> None:
        self._wake, self._context = wake, context

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value

    def cancel(self, msg: str | None = None) -> bool:
        if self._is_done:
            return False
        self._is_done = True
        self._error = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        assert self._wake is not None
        self._loop.call_soon(self._wake, self, context=self._context)
        return True
