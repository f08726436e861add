"""One execution of one run: replays what is recorded, runs what is not, records it, and ends in one outcome.

The life of an execution:

    open -> replaying and running -> outcome decided -> outcome committed -> user code unwound -> finished

Until the outcome is decided, `io` works. From then on every io call raises the Signal without effect, and whatever user
code returns or raises is discarded: the outcome can't be changed by what unwinds. What an operation does is in
`perform.py` (async) and `sync_run.py`; when it is told, and when the run is put down, in `stage.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from perdure.clock import Clock, Random
from perdure.errors import UsageError
from perdure.schema.effects import RunEffect
from perdure.schema.execution import (
    Claim,
    Completed,
    Failed,
    JobMissing,
    LogRecord,
    Outcome,
    TaskRecord,
    TimedOut,
    Yielded,
)
from perdure.schema.runs import ErrorInfo, TaskStatus

from . import notices, unwinding
from .branches import Branch, Branches, outside_run
from .call_sites import CallSite, at, call_site
from .failures import Exit, armed_too_long, not_interrupted
from .flushes import Flushes
from .journal import Journal
from .operation import Operation
from .others import Others
from .outcomes import completion, failed
from .records import Records
from .scope import Scope, current_scope
from .settings import ExecutionSettings
from .signals import Signal, why_over
from .stage import Stage

if TYPE_CHECKING:
    from .jobs import Job
    from .sync_run import SyncRun

_BY_CODE = (Completed, Failed)
"""Outcomes that the run function itself has come to."""

_SLOT_IS_HELD = frozenset({str, TimedOut})
"""Outcomes (str: the run was taken away) after which the run's slot is to be given back."""


