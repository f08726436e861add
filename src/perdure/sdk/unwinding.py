"""Getting user code off the stage once it doesn't count any more, politely and within a time limit."""

from __future__ import annotations

import asyncio
from contextvars import Context
from pathlib import Path
from traceback import clear_frames
from typing import Any

from .branches import Branch, OperationFuture
from .signals import Signal

_CONTEXTS_MAX = 10  # errors raised while another was handled

_NOT_USER_CODE = (str(Path(__file__).parent), str(Path(asyncio.__file__).parent))


async def unwind(live: list[Branch], reason: str, limit: float) -> list[str]:
    """Raise the Signal in branches that wait in an io call and cancel the others; where those are that stay, after `limit`."""
    if not live:
        return []
    for branch in live:
        waiter = getattr(branch.task, "_fut_waiter", None)
        if isinstance(waiter, OperationFuture) and not waiter.done():
            waiter.set_exception(Signal(reason))
        else:
            branch.task.cancel()
    done, stuck = await asyncio.wait([branch.task for branch in live], timeout=limit)
    for task in done:
        error = None if task.cancelled() else task.exception()  # what unwound user code raises is discarded
        if not stuck:
            _let_go(error)
    return [where_waiting(task) for task in stuck]


def _let_go(error: BaseException | None) -> None:
    """Empty the frames that Signals came through.

    A task keeps the traceback of what it ended with, and the frames in it lead back to the task: a circle of 60 objects for
    each run that is put down, which only the garbage collector would find.
    """
    seen = 0
    while error is not None and seen < _CONTEXTS_MAX:
        if isinstance(error, Signal):
            clear_frames(error.__traceback__)
        error = error.__context__
        seen += 1


async def dismiss(branches: list[Branch], enough: asyncio.Event, limit: float) -> None:
    """Cancel branches; return when all are done, when `enough` is set, or after `limit` seconds."""
    for branch in branches:
        branch.dismiss()
    tasks = [branch.task for branch in branches]
    loop = asyncio.get_running_loop()
    waiting = {
        loop.create_task(enough.wait(), context=Context()),
        loop.create_task(_all_done(tasks), context=Context()),
    }
    await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def _all_done(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)


def where_waiting(task: asyncio.Task[Any]) -> str:
    """The line of user code at which a task is suspended: the innermost that is neither perdure's nor asyncio's."""
    where = task.get_name()
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if not frame.f_code.co_filename.startswith(_NOT_USER_CODE):
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        coroutine = coroutine.cr_await
    return where
