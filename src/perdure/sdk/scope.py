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
    from .call_sites import CallSite
    from .execution import Execution
    from .operation import Operation


class Scope:
    """The namespace of one running of a body: the run function's (operation None) or one attempt of a task's.

    Attributes:
        seen: idempotency key → call site of what was started here, to refuse a key used twice.
        ended: the body has returned or failed; nothing may be started in it any more.
        counts: how often each log line was written here, to tell its occurrences apart.
        branches: branches that were started here and live; not kept in the run function's.
    """

    __slots__ = ("branches", "counts", "ended", "execution", "operation", "seen")

    def __init__(self, execution: Execution, operation: Operation | None) -> None:
        self.execution = execution
        self.operation = operation
        self.ended = False
        # Made when there is something in them: most bodies are leaves.
        self.seen: dict[str, CallSite] | None = None
        self.counts: dict[tuple[str, str], int] | None = None
        self.branches: dict[Branch, None] | None = None  # in the order of their births

    def note_call(self, idempotency: str, site: CallSite) -> CallSite:
        """The call that first used this key here: `site` itself, or an earlier one."""
        if self.seen is None:
            self.seen = {}
        return self.seen.setdefault(idempotency, site)

    def count_line(self, level: str, message: str) -> int:
        """How often this log line has been written here, now included."""
        if self.counts is None:
            self.counts = {}
        count = self.counts[level, message] = self.counts.get((level, message), 0) + 1
        return count

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
