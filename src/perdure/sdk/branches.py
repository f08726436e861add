"""What each asyncio task of a run is waiting for: the facts that decide whether a run can be put down.

A run is made of branches, one per asyncio task that its code started. `BranchWatch` learns of them through the event
loop's task factory, and of the timers they arm through `call_at`/`call_later`; both wrap what was there before and can
be taken off again. Everything that isn't of a run passes through untouched.

This is the one module that knows asyncio's insides; where it can't tell, it says so ("foreign") and the run stays in
memory a while longer. That is always safe.
"""

from __future__ import annotations

import asyncio
from asyncio import taskgroups
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any

from .scope import Scope, current_scope

if TYPE_CHECKING:
    from .execution import Execution
    from .stage import Stage

_TASKGROUPS = taskgroups.__file__
_TASKS = asyncio.tasks.__file__
_PRIMITIVES = frozenset({asyncio.locks.__file__, asyncio.queues.__file__})
_GATHERING = getattr(asyncio.tasks, "_GatheringFuture")  # noqa: B009 (private: the type of what gather() returns)


class Branch:
    """An asyncio task of a run.

    Attributes:
        birth: the scope it was started in.
        bodies: scopes of task bodies that it is inside of now, innermost last.
        refusals: io calls it made after the end of the execution.
        dismissed: the executor itself has cancelled it, because what it belongs to has ended.
        used_io: whether it ever called io; one that did not, started in a body, may be a library's own.
        is_main: it is that of the run function.
    """

    __slots__ = ("birth", "bodies", "dismissed", "is_main", "refusals", "task", "used_io")

    def __init__(self, task: asyncio.Task[Any], birth: Scope) -> None:
        self.task = task
        self.birth = birth
        self.bodies: list[Scope] | None = None  # made when it is first inside of one
        self.dismissed = False
        self.used_io = False
        self.refusals = 0
        self.is_main = False

    def enter(self, body: Scope) -> None:
        """Its code is inside of a body now."""
        if self.bodies is None:
            self.bodies = [body]
        else:
            self.bodies.append(body)

    def leave(self, body: Scope) -> None:
        assert self.bodies is not None
        self.bodies.remove(body)

    def dismiss(self) -> None:
        """Cancel it: what it belongs to has ended."""
        self.dismissed = True
        self.task.cancel()

    @property
    def scope(self) -> Scope:
        """The scope its code is in now."""
        return self.bodies[-1] if self.bodies else self.birth

    @property
    def is_stray(self) -> bool:
        """Whether it outlived the body it was started in without ever using io: none of the run's business."""
        return self.birth.ended and not self.used_io and self.birth.operation is not None


class OperationFuture(asyncio.Future[Any]):
    """What a branch awaits inside an io call. A cancellation from outside makes the branch runnable at once.

    Attributes:
        is_certain: it is recorded that the operation completed, whatever cancellation was asked for meanwhile (its body
            absorbed it): so it does on replay.
    """

    __slots__ = ("branch", "is_certain")

    branch: Branch
    is_certain: bool

    def cancel(self, msg: Any | None = None) -> bool:
        execution = self.branch.birth.execution
        if self.is_certain and execution.outcome is None and not self.branch.dismissed:
            return True
        cancelled = super().cancel(msg)
        if cancelled:
            execution.stage.branch_freed(self.branch)
        return cancelled


def operation_future(branch: Branch, *, is_certain: bool = False) -> OperationFuture:
    """Made by a function, since a constructor of its own would cost a future twice its time."""
    future = OperationFuture(loop=branch.birth.execution.loop)
    future.branch = branch
    future.is_certain = is_certain
    return future


def is_runnable(task: asyncio.Task[Any]) -> bool:
    """Whether the task will run in one of the loop's next turns without anything else happening."""
    if task.done():
        return False
    waiter = getattr(task, "_fut_waiter", None)
    return waiter is None or waiter.done()


def is_waking(task: asyncio.Task[Any]) -> bool:
    """Whether the task waits for a gathering whose outcome is certain and only has to be passed on, a turn per level."""
    return _is_certain(getattr(task, "_fut_waiter", None))