class Execution:
    """The state of one execution.

    Attributes:
        outcome: how it ends, once that is decided; None while io works. A str: the run was taken away (the reason).
        writing: journal writes under way.
        yielding: no new body starts and nothing is delivered; the execution ends as soon as no body runs.
        branches: the run's asyncio tasks, and the timers they armed.
        outside: for callbacks of the executor's own, in which no scope is set.
        thread: of the event loop.
        began: loop time. replayed: when its first body began; until then it has replayed.
        unawaited: io calls that were made and not awaited yet, by the id of their place.
    """

    # fmt: off
    __slots__ = (
        "_alone", "_effects", "_ending", "_finishing", "_flushes", "_limit_timer", "_main", "_nobody_since",
        "_on_finished", "_others", "_sync_run", "began", "bodies", "branches", "claim", "clock", "job", "journal",
        "loop", "outcome", "outside", "random", "records", "replayed", "settings", "stage", "thread", "threads",
        "unawaited", "writing", "yielding",
    )
    # fmt: on

    def __init__(
        self,
        claim: Claim,
        journal: Journal,
        job: Job[Any, Any],
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        random: Random,
        settings: ExecutionSettings,
        threads: Executor,
        outside: Context,
        flushes: Flushes,
        on_finished: Callable[[Execution], None],
    ) -> None:
        self.claim = claim
        self.journal = journal
        self.job = job
        self.clock = clock
        self.random = random
        self.settings = settings
        self.threads = threads
        self.loop = loop
        self.thread = get_ident()
        self.outcome: Outcome | str | None = None
        self.writing = 0
        self.yielding: str | None = None
        self.outside = outside
        self.bodies: dict[Operation, None] = {}  # in the order of their starts
        self._on_finished = on_finished
        self._main: asyncio.Task[Any] | None = None
        self._sync_run: SyncRun | None = None
        self._ending: asyncio.Task[None] | None = None
        self._alone: asyncio.Event | None = None
        self._flushes = flushes
        self._limit_timer: asyncio.TimerHandle | None = None
        self.unawaited: dict[int, CallSite] = {}
        self._nobody_since: int | None = None
        self._finishing = False
        self._others: Others | None = None
        self._effects: list[RunEffect] | None = None
        self.began = loop.time()
        self.replayed: float | None = None
        self.records = Records(claim.tasks, settings.limits)
        self.stage = Stage(self, self.records.expected)
        self.branches = Branches(self.loop, self.stage, outside)

    # --- starting ----------------------------------------------------------------------------------------------------

    def start(self, main: Callable[..., Any], args: tuple[Any, ...], context: Context, root: Scope) -> None:
        """Run `main(*args)` (a coroutine) as the run's first branch. Its `context` already carries `root` as its scope."""
        self._main = self.loop.create_task(self._run(main, args), context=context)
        self.branches.add(self._main, root).is_main = True

    def start_sync(self, run: SyncRun) -> None:
        """The run function is a plain `def`: it runs in a thread of its own, as one branch."""
        self._sync_run = run

    def sync_done(self, value: Any, error: BaseException | None) -> None:
        """The thread of the run function has ended by itself."""
        self._end_as(lambda: completion(self, value) if error is None else failed(self, error))

    def limit_duration(self, limit_ms: int) -> None:
        """Time the run out once it has executed for `limit_ms` in all."""
        left = limit_ms - self.claim.spent_ms
        self._limit_timer = outside_run(self.loop, left / 1000, lambda: self.end(TimedOut(limit_ms)))

    # --- io calls ----------------------------------------------------------------------------------------------------

    def enter(self) -> Scope:
        """The scope of the caller. Every io call begins here.

        Raises:
            Signal: the execution has ended, or the body this code belongs to has.
            UsageError: the caller isn't code of this run.
        """
        scope = current_scope.get()
        if scope is None or scope.execution is not self:
            raise UsageError(
                "this io belongs to another run or to none: use the io that your run function was given, in the run's "
                "own asyncio tasks or threads (a thread started by hand doesn't carry the run's context)"
            )
        if self.outcome is not None:
            self.check()
        if scope.ended:
            raise Signal("the task this code was started in has ended")
        return scope

    @property
    def writes_before_bodies(self) -> bool:
        """Whether a body may start only once its start is written, with all that was noted before.

        After a crash, to know the culprit of the next one; and when the body may show the world a value that a replay has
        to come up with again.
        """
        return self.claim.crashes > 0 or self.records.has_unwritten_values

    @property
    def is_sync(self) -> bool:
        """Whether the run function is a plain `def`, in a thread."""
        return self._sync_run is not None

    @property
    def is_foreign_thread(self) -> bool:
        """Whether the caller isn't on the event loop."""
        return get_ident() != self.thread

    def called(self) -> CallSite:
        """Note an io call of an async run, and where it was made; to be taken from `unawaited`. Called by the call itself."""
        site = call_site(3)
        self.unawaited[id(site)] = site
        return site

    def check(self) -> None:
        """Raise the Signal if the execution has ended."""
        if self.outcome is not None:
            raise Signal(self.ending_reason)

    @property
    def ending_reason(self) -> str:
        return why_over(self.outcome)

    # --- what happens to tasks ---------------------------------------------------------------------------------------

    def is_settled(self, record: TaskRecord) -> bool:
        """Whether a replay answers for this task: completed, failed for good, or interrupted."""
        return record.seq is not None or record.interrupted is not None

    def note(self, record: TaskRecord) -> None:
        """Something about the task was observed: it rides in front of the next write, or goes out after a moment."""
        self.records.unwritten[record.id] = record
        self._flushes.add(self)

    def log(self, line: LogRecord) -> None:
        """A log line, from any thread of the run: it rides in front of the next write, or goes out after a moment."""
        if self.is_foreign_thread:
            self.loop.call_soon_threadsafe(self.log, line)
        elif self.outcome is None:
            self.records.log(line)
            self._flushes.add(self)

    def interrupted(self, operation: Operation) -> None:
        """User code cancelled the operation: noted, so that a replay waits for that to happen again."""
        if self.outcome is not None or self._finishing:
            return
        record = operation.record
        if record.interrupted is not None:
            self.stage.skip(record.interrupted)
            return
        if record.seq is not None:
            self.stage.skip(record.seq)
        else:
            record.status = TaskStatus.CANCELED
            record.completed_at = self.clock.now()
        record.interrupted = self.records.next_seq()
        self.note(record)

    @property
    def others(self) -> Others:
        """What the run waits for that somebody else does. Made when it is asked for: most executions need none."""
        if self._others is None:
            self._others = Others(self)
        return self._others

    def ask(self, effect: RunEffect) -> None:
        """Have the platform do something in the transaction of the next write, which has to follow in the same turn."""
        if self._effects is None:
            self._effects = []
        self._effects.append(effect)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, record: TaskRecord, done: Callable[[], None]) -> None:
        """Make a task's record durable, with all that was observed before it; then call `done`."""
        self.records.changed(record)
        self.flush(done, then_yield=self.settings.force_replay)

    def flush(self, done: Callable[[], None] | None = None, *, then_yield: bool = False) -> None:
        """Write what was noted; call `done` once it is durable, and put the run down if `then_yield`."""
        if self.outcome is not None:
            self.check()
        tasks, logs = self.records.take_unwritten()
        effects, self._effects = self._effects, None
        self.writing += 1
        self.journal.record(tasks, logs, partial(self._written, done, then_yield), effects or ())

    def _written(
        self, done: Callable[[], None] | None, then_yield: bool, applied: bool | BaseException
    ) -> None:
        self.writing -= 1
        if self.outcome is not None:
            return
        if isinstance(applied, BaseException):
            self.end_failed(applied)
        elif not applied:
            self.revoke("the run was taken away: its lease was lost or it was cancelled")
        else:
            records = self.records
            if records.has_unwritten_values and self.writing == 0 and not records.has_unwritten:
                records.has_unwritten_values = False
            if then_yield:
                self.yield_soon("forced replay")
            if done is not None:
                done()
            self.stage.schedule()

    def flush_noted(self) -> None:
        """A moment has passed since something was noted."""
        if self.outcome is None and self.records.has_unwritten:
            self.flush()

    # --- ending ------------------------------------------------------------------------------------------------------

    def yield_soon(self, reason: str) -> None:
        """End this execution as soon as no body runs; the run goes on in a new one."""
        if self.yielding is None and self.outcome is None:
            self.yielding = reason
        self.stage.schedule()

    def end_yielded(self) -> None:
        if self._main is not None and self._main.done():
            if self._alone is not None:
                self._alone.set()  # the run function has ended: its result counts, not the yield
            return
        self.end(Yielded(self.yielding or "yielded"))

    def end_quiescent(self, earliest: int | None) -> bool:
        """Nothing in the run can move before `earliest`. Whether that was the end of the execution."""
        if self._main is not None and self._main.done():
            if self._alone is not None:
                self._alone.set()
            return False
        now = self.clock.now()
        if earliest is None and not self.others.waiting:
            # Only interrupted operations are left, and what interrupted them the first time doesn't come.
            if self._nobody_since is None:
                self._nobody_since = now
            if now - self._nobody_since < self.settings.foreign_await_limit * 1000:
                return False
            self.end_failed(not_interrupted([operation.record.key for operation in self.stage.parked]))
            return True
        if earliest is not None and earliest - now <= self.settings.linger * 1000:
            return False
        if self.others.waiting and self.others.is_lingering():
            return False
        self.end(self.others.suspended(earliest))
        return True

    def end_foreign(self, foreign: list[Branch], earliest: int | None) -> bool:
        """Something outside of tasks has kept the run in memory for too long. Whether that was its end."""
        limit = self.settings.foreign_await_limit
        if any(timer.is_asyncio_timeout for timer in self.branches.pending_timers()):
            self.end_failed(armed_too_long(limit))
            return True
        if earliest is None and not self.others.waiting:
            self.end_failed(not_interrupted([operation.record.key for operation in self.stage.parked]))
            return True
        where = "; ".join(unwinding.where_waiting(branch.task) for branch in foreign) or "a timer"
        self.warn(
            f"put down although it awaits something outside a task for more than {limit:g} s ({where}): the await will "
            "happen again. Move it into a task with io.run_task"
        )
        self.end(self.others.suspended(earliest))
        return True

    def warn(self, message: str) -> None:
        """Leave a line about this run for the developer: in its log and in the process's."""
        notices.warned(self.claim, message)
        if self.outcome is None:
            digest = f"{self.claim.execution}:{len(self.records.logs or ())}:{message}"
            self.log(
                LogRecord(id=f"warning:{digest}"[:200], level="WARN", message=message, at=self.clock.now())
            )

    def end_failed(self, error: BaseException) -> None:
        """The run fails with this error."""
        self.end(self.records.failure(error))

    def end(self, outcome: Outcome) -> None:
        """Decide the outcome, commit it, then unwind. The first one decided counts."""
        if self.outcome is not None:
            return
        if not isinstance(outcome, _BY_CODE):
            for operation in self.bodies:
                operation.record.due_at = operation.deadline
                self.records.changed(operation.record)
        self.outcome = outcome
        self._stop_timers()
        tasks, logs = self.records.take_unwritten()
        self.journal.close(outcome, tasks, logs, self._closed)

    def _closed(self, closed: bool | BaseException) -> None:
        if isinstance(closed, BaseException):
            assert self.outcome is not None
            notices.unrecorded(self.claim, closed)
            if not isinstance(self.outcome, Failed | JobMissing):
                self.outcome = self.records.failure(closed)
                self.journal.close(self.outcome, (), (), self._closed)
                return
        elif not closed:
            self.outcome = "the run was taken away meanwhile"  # `_finish` gives the slot back
        elif self.outcome is not None and not isinstance(self.outcome, str | Completed):
            notices.ended(self.claim, self.outcome, self.records)
        self._unwind()

    def revoke(self, reason: str) -> None:
        """The run isn't this execution's any more: nothing is written, user code is unwound."""
        if self.outcome is None:
            self.outcome = reason
            self._stop_timers()
            self._unwind()

    def abandon(self) -> None:
        """Drop everything on the spot, as a dying process would (for tests)."""
        if self.outcome is None:
            self.outcome = "crashed"
        self._stop_timers()
        self._on_finished = _nobody
        self._unwind()

    def _stop_timers(self) -> None:
        self.stage.stop()
        self._flushes.discard(self)
        if self._limit_timer is not None:
            self._limit_timer.cancel()

    def main_done(self, main: asyncio.Task[Any]) -> None:
        """The run function has ended by itself, or unwound."""
        if self.outcome is not None:
            if not main.cancelled():
                main.exception()  # discarded: the outcome is decided
            return
        if self.branches.live():
            self._ending = self.loop.create_task(self._end_with_branches(main), context=Context())
        else:
            self._end_as(lambda: self._outcome_of(main))

    def _end_as(self, outcome_of: Callable[[], Completed | Failed]) -> None:
        """End with what is worked out from values and errors of user code, which may defy being looked at."""
        try:
            outcome = outcome_of()
        except Exception as error:  # noqa: BLE001 - a run may not hang for what its error is like
            outcome = Failed(
                ErrorInfo(name=type(error).__name__, message="the run ended, and how can't be told")
            )
        self.end(outcome)

    async def _end_with_branches(self, main: asyncio.Task[Any]) -> None:
        """The run function has ended with branches alive: they get a bounded time to clean up, durably."""
        self._finishing = True
        self._alone = asyncio.Event()
        await unwinding.dismiss(self.branches.live(), self._alone, self.settings.unwind_limit)
        self._end_as(lambda: self._outcome_of(main))

    async def _run(self, main: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        try:
            return await main(*args)
        except SystemExit as stop:  # asyncio would let it end the whole process
            return Exit(stop)

    def _outcome_of(self, main: asyncio.Task[Any]) -> Completed | Failed:
        if main.cancelled():
            return failed(self, asyncio.CancelledError("the run function was cancelled by its own code"))
        if (error := main.exception()) is not None:
            return failed(self, error)
        for key in self.records.missed():
            self.warn(
                f"task {key!r} was recorded before, and this execution didn't come to it: was its key renamed, or its code "
                "removed? A task under a new key runs anew"
            )
        for site in self.unawaited.values():
            self.warn(f"the io call at {at(site)} was never awaited, so it did nothing: write `await`")
        value = main.result()
        return failed(self, value.error) if isinstance(value, Exit) else completion(self, value)

    def _unwind(self) -> None:
        live = self.branches.live()
        if not live and self._sync_run is None:
            self._finish(is_clear=True)
        else:
            self._ending = self.loop.create_task(self._unwind_and_finish(live), context=Context())

    async def _unwind_and_finish(self, live: list[Branch]) -> None:
        reason, limit = self.ending_reason, self.settings.unwind_limit
        stuck = await unwinding.unwind(live, reason, limit)
        if self._sync_run is not None and not await self._sync_run.unwind(Signal(reason), limit):
            stuck.append("its thread")
        for what in stuck:
            notices.abandoned(self.claim, limit, what)
        self._finish(is_clear=not stuck and self._sync_run is None)

    def _finish(self, *, is_clear: bool) -> None:
        if type(self.outcome) in _SLOT_IS_HELD:
            self.journal.release()
        self._on_finished(self)
        # Clear of code: cut what leads back here, so that memory is free at once and nothing is left to collect. Once: a
        # crash finishes an execution whose end is being written, which then fails and finishes it again.
        if is_clear and self._main is not None:
            self._main = None
            self.stage.part()
            if self._others is not None:
                self._others.part()


def _nobody(_: Execution) -> None:
    """Whom an abandoned execution tells that it has ended."""
