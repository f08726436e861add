"""Every exception that perdure raises on purpose.

    PerdureError
    ├── caller: fix the call
    │   ├── InvalidPayloadError        a payload doesn't fit the job's schema
    │   ├── SerializationError         a value can't be stored; names the key and the path inside the value
    │   ├── LimitExceededError         a value, key or name is larger than a limit; names the setting
    │   ├── NotFoundError              no such run, event, job or task
    │   ├── ConflictError              the thing is in a state that forbids it (a finished run can't be cancelled)
    │   ├── DuplicateKeyError          a task key was used twice under the same parent in one execution
    │   ├── UsageError                 an API used where it has no meaning (io from a foreign thread, a naive datetime)
    │   └── NonDeterminismError        a replay did not do what was recorded
    ├── operator: fix the set-up
    │   ├── ConfigurationError         no way to reach a platform; an unusable setting
    │   ├── SchemaOutdatedError        the database is older or newer than this perdure
    │   └── StoreInUseError            another process owns the SQLite file
    ├── nobody yet: repeat later
    │   ├── UnavailableError           the store can't take writes now; nothing was half-written
    │   └── StoreBrokenError           the outcome of a COMMIT is unknown: the engine stops; reopening recovers
    ├── us
    │   └── InternalError              a bug in perdure
    ├── TaskError                      a task of a run failed for good: the one thing `io.run_task` raises
    └── RunFailedError                 a run that another one waited for didn't complete: `RunResult.unwrap` raises it

Each error keeps its facts as attributes (`facts`), builds its own message from them, has a stable `code`, and survives
pickling. Signals that unwind user code when an execution ends are not errors: see `perdure.sdk.signals`.
"""

from __future__ import annotations

from typing import Any, ClassVar


def _rebuild(cls: type[PerdureError], facts: dict[str, Any]) -> PerdureError:
    return cls(**facts)  # pyright: ignore[reportCallIssue] (each class takes its own facts by name)


class PerdureError(Exception):
    """Base of all of them. `code` is stable across releases; `facts` is what the message was made of."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, /, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.facts))


class _MessageError(PerdureError):
    """An error whose only fact is its message (each place that raises one words it for its case)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, message=message)


class InvalidPayloadError(PerdureError):
    """A payload does not fit the schema of `job_id`. `issues`: [{"path": ["url"], "message": "..."}]."""

    code = "invalid_payload"

    def __init__(self, *, job_id: str, issues: list[dict[str, Any]]) -> None:
        lines = "; ".join(
            f"{'.'.join(map(str, issue['path'])) or '(payload)'}: {issue['message']}" for issue in issues
        )
        super().__init__(
            f"the payload doesn't fit the schema of job {job_id!r}: {lines}", job_id=job_id, issues=issues
        )
        self.job_id = job_id
        self.issues = issues


class SerializationError(PerdureError):
    """The value at `path` of what `where` gave can't be stored, or what is stored no longer fits. `problem` ends in the fix."""

    code = "serialization"

    def __init__(self, *, where: str, path: str, problem: str) -> None:
        super().__init__(f"{where}: the value at {path} {problem}", where=where, path=path, problem=problem)
        self.where = where
        self.path = path
        self.problem = problem


class LimitExceededError(PerdureError):
    """`what` is `size` but at most `limit` is allowed; `setting` is the name of the limit that can be raised."""

    code = "limit_exceeded"

    def __init__(self, *, what: str, size: int, limit: int, setting: str) -> None:
        super().__init__(
            f"{what} is {size:,}, more than the {limit:,} allowed; store large data elsewhere and pass a reference, "
            f"or raise {setting}",
            what=what,
            size=size,
            limit=limit,
            setting=setting,
        )
        self.what = what
        self.size = size
        self.limit = limit
        self.setting = setting


class NotFoundError(PerdureError):
    """There is no `kind` ("run", "event", "job", "task") with this id in the environment."""

    code = "not_found"

    def __init__(self, *, kind: str, id: str) -> None:
        super().__init__(
            f"there is no {kind} {id!r} here; check the id and the environment", kind=kind, id=id
        )
        self.kind = kind
        self.id = id


class ConflictError(_MessageError):
    """The state of the thing forbids what was asked."""

    code = "conflict"


class DuplicateKeyError(PerdureError):
    """The key `key` was used twice under the same parent within one execution. Sites are "file:line in function"."""

    code = "duplicate_key"

    def __init__(self, *, key: str, first: str, second: str) -> None:
        super().__init__(
            f"the task key {key!r} was used twice in this run:\n  first   {first}\n  second  {second}\n"
            "Each task needs a key of its own under its parent; in a loop make the item part of it: "
            f'io.run_task(["{key}", item_id], ...)',
            key=key,
            first=first,
            second=second,
        )
        self.key = key
        self.first = first
        self.second = second


