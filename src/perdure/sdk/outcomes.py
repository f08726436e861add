"""What an execution ends with when its run function has ended by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from perdure.errors import PerdureError
from perdure.schema.execution import Completed, Failed

if TYPE_CHECKING:
    from .execution import Execution


def failed(execution: Execution, error: BaseException) -> Failed:
    """The outcome of a run function that `error` left; the job's `retry` may give it another execution."""
    execution.records.undo_last_interruptions()
    outcome = execution.records.failure(error)
    retry = execution.job.retry
    if retry is None or not retry.applies_to(error):
        return outcome
    delay = retry.next_delay_ms(execution.claim.failures + 1, execution.random.random())
    if delay is None:
        return outcome
    return msgspec.structs.replace(outcome, retry_at=execution.clock.now() + delay)


def completion(execution: Execution, value: Any) -> Completed | Failed:
    """The outcome of a run function that returned `value`."""
    try:
        encoded = execution.job.output_codec.encode(
            value,
            where=f"the return value of job {execution.claim.job_id!r}",
            limit=execution.settings.limits.run_output_bytes_max,
            setting="limits.run_output_bytes_max",
        )
    except PerdureError as error:
        return execution.records.failure(error)
    return Completed(encoded.json, encoded.types)
