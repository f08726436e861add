"""What is known of a run's tasks, and what of that isn't written yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from perdure.errors import LimitExceededError
from perdure.limits import Limits
from perdure.schema.execution import Failed, LogRecord, TaskRecord
from perdure.schema.runs import TaskStatus

from .failures import describe_error, failed_tasks
from .keys import task_id


class Records:
    """The records of one execution.

    Attributes:
        history: position in the run's history → the record that a replay comes to there, as claimed.
        logs: log lines that aren't written yet.
        output_bytes: size of all outputs together (characters of JSON; those a claim left out don't count).
    """

    def __init__(self, claimed: Sequence[TaskRecord], limits: Limits) -> None:
        self._by_id = {record.id: record for record in claimed}
        self._limits = limits
        self.history = {seq: record for record in claimed if (seq := _position(record)) is not None}
        self._seq = max(self.history, default=0)
        self.output_bytes = sum(len(record.output or "") for record in claimed)
        self._unwritten: dict[str, TaskRecord] = {}
        self.logs: list[LogRecord] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, id: str) -> TaskRecord | None:
        return self._by_id.get(id)

    def add(
        self, idempotency: str, *, key: str, name: str, parent_id: str | None, details: str | None
    ) -> TaskRecord:
        """A task met for the first time.

        Raises:
            LimitExceededError: the run has too many.
        """
        limit = self._limits.tasks_per_run_max
        if len(self._by_id) >= limit:
            raise LimitExceededError(
                what="the number of tasks of this run",
                size=limit + 1,
                limit=limit,
                setting="limits.tasks_per_run_max",
            )
        record = TaskRecord(
            id=task_id(idempotency),
            idempotency_key=idempotency,
            key=key,
            name=name,
            status=TaskStatus.PENDING,
            position=len(self._by_id),
            parent_id=parent_id,
            details=details,
        )
        self._by_id[record.id] = record
        return record

    def changed(self, record: TaskRecord) -> None:
        """`record` goes out with the next write."""
        self._unwritten[record.id] = record

    @property
    def has_unwritten(self) -> bool:
        return bool(self._unwritten or self.logs)

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def is_unreachable(self, seq: int) -> bool:
        """Whether what was recorded at `seq` can't come up in this execution any more."""
        record = self.history[seq]
        if _position(record) != seq:
            return True
        parent = self._by_id.get(record.parent_id) if record.parent_id else None
        while parent is not None:
            if parent.seq is not None:
                return True
            parent = self._by_id.get(parent.parent_id) if parent.parent_id else None
        return False

    def forget_interruptions_under(self, record: TaskRecord) -> None:
        """A new attempt of a task may take another way: what the last one interrupted below it may run."""
        for other in self._by_id.values():
            if other.interrupted is not None and self._is_under(other, record.id):
                self._undo_interruption(other)

    def undo_last_interruptions(self) -> None:
        """The run has failed: what was interrupted after its last completion fell with it, and isn't worth repeating."""
        last = max((record.seq for record in self._by_id.values() if record.seq is not None), default=0)
        for record in self._by_id.values():
            if record.interrupted is not None and record.interrupted > last:
                self._undo_interruption(record)

    def _undo_interruption(self, record: TaskRecord) -> None:
        record.interrupted = None
        if record.seq is None:
            record.status = TaskStatus.PENDING
            record.due_at = record.completed_at = None
        self.changed(record)

    def _is_under(self, record: TaskRecord, ancestor: str) -> bool:
        parent_id = record.parent_id
        while parent_id is not None and parent_id != ancestor:
            parent = self._by_id.get(parent_id)
            parent_id = parent.parent_id if parent is not None else None
        return parent_id is not None

    def failure(self, error: BaseException) -> Failed:
        """The outcome of a run that `error` ended. Its `failed_tasks` are what a continued run does anew: the tasks that
        the error came from, the parents they made fail, and whatever has failed below those.
        """
        origins = list(dict.fromkeys(failed_tasks(error, set())))
        info = describe_error(error, self._limits, origins[0] if origins else None)
        anew = dict.fromkeys(ancestor for origin in origins for ancestor in self._failed_upwards(origin))
        for record in self._by_id.values():
            if record.status is TaskStatus.ERRORED and any(
                self._is_under(record, top) for top in tuple(anew)
            ):
                anew[record.id] = None
        return Failed(info, list(anew))

    def _failed_upwards(self, task: str) -> Iterable[str]:
        record = self._by_id.get(task)
        while record is not None and record.status is TaskStatus.ERRORED:
            yield record.id
            record = self._by_id.get(record.parent_id) if record.parent_id else None

    def take_unwritten(self) -> tuple[list[TaskRecord], list[LogRecord]]:
        """What changed since it was last taken."""
        # Copies: the records go on changing while a store's thread reads what was handed over.
        tasks = [msgspec.structs.replace(record) for record in self._unwritten.values()]
        logs = self.logs
        self._unwritten.clear()
        self.logs = []
        return tasks, logs


def _position(record: TaskRecord) -> int | None:
    """The place in the history at which a replay comes to this task."""
    return record.interrupted if record.interrupted is not None else record.seq
