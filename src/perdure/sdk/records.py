"""What is known of a run's tasks, and what of that isn't written yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from perdure.errors import LimitExceededError, TaskError
from perdure.limits import Limits
from perdure.schema.execution import Failed, LogRecord, TaskRecord
from perdure.schema.runs import TaskStatus

from .failures import describe_error, failed_tasks, frames_of

# `copy.copy` takes twice as long, and msgspec's stubs don't have it.
_copied: Callable[[TaskRecord], TaskRecord] = getattr(TaskRecord, "__copy__")  # noqa: B009


class Records:
    """The records of one execution.

    Attributes:
        expected: what a replay comes to, as (moment, record): a completion or interruption at `seq` has the moment 2 * seq,
            the first appearance of a task at `opened` 2 * opened + 1.
        unwritten: records that go out with the next write, by id.
        logs: log lines that aren't written yet, if there are any.
        has_unwritten_values: a value was remembered (a uuid, the time) that isn't durable yet, and nobody outside may see.
        output_bytes: size of all outputs together (characters of JSON; those a claim left out don't count).
    """

    # fmt: off
    __slots__ = (
        "_by_id", "_limits", "_opened", "_seq", "expected", "has_unwritten_values", "logs",
        "output_bytes", "unwritten",
    )
    # fmt: on

    def __init__(self, claimed: Sequence[TaskRecord], limits: Limits) -> None:
        self._by_id = {record.id: record for record in claimed}
        self._limits = limits
        self.expected: Sequence[tuple[int, TaskRecord]] = _moments(claimed) if claimed else ()
        self._seq = (
            max((seq for record in claimed if (seq := _position(record)) is not None), default=0)
            if claimed
            else 0
        )
        # Kept while something is expected: see `is_moot`.
        self._opened: set[str] | None = set() if claimed else None
        self.output_bytes = sum(len(record.output or "") for record in claimed) if claimed else 0
        self.unwritten: dict[str, TaskRecord] = {}
        self.logs: list[LogRecord] | None = None
        self.has_unwritten_values = False

    def __len__(self) -> int:
        return len(self._by_id)

    def open(self, id: str) -> TaskRecord | None:
        """The record of a task that the run's code has come to; None if it is new."""
        if self._opened is not None:
            self._opened.add(id)
        return self._by_id.get(id)

    def add(self, record: TaskRecord) -> TaskRecord:
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
        self._by_id[record.id] = record
        return record

    def changed(self, record: TaskRecord) -> None:
        """`record` goes out with the next write."""
        self.unwritten[record.id] = record

    def log(self, line: LogRecord) -> None:
        """`line` goes out with the next write."""
        if self.logs is None:
            self.logs = []
        self.logs.append(line)

    @property
    def has_unwritten(self) -> bool:
        return bool(self.unwritten or self.logs)

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def is_moot(self, moment: int, record: TaskRecord) -> bool:
        """Whether what was expected of `record` at `moment` has come, or can't come any more in this execution."""
        seq = _position(record)
        if moment % 2:
            if self._opened is not None and record.id in self._opened:
                return True
        elif seq != moment // 2:
            return True
        parent = self._by_id.get(record.parent_id) if record.parent_id else None
        while parent is not None:
            if (
                parent.seq is not None
                or parent.interrupted is not None
                or parent.status is TaskStatus.WAITING
            ):
                return True
            parent = self._by_id.get(parent.parent_id) if parent.parent_id else None
        return False

    def find(self, id: str) -> TaskRecord | None:
        return self._by_id.get(id)

    def missed(self) -> list[str]:
        """Keys of the tasks that earlier executions recorded and this one didn't come to, though it could have."""
        return [
            record.key
            for moment, record in self.expected
            if moment % 2 and record.seq is not None and not self.is_moot(moment, record)
        ]

    def begin_anew(self, record: TaskRecord) -> list[tuple[int, TaskRecord]]:
        """A new attempt of a task comes to what is below it once more: what of that is expected again (see `expected`).

        It may take another way, so what the last one interrupted may run now.
        """
        below = [other for other in self._by_id.values() if self._is_under(other, record.id)]
        if self._opened is None:
            self._opened = set()
        for other in below:
            self._opened.discard(other.id)
            if other.interrupted is not None:
                self._undo_interruption(other)
        return _moments(below)

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
        origins = failed_tasks(error) or self._last_if_failed()
        info = describe_error(error, self._limits, origins[0] if origins else None)
        if isinstance(error, TaskError):
            way = f"{info.stack or ''}\nraised by io.run_task as a TaskError, which left the run function:\n{frames_of(error)}"
            info = msgspec.structs.replace(info, stack=way)
        anew = dict.fromkeys(ancestor for origin in origins for ancestor in self._failed_upwards(origin))
        for record in self._by_id.values():
            if record.status is TaskStatus.ERRORED and any(
                self._is_under(record, top) for top in tuple(anew)
            ):
                anew[record.id] = None
        return Failed(info, list(anew))

    def _last_if_failed(self) -> list[str]:
        """The task that settled last, if it failed: what its error was made into may not show where it came from."""
        settled = [(record.seq, record) for record in self._by_id.values() if record.seq is not None]
        last = max(settled, key=lambda pair: pair[0], default=None)
        return [last[1].id] if last is not None and last[1].status is TaskStatus.ERRORED else []

    def _failed_upwards(self, task: str) -> Iterable[str]:
        """The task itself (it has failed, or is a time-out that fired), and the parents that failed with it.

        What has completed without a place in the history is a part of its parent, a batch.
        """
        record = self._by_id.get(task)
        is_part = False
        while record is not None and (record.id == task or is_part or record.status is TaskStatus.ERRORED):
            yield record.id
            is_part = record.seq is None and record.completed_at is not None
            record = self._by_id.get(record.parent_id) if record.parent_id else None

    def take_unwritten(self) -> tuple[list[TaskRecord], Sequence[LogRecord]]:
        """What changed since it was last taken."""
        # Copies: the records go on changing while a store's thread reads what was handed over.
        tasks = [_copied(record) for record in self.unwritten.values()]
        self.unwritten.clear()
        if not self.logs:
            return tasks, ()
        logs, self.logs = self.logs, None
        return tasks, logs


def _moments(records: Sequence[TaskRecord]) -> list[tuple[int, TaskRecord]]:
    moments = [(2 * record.opened + 1, record) for record in records]
    moments.extend((2 * seq, record) for record in records if (seq := _position(record)) is not None)
    return moments


def _position(record: TaskRecord) -> int | None:
    """The place in the history at which a replay comes to this task."""
    return record.interrupted if record.interrupted is not None else record.seq
