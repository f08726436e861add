"""Virtual time: an event loop whose clock jumps to the next timer when nothing can happen before it.

Hours of waiting cost nothing, and what a test sees doesn't depend on how fast the machine is. The loop is an ordinary
selector loop in all else: sockets, threads and signals work. Time does not jump while somebody is at work whom the loop
can't see: while a call given to `run_in_executor` or `asyncio.to_thread` is under way, or inside `hold()`. Then it
stands still; if that takes more than `PATIENCE_SECONDS`, it passes as on a real clock, so that a thread which waits for
a timer of the loop isn't stuck.

Example:
    async def main() -> None:
        clock = VirtualClock()
        await clock.advance(timedelta(days=3))      # at once

    run_virtual(main())
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from perdure.clock import Instant, to_instant

T = TypeVar("T")

PATIENCE_SECONDS = 1.0
"""Real seconds for which time stands still while threads work; after that it passes at its usual pace."""

START = datetime(2030, 1, 1, tzinfo=UTC)
"""What `VirtualClock` shows when its loop's time is 0."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop under virtual time. `time()` starts at 0 and passes only as the module describes.

    Args:
        idle_before_jump: real seconds in which nothing may happen before time jumps. 0 is right as long as all that the
            loop waits for is its own timers and threads it knows of; a test that talks to another process over a
            socket needs as long as an answer may take.
    """

    def __init__(self, *, idle_before_jump: float = 0.0) -> None:
        self._now = 0.0
        self._idle_before_jump = idle_before_jump
        self._work = 0
        self._work_lock = threading.Lock()
        self._frozen_since: float | None = None
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As in any loop; time doesn't jump until the call has ended, even if the future is cancelled before."""
        if executor is None:
            executor = self._threads()
        self._begin_work()
        try:
            call = executor.submit(func, *args)
        except BaseException:
            self._end_work()
            raise
        future = asyncio.wrap_future(call, loop=self)
        call.add_done_callback(
            lambda _: self._end_work()
        )  # after wrap_future's: the result is on its way before time is
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        with self.hold():  # its threads are joined in one that the loop doesn't know of
            await super().shutdown_default_executor(*(() if timeout is None else (timeout,)))

    @contextmanager
    def hold(self) -> Generator[None]:
        """Keep time from jumping meanwhile. For work the loop can't see; may be entered and left in any thread."""
        self._begin_work()
        try:
            yield
        finally:
            self._end_work()

    def _threads(self) -> Executor:
        threads: Executor | None = getattr(self, "_own_threads", None)
        if threads is None:
            self._own_threads = threads = ThreadPoolExecutor(thread_name_prefix="virtual-time")
            self.set_default_executor(threads)
        return threads

    def _begin_work(self) -> None:
        with self._work_lock:
            self._work += 1

    def _end_work(self) -> None:
        try:
            self.call_soon_threadsafe(self._note_end_of_work)
        except RuntimeError:  # the loop was closed meanwhile
            self._note_end_of_work()

    def _note_end_of_work(self) -> None:
        with self._work_lock:
            self._work -= 1
        self._frozen_since = None

    def _pass_time(self, seconds: float, select: Callable[[float], list[Any]]) -> list[Any]:
        """Nothing is ready and the next timer is due in `seconds`: let time pass until then or until something happens."""
        happened = select(self._idle_before_jump)
        if happened:
            return happened
        if self._work == 0:
            self._now += seconds
            return happened
        began = time.monotonic()
        if self._frozen_since is None:
            self._frozen_since = began
        patience = PATIENCE_SECONDS - (began - self._frozen_since)
        happened = select(patience if patience > 0 else seconds)
        if patience <= 0:
            self._now += min(seconds, time.monotonic() - began)
        return happened


class _JumpingSelector(selectors.DefaultSelector):
    """Asks its loop how long to wait in earnest."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        return self._loop._pass_time(timeout, super().select)  # pyright: ignore[reportPrivateUsage]


class VirtualClock:
    """The time of a loop as a `perdure.clock.Clock`: `start` when the loop's time is 0. May be read from any thread.

    Args:
        start: an aware datetime.
        loop: the running one if not given.
    """

    def __init__(self, start: datetime = START, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop if loop is not None else asyncio.get_running_loop()
        self._start_ms = to_instant(start)

    def now(self) -> Instant:
        return Instant(self._start_ms + round(self._loop.time() * 1000))

    async def advance(self, delta: timedelta | float) -> None:
        """Let time pass (timedelta or seconds). All that falls due within it happens on the way, in its order."""
        await asyncio.sleep(delta.total_seconds() if isinstance(delta, timedelta) else delta)


def run_virtual(main: Coroutine[Any, Any, T], *, idle_before_jump: float = 0.0) -> T:
    """`asyncio.run` under virtual time."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(idle_before_jump=idle_before_jump)) as runner:
        return runner.run(main)