class UsageError(_MessageError):
    """Something of the API was used where it has no meaning."""

    code = "usage"


class NonDeterminismError(_MessageError):
    """A replay did something else than what was recorded; names the task."""

    code = "non_determinism"


class ConfigurationError(_MessageError):
    """perdure can't work as it is set up."""

    code = "configuration"


class SchemaOutdatedError(PerdureError):
    """The database at `where` has schema `found`; this perdure works with `expected`."""

    code = "schema_outdated"

    def __init__(self, *, where: str, found: int, expected: int) -> None:
        fix = (
            "upgrade perdure (a newer release has written to it)"
            if found > expected
            else "open it once with an engine, which migrates it"
        )
        super().__init__(
            f"{where} has schema version {found}, this perdure works with {expected}: {fix}",
            where=where,
            found=found,
            expected=expected,
        )
        self.where = where
        self.found = found
        self.expected = expected


class StoreInUseError(PerdureError):
    """Another process (`owner`: "pid 12 on host x, since ...") owns the SQLite file `path`."""

    code = "store_in_use"

    def __init__(self, *, path: str, owner: str) -> None:
        super().__init__(
            f"{path} is in use by {owner}; a SQLite file belongs to one process. Stop that process, or give this one a "
            "file of its own. To share runs among processes there will be PostgreSQL (any number of them use it) and "
            "`perdure server` (they connect to it), in later releases",
            path=path,
            owner=owner,
        )
        self.path = path
        self.owner = owner


class UnavailableError(_MessageError):
    """The store can't take writes now (disk full, stopped). Nothing was half-written; repeat later."""

    code = "unavailable"


class StoreBrokenError(_MessageError):
    """The outcome of a COMMIT is unknown (an I/O error): the engine stops, and reopening the store recovers."""

    code = "store_broken"


class InternalError(_MessageError):
    """A bug in perdure: please report it with the message."""

    code = "internal"


class TaskError(PerdureError):
    """A task failed for good. The same error, built from the record, is raised by the first run and by every replay.

    Attributes:
        key: the task's key as written ("fetch" or '["fetch", 3]').
        error_name: class name of the original exception ("ValueError").
        error_message: its message.
        error_types: qualified names of the original's classes up to Exception, most derived first.
        stack: formatted traceback of the original, None if there was none.
        task_id: the task that failed; that of the innermost failed task where failure passed through parents.

    The original exception is `__cause__` on the first run only: branch with `matches`, not on the cause.
    """

    code = "task_failed"

    def __init__(
        self,
        *,
        key: str,
        error_name: str,
        error_message: str,
        error_types: list[str] | None = None,
        stack: str | None = None,
        task_id: str = "",
    ) -> None:
        super().__init__(
            f"task {key!r} failed: {error_name}: {error_message}",
            key=key,
            error_name=error_name,
            error_message=error_message,
            error_types=error_types,
            stack=stack,
            task_id=task_id,
        )
        self.key = key
        self.error_name = error_name
        self.error_message = error_message
        self.error_types = error_types or []
        self.stack = stack
        self.task_id = task_id

    def matches(self, *kinds: type[BaseException] | str) -> bool:
        """Whether the original exception was an instance of one of `kinds` (classes, or class names).

        Example: `except TaskError as err: if err.matches(TimeoutError, "HTTPStatusError"): ...`
        """
        for kind in kinds:
            if isinstance(kind, str):
                if any(kind == known or kind == known.rpartition(".")[2] for known in self.error_types):
                    return True
            elif qualified_name(kind) in self.error_types:
                return True
        return False


class RunFailedError(PerdureError):
    """The run `run_id`, which another one waited for, has ended as `status` ("Failed", "Cancelled" ...) and has no output.

    `error_name` and `error_message` are those of its error, None if it has none.
    """

    code = "run_failed"

    def __init__(
        self, *, run_id: str, status: str, error_name: str | None = None, error_message: str | None = None
    ) -> None:
        why = "" if error_name is None else f": {error_name}: {error_message}"
        super().__init__(
            f"run {run_id!r} has no output: it ended as {status}{why}",
            run_id=run_id,
            status=status,
            error_name=error_name,
            error_message=error_message,
        )
        self.run_id = run_id
        self.status = status
        self.error_name = error_name
        self.error_message = error_message


def qualified_name(cls: type[BaseException]) -> str:
    """ "ValueError" for builtins, "module.Class" for the rest: how classes of errors are recorded."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
