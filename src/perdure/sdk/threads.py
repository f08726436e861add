"""Threads for user code: they don't keep a process alive that has been told to end, as those of the standard library do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Condition, Thread, current_thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

IDLE_SECONDS_MAX = 10.0
"""How long a thread waits for more to do before it ends."""


class DaemonThreads(Executor):
    """An executor whose threads are daemons: the interpreter's exit doesn't wait for the calls under way.

    Threads are started when they are needed, and reused when they are idle.

    Args:
        threads_max: how many calls may run at once, the others queue. None: as many as there are, none waits.
        name: what the threads are called, with a number.
    """

    def __init__(self, threads_max: int | None, name: str) -> None:
        self._threads_max = threads_max
        self._name = name
        self._changed = Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: set[Thread] = set()
        self._started = 0
        self._idle = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn(*args, **kwargs)` called in a thread.

        Raises:
            RuntimeError: it was shut down, or no thread can be started.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("no calls are taken after shutdown")
            self._calls.append((future, lambda: fn(*args, **kwargs)))
            if len(self._calls) <= self._idle:
                self._changed.notify()
            elif self._threads_max is None or len(self._threads) < self._threads_max:
                try:
                    self._start()
                except RuntimeError:
                    self._calls.pop()
                    raise
        return future

    def _start(self) -> None:
        self._started += 1
        thread = Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)
        thread.start()
        self._threads.add(thread)  # it takes a call when the lock is free

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            future, call = taken
            if future.set_running_or_notify_cancel():
                _settle(future, call)
            del taken, future, call  # nothing of a call outlives it while the thread waits for the next

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._calls or self._closed, IDLE_SECONDS_MAX)
            self._idle -= 1
            if self._calls:
                return self._calls.popleft()
            self._threads.discard(current_thread())
            return None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; `cancel_futures`: nor begin those that queue. `wait`: return when all threads have ended."""
        with self._changed:
            self._closed = True
            threads = list(self._threads)
            dropped = list(self._calls) if cancel_futures else []
            if cancel_futures:
                self._calls.clear()
            self._changed.notify_all()
        for future, _ in dropped:
            future.cancel()
        if wait:
            for thread in threads:
                thread.join()


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to whom waits for the future
        future.set_exception(error)
    else:
        future.set_result(result)
