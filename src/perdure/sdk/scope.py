"""Where code is: which execution, and inside which task. Carried by one context variable, so it follows asyncio tasks,
threads started with a copied context, and nested calls without being passed along.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from perdure.errors import UsageError

if TYPE_CHECKING:
    from perdure.schema.runs import Task

    from .branches import Branch
    from .execution import Execution
    from .operation import Operation


class Scope:
    """The namespace of one running of a body: the run function's (operation None) or one attempt of a task's.

    Attributes:
        seen: idempotency key → call site of what was started here, to refuse a key used twice.
        ended: the body has returned or failed; nothing may be started in it any more.
        counts: how often each log line was written here, to tell its occurrences apart.
        branches: branches that were started here and live.
    """

    __slots__ = ("branches", "counts", "ended", "execution", "operation", "seen")

    def __init__(self, execution: Execution, operation: Operation | None) -> None:
        self.execution = execution
        self.operation = operation
        self.seen: dict[str, tuple[str, int, str]] = {}
        self.counts: dict[tuple[str, str], int] = {}
        self.ended = False
        self.branches: set[Branch] = set()

    @property
    def parent_id(self) -> str | None:
        """Id of the task whose body this is; None in the run function."""
        return self.operation.record.id if self.operation is not None else None


current_scope: ContextVar[Scope | None] = ContextVar("perdure_scope", default=None)


def current_task() -> Task:
    """The task whose body is running: its id, attempts and `idempotency_key` (the same on every retry).

    Example: `stripe.charges.create(..., idempotency_key=current_task().idempotency_key)`

    Raises:
        UsageError: called outside a task's body.
    """
    scope = current_scope.get()
    if scope is None or scope.operation is None:
        raise UsageError(
            "current_task() is for the body of a task: call it in a function given to io.run_task"
        )
    return scope.operation.as_task()
