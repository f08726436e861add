"""The seeded scheduler: an event loop that runs several *processes* under virtual time and can kill or freeze each.

Theory of operation. Every callback belongs to a process: the one named in the context that it runs in, or else the one
whose callback scheduled it. Each process has a queue of its own, first in, first out, as in any event loop; which
process moves next is drawn. Inside a process a real loop leaves two things open, and so does this one: when a timer
fires (up to `jitter` late, each by another amount) and how much time passes while callbacks run (`drift`). So every
interleaving here is one that real loops can show, and none is impossible there.

A killed process's callbacks never run again: that is what a dying process looks like to the rest of the world, and it
can happen between any two callbacks. A frozen one's wait until it is thawed, as after SIGSTOP.

Functions given to `run_in_executor` run in the loop after a drawn moment: there are no threads.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from struct import Struct
from typing import Any, TypeVar, cast
from zlib import crc32

from perdure.testing.virtual_clock import VirtualTimeLoop

T = TypeVar("T")

HARNESS = 0
"""The process of the simulation itself: never killed, never frozen."""

_PROCESS: ContextVar[int] = ContextVar("simulated_process")
_STEP = Struct("dHI")


class _Call(asyncio.Handle):
    __slots__ = ("process",)
    process: int


class _Timer(asyncio.TimerHandle):
    __slots__ = ("process",)
    process: int


class _Task(asyncio.Task[T]):
    """A task whose place in sets (asyncio keeps groups in some) isn't that of its address."""

    __slots__ = ("_number",)

    def __init__(self, coro: Coroutine[Any, Any, T], number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(VirtualTimeLoop):
    """See the module.

    Args:
        chance: all that is drawn is drawn from it.
        jitter: how late timers fire at most, seconds.
        drift: seconds that pass at most in one turn of the loop.

    Attributes:
        digest: a number for all that has happened so far: what ran when, in which process.
        steps: callbacks run so far.
        process: whose callback runs now.
    """

    def __init__(self, chance: random.Random, *, jitter: float = 0.0, drift: float = 0.0) -> None:
        super().__init__()
        self._chance = chance
        self._jitter = jitter
        self._drift = drift
        self._queues = _Queues(self)
        self._ready = self._queues
        self._tasks: dict[int, list[asyncio.Task[Any]]] = {}
        self._alarms: dict[int, tuple[int, Callable[[], None]]] = {}
        self._is_unwinding = False
        self._numbers = itertools.count()
        self.set_task_factory(self._make_task)
        self.process = HARNESS
        self.digest = 0
        self.steps = 0

    # --- processes ------------------------------------------------------------------------------------------------------

    def spawn(self, process: int, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task in a process."""
        context = copy_context()
        context.run(_PROCESS.set, process)
        with self.acting_as(process):
            return self.create_task(coroutine, context=context)

    @contextmanager
    def acting_as(self, process: int) -> Generator[None]:
        """What is scheduled inside, by code without a context of its own, belongs to `process`."""
        before, self.process = self.process, process
        try:
            yield
        finally:
            self.process = before

    def kill(self, process: int) -> None:
        """No callback of the process runs any more."""
        if not self._is_unwinding:
            self._queues.bury(process)
        self._alarms.pop(process, None)

    def freeze(self, process: int) -> None:
        self._queues.frozen.add(process)

    def thaw(self, process: int) -> None:
        self._queues.frozen.discard(process)

    def alarm(self, process: int, steps: int, callback: Callable[[], None]) -> None:
        """Call `callback` once, between two callbacks, after `steps` more callbacks of `process`."""
        self._alarms[process] = (steps, callback)

    def unwind(self, seconds: float = 30.0) -> None:
        """Once all is over: cancel every task that is left, the dead processes' too, and let them come to an end.

        Only so that nothing is left for the garbage collector to complain of; it can have no effect that counts.
        """
        self._is_unwinding = True
        self._queues.revive()
        self._alarms.clear()
        self._drift = 0.05  # some of what died in the middle looks on for ever: time has to pass all the same
        for _ in range(3):  # what ends may begin something
            left = [task for tasks in self._tasks.values() for task in tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            self.run_until_complete(self.spawn(HARNESS, _wait(left, seconds)))
        for task in [task for tasks in self._tasks.values() for task in tasks]:
            task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]
            if not task.done():
                with suppress(RuntimeError):
                    task.get_coro().close()
            elif not task.cancelled():
                task.exception()

    # --- the event loop -------------------------------------------------------------------------------------------------

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_closed()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        if self._jitter:
            when += self._chance.random() * self._jitter
        timer = _Timer(when, callback, args, self, context)
        timer.process = self._process_of(context)
        scheduled = cast("list[asyncio.TimerHandle]", self._scheduled)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        heapq.heappush(scheduled, timer)
        timer._scheduled = True
        return timer

    def _call_soon(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.Handle:
        call = _Call(callback, args, self, context)
        call.process = self._process_of(context)
        self._queues.append(call)
        return call

    def _process_of(self, context: Context | None) -> int:
        return _PROCESS.get(self.process) if context is None else context.get(_PROCESS, self.process)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return _Task(coro, next(self._numbers), loop=loop, **options)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = super().create_task(coro, **options)
        # Kept: the garbage collector would close a dead process's coroutines, and run what they have in `finally`.
        tasks = self._tasks.setdefault(self._process_of(options.get("context")), [])
        tasks.append(task)
        if len(tasks) & 1023 == 0:
            tasks[:] = [task for task in tasks if not task.done()]
        return task

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def call() -> None:
            if future.cancelled():  # as a call that no thread has taken yet
                return
            try:
                value = func(*args)
            except Exception as error:  # noqa: BLE001 - it belongs to whoever awaits the future
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(value)

        self.call_later(self._chance.choice((0, 0.001, 0.05)), call)
        return future

    def _run_once(self) -> None:
        if self._drift:
            self._now += self._chance.random() * self._drift
        super()._run_once()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    def _ran(self, call: _Call | _Timer) -> None:
        """`call` is about to be run."""
        self.process = process = call.process
        self.steps += 1
        self.digest = crc32(_STEP.pack(self.time(), process, len(self._queues)), self.digest)
        alarm = self._alarms.get(process)
        if alarm is not None:
            steps, callback = alarm
            if steps > 0:
                self._alarms[process] = (steps - 1, callback)
            else:
                del self._alarms[process]
                callback()


async def _wait(tasks: list[asyncio.Task[Any]], seconds: float) -> None:
    await asyncio.wait(tasks, timeout=seconds)


class _Queues:
    """What is ready, by process: stands in for the deque `BaseEventLoop._ready`."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.frozen: set[int] = set()
        self._loop = loop
        self._queues: dict[int, deque[Any]] = {}
        self._dead: dict[int, list[Any]] = {}

    def append(self, call: Any) -> None:
        process = getattr(call, "process", HARNESS)  # the loop's own handles, for its sockets
        dead = self._dead.get(process)
        if dead is not None:
            dead.append(call)
            return
        queue = self._queues.get(process)
        if queue is None:
            queue = self._queues[process] = deque()
        queue.append(call)

    def popleft(self) -> Any:
        movable = [process for process, queue in self._queues.items() if queue and process not in self.frozen]
        if not movable:  # all that was ready has been killed or frozen in the middle of the turn
            return _nothing(self._loop)
        loop = self._loop
        process = movable[0] if len(movable) == 1 else loop._chance.choice(movable)  # pyright: ignore[reportPrivateUsage]
        call = self._queues[process].popleft()
        if not call._cancelled and isinstance(call, (_Call, _Timer)):
            loop._ran(call)  # pyright: ignore[reportPrivateUsage]
            if process in self._dead:  # the alarm killed it
                self._dead[process].append(call)
                return _nothing(loop)
        return call

    def __len__(self) -> int:
        return sum(len(queue) for process, queue in self._queues.items() if process not in self.frozen)

    def __bool__(self) -> bool:
        return any(queue for process, queue in self._queues.items() if process not in self.frozen)

    def clear(self) -> None:
        self._queues.clear()
        self._dead.clear()

    def bury(self, process: int) -> None:
        self._dead.setdefault(process, []).extend(self._queues.pop(process, ()))

    def revive(self) -> None:
        """So that the tasks of dead processes can be cancelled in an orderly way."""
        dead, self._dead = self._dead, {}
        self.frozen.clear()
        for calls in dead.values():
            for call in calls:
                self.append(call)


def _nothing(loop: asyncio.AbstractEventLoop) -> asyncio.Handle:
    call = asyncio.Handle(lambda: None, (), loop)
    call.cancel()
    return call
