"""Errors of user code, as they are stored and as they are traced back to tasks."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import cast

from perdure.errors import NonDeterminismError, TaskError, UsageError, qualified_name
from perdure.limits import Limits
from perdure.schema.runs import ErrorInfo

from .texts import cut, storable

FAILED_TASK = "__perdure_task_id__"
"""Attribute of an error that isn't a TaskError and comes from a task all the same: the TimeoutError of io.timeout,
the RunFailedError of a run that was waited for."""

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
        _leave_out_own_frames(trace)
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


def _leave_out_own_frames(trace: traceback.TracebackException) -> None:
    seen: set[int] = set()
    left: list[traceback.TracebackException | None] = [trace]
    while left:  # not recursive: a loop that keeps its last error makes chains of thousands
        part = left.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        kept = [frame for frame in part.stack if not frame.filename.startswith(_OWN_FOLDER)]
        if kept:
            part.stack[:] = kept
        group = cast("list[traceback.TracebackException] | None", getattr(part, "exceptions", None)) or []
        left.extend((part.__cause__, part.__context__, *group))


def failed_tasks(error: BaseException) -> list[str]:
    """Ids of the tasks whose failure this error came from: in groups, causes, and what was being handled."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        part = left.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        origin: str | None = part.task_id if isinstance(part, TaskError) else getattr(part, FAILED_TASK, None)
        if origin:
            found[origin] = None
        group: tuple[BaseException, ...] = getattr(part, "exceptions", ()) if _is_group(part) else ()
        left.extend((part.__context__, part.__cause__, *reversed(group)))
    return list(found)


def _is_group(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup)


def not_interrupted(keys: list[str]) -> NonDeterminismError:
    """Nothing interrupts the tasks `keys` on replay, though something did when they were first run."""
    return NonDeterminismError(
        f"task {', '.join(map(repr, keys))} was interrupted (by a time-out or cancel()) when it was first run, but on "
        "replay nothing interrupts it: what decides about that must not depend on anything outside the run's tasks. "
        "Use io.timeout for deadlines, then continue the run"
    )


def changed_kind(key: str, is_task: bool) -> NonDeterminismError:
    """Under `key` the code now has another kind of operation than what is recorded."""
    was, now = ("io.wait or the like", "io.run_task") if is_task else ("io.run_task", "io.wait or the like")
    return NonDeterminismError(
        f"under the key {key!r} an {was} is recorded, and the code now has an {now} there: give the new one a key of its "
        "own, then continue the run"
    )


def armed_too_long(limit: float) -> UsageError:
    """An asyncio.timeout has kept a waiting run in memory for `limit` seconds."""
    return UsageError(
        f"an asyncio.timeout (or wait_for) was armed for more than {limit:g} s around durable operations; it counts "
        "within one execution only. Use `async with io.timeout(key, duration)`, which is durable"
    )


class Exit:
    """What a run function that raised SystemExit gives: asyncio would let that end the whole process."""

    def __init__(self, error: SystemExit) -> None:
        self.error = error
