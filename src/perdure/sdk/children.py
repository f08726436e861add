"""Runs that a run starts and waits for: `invoke_and_wait`, and `batch_invoke_and_wait` for any number of them.

The task that waits and the run that it waits for are made in one transaction, and the end of that run, whichever it is,
completes the task: neither can be without the other, whatever dies in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

import msgspec

from perdure.durations import to_ms
from perdure.errors import UsageError
from perdure.schema.effects import CallJob, ChildResult
from perdure.schema.execution import TaskRecord
from perdure.schema.runs import Run, RunStatus, TaskStatus

from .call_sites import CallSite
from .keys import Key, task_ids
from .operation import Duration, Operation, TaskOptions
from .others import Plan, is_open, start_waiting
from .perform import run_task
from .results import RunResult
from .retry import UNTIL_AVAILABLE
from .run_options import run_options
from .scope import current_task
from .texts import check_text
from .values import to_json

if TYPE_CHECKING:
    from .execution import Execution
    from .jobs import Job

BATCH_CHUNK = 1_000
"""Children that are made in one transaction: few enough that it is short for those who wait for the next one."""

_decode_result = msgspec.json.Decoder(ChildResult).decode


class InvokeOptions(TypedDict, total=False):
    """What a run may be invoked with beside its payload.

    context: JSON that it finds in `ctx.event.context`. account_id: of the user it is for. tags, metadata: of the run.
    priority, concurrency_key: instead of what the job says.
    """

    context: Any
    account_id: str | None
    tags: Iterable[str]
    metadata: Mapping[str, Any] | None
    priority: int | None
    concurrency_key: str | None


async def invoke(
    execution: Execution, site: CallSite, key: Key, job: Job[Any, Any], payload: Any, options: InvokeOptions
) -> Run:
    """Start a run as a task. See Job.invoke."""

    async def start() -> Run:
        return await job.client.invoke(job, payload, key=current_task().idempotency_key, **options)

    return await run_task(execution, site, key, start, (), invoke_options(job))


def invoke_options(job: Job[Any, Any]) -> dict[str, Any]:
    """How the task that invokes a job is shown and run."""
    return {
        "name": f"invoke {job.id}",
        "icon": "trigger",
        "properties": [{"label": "Job", "text": job.id}],
        "retry": UNTIL_AVAILABLE,
    }


class ChildPlan(Plan):
    """Invoke a job, and wait for the end of the run.

    Raises (when made):
        UsageError: an option that can't be; a job of another client.
    """

    def __init__(
        self,
        execution: Execution,
        key: Key,
        job: Job[Any, Any],
        payload: Any,
        timeout: Duration | None,
        options: InvokeOptions,
    ) -> None:
        self._job = _checked_job(execution, job)
        self._payload = payload
        self._timeout = _timeout_ms(timeout, key)
        self._options = options
        self._task_id = ""
        self.name = f"invoke {job.id} and wait"
        self.options = _shown(job, self._timeout)

    def begin(self, execution: Execution, operation: Operation) -> Iterator[None]:
        record = operation.record
        if record.status is TaskStatus.PENDING:
            call = _caller(execution, self._job, self._options)(record, self._payload)
            now = execution.clock.now()
            start_waiting(operation, now, None if self._timeout is None else now + self._timeout)
            execution.ask(call)
            yield

    def records(self, operation: Operation) -> Sequence[TaskRecord]:
        self._task_id = operation.record.id
        return super().records(operation)

    def overdue(self, operation: Operation) -> Exception:
        return _overdue(self._job, self._timeout, 1)

    def decode(self, json: str, types: str | None = None, *, where: object) -> RunResult[Any]:
        return _result(self._job, json, self._task_id, where)


class BatchPlan(Plan):
    """Invoke a job once per payload, and wait until all of the runs have ended.

    One task stands for the batch, and below it one per run. Those aren't operations of the run's code: they are only
    looked at together, so they need no places in its history, and their outputs are only stored once, where they came.
    """

    def __init__(
        self,
        execution: Execution,
        key: Key,
        job: Job[Any, Any],
        payloads: Sequence[Any],
        timeout: Duration | None,
        options: InvokeOptions,
    ) -> None:
        self._job = _checked_job(execution, job)
        self._payloads = payloads
        self._timeout = _timeout_ms(timeout, key)
        self._options = options
        self._records: list[TaskRecord] | None = None
        self.name = f"invoke {job.id} {len(payloads)} times and wait"
        self.options = _shown(job, self._timeout)

    def begin(self, execution: Execution, operation: Operation) -> Iterator[None]:
        record = operation.record
        now = execution.clock.now()
        if record.status is TaskStatus.PENDING:
            start_waiting(operation, now, None if self._timeout is None else now + self._timeout)
            execution.note(record)
        self._records = records = [
            self._open(execution, record, index) for index in range(len(self._payloads))
        ]
        call = _caller(execution, self._job, self._options)
        missing = [
            (index, child) for index, child in enumerate(records) if child.status is TaskStatus.PENDING
        ]
        calls = [  # all of them before the first is made: one that can't be fails the batch as a whole
            (child, call(child, self._payloads[index])) for index, child in missing
        ]
        for start in range(0, len(calls), BATCH_CHUNK):
            for child, effect in calls[start : start + BATCH_CHUNK]:
                child.status = TaskStatus.WAITING
                child.started_at = now
                execution.ask(effect)
                execution.records.changed(child)
            yield

    def _open(self, execution: Execution, parent: TaskRecord, index: int) -> TaskRecord:
        """The record of the task for one run; made if it is new."""
        run_id = execution.claim.run_id
        key, task = task_ids(run_id, parent.id, str(index))
        records = execution.records
        record = records.open(task)
        if record is None:
            record = records.add(
                TaskRecord(
                    id=task,
                    idempotency_key=key,
                    key=f"[{index}]",
                    name=f"invoke {self._job.id}",
                    status=TaskStatus.PENDING,
                    position=len(records),
                    opened=execution.stage.reached,
                    parent_id=parent.id,
                )
            )
        return record

    def records(self, operation: Operation) -> Sequence[TaskRecord]:
        if self._records is None:  # a replay: there may be fewer than there are payloads now, or more
            execution, parent = operation.scope.execution, operation.record
            found = (
                execution.records.find(task_ids(execution.claim.run_id, parent.id, str(index))[1])
                for index in range(len(self._payloads))
            )
            self._records = [record for record in found if record is not None]
        return self._records

    def overdue(self, operation: Operation) -> Exception:
        return _overdue(self._job, self._timeout, sum(map(is_open, self.records(operation))))

    def give_up(self, execution: Execution, operation: Operation) -> None:
        """What is still open is over with the batch: the ends of those runs are nothing to wake this one for."""
        moment = operation.record.interrupted or operation.record.seq
        for record in self.records(operation):
            if is_open(record) and moment is not None:
                record.status = TaskStatus.CANCELED
                record.completed_at = execution.clock.now()
                record.interrupted = moment
                execution.records.changed(record)

    def decode(self, json: str, types: str | None = None, *, where: object) -> list[RunResult[Any]]:
        """The results are in the tasks below."""
        assert self._records is not None
        return [
            _result(self._job, record.output or "null", record.id, f"{where}, run {index}")
            for index, record in enumerate(self._records)
        ]


def checked_payloads(payloads: Iterable[Any], key: Key) -> list[Any]:
    """The payloads of a batch. Raises UsageError for a single one, whose members or characters nobody means."""
    given: Any = payloads
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise UsageError(
            f"batch_invoke_and_wait({key!r}) takes a list of payloads, one for each run, not {given!r}"
        )
    return list(payloads)


def _checked_job(execution: Execution, job: Any) -> Job[Any, Any]:
    if job is None or job is not execution.job.client.jobs.get(getattr(job, "id", "")):
        raise UsageError(
            f"only a job of the client {execution.job.client.id!r} can be invoked here, not {job!r}"
        )
    return job


def _timeout_ms(timeout: Duration | None, key: Key) -> int | None:
    return None if timeout is None else to_ms(timeout, f"invoke_and_wait({key!r}): timeout")


def _shown(job: Job[Any, Any], timeout: int | None) -> TaskOptions:
    properties = [{"label": "Job", "text": job.id}]
    if timeout is not None:
        properties.append({"label": "Timeout", "text": f"{timeout / 1000:g} s"})
    return TaskOptions(icon="trigger", properties=properties)


def _caller(
    execution: Execution, job: Job[Any, Any], given: InvokeOptions
) -> Callable[[TaskRecord, Any], CallJob]:
    """Makes what starts the run for a task, given its payload.

    Raises (both):
        SerializationError, LimitExceededError, InvalidPayloadError, UsageError: payload or options can't be.
    """
    limits, where = execution.settings.limits, f"job {job.id!r}"
    options: dict[str, Any] = dict(given)
    account_id, context = options.pop("account_id", None), options.pop("context", None)
    check_text(account_id, f"{where}: account_id", limits.name_chars_max)
    shared: dict[str, Any] = {"job_id": job.id, "account_id": account_id}
    if context is not None:
        shared["context"] = to_json(
            context,
            where=f"context of {where}",
            limit=limits.context_bytes_max,
            setting="limits.context_bytes_max",
        )
    if (wanted := run_options(where, limits, **options)) is not None:
        shared |= msgspec.structs.asdict(wanted)
    parse = job.trigger.schema.parse

    def call(record: TaskRecord, payload: Any) -> CallJob:
        text = to_json(payload, where=f"payload of {where}", limit=limits.payload_bytes_max)
        parse(text, job_id=job.id)
        return CallJob(task_id=record.id, key=record.idempotency_key, payload=text, **shared)

    return call


def _overdue(job: Job[Any, Any], timeout: int | None, runs: int) -> Exception:
    what = f"the run of job {job.id!r} hasn't" if runs == 1 else f"{runs} runs of job {job.id!r} haven't"
    return TimeoutError(f"{what} ended within {(timeout or 0) / 1000:g} s, and goes on by itself")


def _result(job: Job[Any, Any], json: str, task_id: str, where: object) -> RunResult[Any]:
    """How a run ended, its output with the types that the job gave it.

    Raises:
        SerializationError: the output doesn't fit what the job now says that it returns.
    """
    child = _decode_result(json)
    output = None
    status = RunStatus(child.status)
    if status is RunStatus.COMPLETED:
        output = job.output_codec.decode(
            bytes(child.output).decode(), child.types, where=f"{where}: the output of run {child.run_id}"
        )
    return RunResult(
        id=child.run_id,
        ok=status is RunStatus.COMPLETED,
        status=status,
        output=cast("Any", output),
        error=child.error,
        task_id=task_id,
    )
