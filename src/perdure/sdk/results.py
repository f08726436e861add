"""How a run ended, for the run that waited for it."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from msgspec import Struct

from perdure.errors import RunFailedError
from perdure.schema.runs import ErrorInfo, RunStatus

from .failures import FAILED_TASK

Output = TypeVar("Output")


class RunResult(Struct, Generic[Output], frozen=True, kw_only=True):
    """How a run ended that another one invoked and waited for.

    Attributes:
        id: of the run.
        ok: whether it has completed.
        status: Completed, or in which other way it ended.
        output: what its run function returned; None unless `ok`.
        error: why it ended otherwise; None if it was cancelled without one, or `ok`.
        task_id: of the task that waited for it.
    """

    id: str
    ok: bool
    status: RunStatus
    output: Output | None = None
    error: ErrorInfo | None = None
    task_id: str = ""

    def unwrap(self) -> Output:
        """The output of a run that has completed.

        Raises:
            RunFailedError: it ended in another way. If this ends the run that waited, continuing that starts another one
                in place of this.
        """
        if not self.ok:
            error = RunFailedError(
                run_id=self.id,
                status=self.status.label,
                error_name=None if self.error is None else self.error.name,
                error_message=None if self.error is None else self.error.message,
            )
            if self.task_id:
                setattr(error, FAILED_TASK, self.task_id)
            raise error
        return cast("Output", self.output)