def _is_certain(future: Any) -> bool:
    if future is None or future.done():
        return future is not None
    if not isinstance(future, _GATHERING):
        return False
    return all(map(_is_certain, getattr(future, "_children")))  # noqa: B009


def waits_inside_run(branch: Branch, execution: Execution) -> bool | None:
    """Whether only other branches of the run can wake this one.

    True: it waits for a sibling or a group of them. None: it waits inside a lock, queue or event, which a sibling or
    somebody else may release. False: for anything else. Only asked about branches that aren't runnable.
    """
    waiter: Any = getattr(branch.task, "_fut_waiter", None)
    if _belongs(waiter, execution):
        return True
    if isinstance(waiter, _GATHERING):
        return all(_belongs(child, execution) for child in getattr(waiter, "_children", ()))
    coroutine: Any = branch.task.get_coro()
    while hasattr(inner := getattr(coroutine, "cr_await", None), "cr_code"):
        coroutine = inner
    frame = getattr(coroutine, "cr_frame", None)
    if frame is None:
        return False
    filename, name = frame.f_code.co_filename, frame.f_code.co_name
    if filename == _TASKGROUPS:
        return True
    if filename in _PRIMITIVES:
        return None
    if filename == _TASKS and name == "_wait":
        return all(_belongs(future, execution) for future in frame.f_locals["fs"])
    if filename == _TASKS and name == "wait_for":  # 3.11 awaits a future of its own there
        return _belongs(frame.f_locals.get("fut"), execution)
    return False


def _belongs(future: Any, execution: Execution) -> bool:
    """Whether `future` is settled by this run's own doing (or is settled already)."""
    if future is None:
        return False
    if future in execution.branches or isinstance(future, OperationFuture) or future.done():
        return True
    return isinstance(future, _GATHERING) and all(_belongs(child, execution) for child in future._children)


class ArmedTimer:
    """A loop timer armed by a run's code: pending until it has *run* or was cancelled."""

    __slots__ = ("callback", "fired", "handle", "scope")

    def __init__(self, scope: Scope, callback: Callable[..., object]) -> None:
        self.scope = scope
        self.callback = callback
        self.fired = False
        self.handle: asyncio.TimerHandle | None = None

    def fire(self, *args: Any) -> None:
        self.fired = True
        self.callback(*args)
        self.scope.execution.stage.schedule()

    @property
    def is_pending(self) -> bool:
        return not (self.fired or self.scope.ended or (self.handle is not None and self.handle.cancelled()))

    @property
    def is_asyncio_timeout(self) -> bool:
        """Whether it belongs to `asyncio.timeout` or `wait_for`."""
        owner = getattr(self.callback, "__self__", None)
        return (
            isinstance(owner, asyncio.Timeout) or getattr(self.callback, "__name__", "") == "_release_waiter"
        )


