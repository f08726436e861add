"""Errors of user code, as they are stored and as they are traced back to tasks."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from perdure.errors import NonDeterminismError, TaskError, UsageError, qualified_name
from perdure.limits import Limits
from perdure.schema.runs import ErrorInfo

from .texts import cut, storable

FAILED_TASK = "__perdure_task_id__"
"""Attribute of an error that isn't a TaskError and comes from a task all the same: the TimeoutError of io.timeout."""

_OWN_FOLDER = str(Path(__file__).parent)


def describe_error(error: BaseException, limits: Limits, task_id: str | None = None) -> ErrorInfo:
    """An exception as stored. One that came from a nested task keeps that task's error and id."""
    if isinstance(error, TaskError):
        return ErrorInfo(
            name=error.error_name,
            message=error.error_message,
            stack=error.stack,
            types=error.error_types,
            task_id=error.task_id or task_id,
        )
    return ErrorInfo(
        name=type(error).__name__,
        message=cut(_message_of(error), limits.error_chars_max),
        stack=cut(_stack_of(error), limits.error_chars_max),
        types=[qualified_name(cls) for cls in type(error).__mro__ if issubclass(cls, BaseException)],
        task_id=task_id,
    )


def _message_of(error: BaseException) -> str:
    try:
        return storable(str(error))
    except Exception as broken:  # noqa: BLE001 - a __str__ that raises hides a failure still worth a record
        return f"(its message can't be shown: {type(broken).__name__})"


def _stack_of(error: BaseException) -> str:
    """The traceback without perdure's own frames."""
    try:
        trace = traceback.TracebackException.from_exception(error)
        _leave_out_own_frames(trace, set())
        text = "".join(trace.format())
    except Exception:  # noqa: BLE001 - formatting calls the user's __str__ and __repr__
        text = "".join(traceback.format_tb(error.__traceback__))
    return storable(text)


def frames_of(error: BaseException) -> str:
    """Where in user code an error passed, without what it was caused by."""
    frames = traceback.extract_tb(error.__traceback__)
    return storable(
        "".join(traceback.format_list([f for f in frames if not f.filename.startswith(_OWN_FOLDER)]))
    )


def _leave_out_own_frames(trace: traceback.TracebackException, seen: set[int]) -> None:
    if id(trace) in seen:
        return
    seen.add(id(trace))
    kept = [frame for frame in trace.stack if not frame.filename.startswith(_OWN_FOLDER)]
    if kept:
        trace.stack[:] = kept
    group = cast("list[traceback.TracebackException] | None", getattr(trace, "exceptions", None)) or []
    for other in (trace.__cause__, trace.__context__, *group):
        if other is not None:
            _leave_out_own_frames(other, seen)


def failed_tasks(error: BaseException | None, seen: set[int]) -> Iterable[str]:
    """Ids of the tasks whose failure this error came from: in groups, causes and contexts."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    origin: str | None = error.task_id if isinstance(error, TaskError) else getattr(error, FAILED_TASK, None)
    if origin:
        yield origin
    parts: tuple[BaseException, ...] = getattr(error, "exceptions", ()) if _is_group(error) else ()
    for part in parts:
        yield from failed_tasks(part, seen)
    yield from failed_tasks(error.__cause__, seen)
    if not error.__suppress_context__:
        yield from failed_tasks(error.__context__, seen)


def _is_group(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup)


def not_interrupted(keys: list[str]) -> NonDeterminismError:
    """Nothing interrupts the tasks `keys` on replay, though something did when they were first run."""
    return NonDeterminismError(
        f"task {', '.join(map(repr, keys))} was interrupted (by a time-out or cancel()) when it was first run, but on "
        "replay nothing interrupts it: what decides about that must not depend on anything outside the run's tasks. "
        "Use io.timeout for deadlines, then continue the run"
    )


def armed_too_long(limit: float) -> UsageError:
    """An asyncio.timeout has kept a waiting run in memory for `limit` seconds."""
    return UsageError(
        f"an asyncio.timeout (or wait_for) was armed for more than {limit:g} s around durable operations; it counts "
        "within one execution only. Use `async with io.timeout(key, duration)`, which is durable"
    )