class Branches:
    """The branches of one execution, and the loop timers they armed.

    Attributes:
        by_task: those that haven't ended, or only in this turn of the loop.
        timers: may hold some that are over.
    """

    __slots__ = ("_loop", "_outside", "_stage", "_timers_max", "by_task", "timers")

    def __init__(self, loop: asyncio.AbstractEventLoop, stage: Stage, outside: Context) -> None:
        self._loop = loop
        self._stage = stage
        self._outside = outside
        self.by_task: dict[asyncio.Task[Any], Branch] = {}
        self.timers: list[ArmedTimer] | None = None  # made when there are any
        self._timers_max = 64

    def add(self, task: asyncio.Task[Any], birth: Scope) -> Branch:
        """The run's code has started an asyncio task. It leaves in the turn of the loop after its end."""
        if task in self.by_task:  # an eager task has called io before it was told of
            return self.by_task[task]
        branch = self.by_task[task] = Branch(task, birth)
        if birth.operation is not None:
            if birth.branches is None:
                birth.branches = {}
            birth.branches[branch] = None
        task.add_done_callback(self._ended, context=self._outside)
        self._stage.branch_freed(branch)
        return branch

    def _ended(self, task: asyncio.Task[Any]) -> None:
        branch = self.by_task.pop(task, None)
        if branch is not None:
            if branch.birth.branches is not None:
                branch.birth.branches.pop(branch, None)
            self._stage.branch_ended(branch)
            if branch.is_main:
                branch.birth.execution.main_done(task)

    def current(self, scope: Scope) -> Branch:
        """The branch that calls io now."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        branch = self.by_task.get(task) or self.add(task, scope)
        branch.used_io = True
        return branch

    def refuse(self) -> int:
        """How many io calls the branch that runs now has made after the end of the execution."""
        task = asyncio.current_task(self._loop)
        branch = self.by_task.get(task) if task is not None else None
        if branch is None:
            return 0
        branch.refusals += 1
        return branch.refusals

    def live(self) -> list[Branch]:
        """Those that aren't done, without those that are none of the run's business."""
        if not self.by_task:
            return []
        return [branch for task, branch in self.by_task.items() if not task.done() and not branch.is_stray]

    def arm(self, timer: ArmedTimer) -> None:
        """The run's code has armed a timer. Forgets those that are over before they get many."""
        if self.timers is None:
            self.timers = []
        self.timers.append(timer)
        if len(self.timers) > self._timers_max:
            self._timers_max = 2 * len(self.pending_timers()) + 64

    def pending_timers(self) -> Sequence[ArmedTimer]:
        if self.timers is None:
            return ()
        self.timers = [timer for timer in self.timers if timer.is_pending]
        return self.timers

    def __contains__(self, task: object) -> bool:
        return task in self.by_task

    def __iter__(self) -> Iterator[Branch]:
        return iter(self.by_task.values())

    def __len__(self) -> int:
        return len(self.by_task)


class BranchWatch:
    """The hooks in one event loop. `install` and `uninstall` may be nested; the last one out restores the loop."""

    _installed: dict[int, BranchWatch] = {}

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Any = loop
        self._users = 0

    @classmethod
    def install(cls, loop: asyncio.AbstractEventLoop) -> BranchWatch:
        watch = cls._installed.setdefault(id(loop), cls(loop))
        watch._users += 1
        if watch._users == 1:
            watch._hook()
        return watch

    def uninstall(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._unhook()
            del self._installed[id(self._loop)]

    def _hook(self) -> None:
        loop = self._loop
        self._factory = inner = loop.get_task_factory()
        self._own = {name: loop.__dict__.get(name) for name in ("call_at", "call_later")}
        call_at, call_later = loop.call_at, loop.call_later

        def make_task(
            loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
        ) -> asyncio.Task[Any]:
            task: asyncio.Task[Any] = (
                inner(loop, coro, **options)
                if inner is not None
                else asyncio.Task(coro, loop=loop, **options)
            )
            context: Context | None = options.get("context")
            scope = current_scope.get() if context is None else context.get(current_scope)
            if scope is not None:
                scope.execution.branches.add(task, scope)
            return task

        def armed(make: Callable[..., asyncio.TimerHandle]) -> Callable[..., asyncio.TimerHandle]:
            def arm(
                when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
            ) -> asyncio.TimerHandle:
                scope = current_scope.get() if context is None else context.get(current_scope)
                if scope is None or isinstance(getattr(callback, "__self__", None), ArmedTimer):
                    return make(when, callback, *args, context=context)
                timer = ArmedTimer(scope, callback)
                timer.handle = make(when, timer.fire, *args, context=context)
                scope.execution.branches.arm(timer)
                return timer.handle

            return arm

        loop.call_at, loop.call_later = armed(call_at), armed(call_later)
        loop.set_task_factory(make_task)
        self._make_task = make_task

    def _unhook(self) -> None:
        if (
            self._loop.get_task_factory() is self._make_task
        ):  # else somebody has put theirs in its place, or around it
            self._loop.set_task_factory(self._factory)
        for name, own in self._own.items():
            if own is None:
                delattr(self._loop, name)
            else:
                setattr(self._loop, name, own)


def outside_run(
    loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[[], object]
) -> asyncio.TimerHandle:
    """Arm a timer of the executor's own, which doesn't count as one of the run's."""
    return loop.call_later(max(delay, 0), callback, context=Context())
