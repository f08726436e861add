"""What the world outside of perdure knows: what was acknowledged to clients, and what bodies really did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from perdure import RunNotification
from perdure.schema.runs import RunStatus

from .calendar import Calendar
from .findings import Findings
from .history import History
from .others import OthersWatch
from .queues import Bodies
from .trace import Trace

CRASHES_TO_POISON = 5

PATIENCE_MS = 8_000
"""How long an event may take to get to who waits for it, while nothing is wrong."""


class Ledger:
    """Kept by the harness; a process that dies doesn't take it along.

    Attributes:
        sent: event id → ids of its runs, as first acknowledged.
        later: ids of events of which it was acknowledged that they will be delivered.
        acknowledged: all runs that somebody was told of.
        cancels: runs that somebody has asked to cancel, whether or not it was acknowledged.
        starts: (run, task) → how often its body was started.
        bodies: those that run.
    """

    def __init__(
        self,
        history: History,
        calendar: Calendar,
        others: OthersWatch,
        bodies: Bodies,
        findings: Findings,
        trace: Trace,
        *,
        now: Callable[[], float],
        calm_since: Callable[[], int],
    ) -> None:
        self.sent: dict[str, list[str]] = {}
        self.later: set[str] = set()
        self.acknowledged: dict[str, None] = {}
        self.cancels: set[str] = set()
        self.starts: Counter[tuple[str, str]] = Counter()
        self.bodies = bodies
        self._values = 0
        self._waits: dict[tuple[str, str], float] = {}
        self._history = history
        self._calendar = calendar
        self._others = others
        self._calm_since = calm_since
        self._findings = findings
        self._trace = trace
        self._now = now

    # --- what clients were told -----------------------------------------------------------------------------------------

    def sent_event(self, event_id: str, run_ids: Sequence[str]) -> None:
        """A send was acknowledged with these runs."""
        if event_id in self._calendar.later and not run_ids:  # it is delivered later, or was cancelled
            self.later.add(event_id)
            return
        if event_id in self.later and event_id not in self.sent and self._calendar.later[event_id].due_at:
            self._findings.add(
                "an event is delivered when it is due", f"{event_id} has runs {run_ids} already"
            )
        first = self.sent.setdefault(event_id, list(run_ids))
        if sorted(first) != sorted(run_ids):
            self._findings.add(
                "a repeated event returns the first result", f"{event_id}: {first}, then {list(run_ids)}"
            )
        self.acknowledged.update(dict.fromkeys(run_ids))
        for run_id in run_ids:
            if run_id not in self._history.runs:
                self._findings.add(
                    "nothing acknowledged is lost", f"{run_id} was acknowledged, and isn't stored"
                )

    def cancelled_event(self, event_id: str) -> None:
        """A client was told that the event is cancelled."""
        if not self._calendar.later[event_id].is_cancelled:
            self._findings.add("clients see what is stored", f"event {event_id} was shown as cancelled")

    def saw_run(self, run_id: str, status: RunStatus | None) -> None:
        """A client was told that a run which had been acknowledged has this status (None: that there is no such run)."""
        if status is None:
            self._findings.add("nothing acknowledged is lost", f"{run_id} isn't found")
        elif status not in self._history.past[run_id]:
            self._findings.add("clients see what is stored", f"{run_id} was shown as {status.name}")

    async def told_of_end(self, notification: RunNotification) -> None:
        """A handler of the application was told of the end of a run."""
        self.saw_run(notification.id, notification.status)

    def saw_child(self, run_id: str, child_id: str, status: RunStatus) -> None:
        """A run was told how one ended that it had invoked."""
        child = self._history.runs.get(child_id)
        if child is None or child.parent_run_id != run_id or not status.is_terminal:
            self._findings.add(
                "a task ends with its child", f"{run_id} was told that {child_id} is {status.name}"
            )
        self.saw_run(child_id, status)

    def signal_came(self, run_id: str, key: str, event_id: str, n: int, since: float) -> None:
        """A wait for a signal ended with this event."""
        signal = self._others.signals.get(event_id)
        began = self._others.wait_began(run_id, key)
        if signal is None or began is None or signal[0] != n or signal[1] < began[0] - since * 1000:
            self._findings.add(
                "a wait gets what it waits for", f"{key} of {run_id}: {signal}, waits from {began}"
            )

    def signal_missed(self, run_id: str, key: str, n: int, since: float) -> None:
        """A wait for a signal timed out: none came in time, as far as that can be said in such weather."""
        began = self._others.wait_began(run_id, key)
        if began is None or began[1] is None:
            return
        for event_id, (number, at) in self._others.signals.items():
            if number == n and max(began[0] - since * 1000, self._calm_since()) < at < began[1] - PATIENCE_MS:
                self._findings.add(
                    "a wait gets what it waits for",
                    f"{key} of {run_id} timed out, and {event_id} came at {at}: {began}",
                )

    # --- what bodies did ------------------------------------------------------------------------------------------------

    def body_starts(self, run_id: str, task_id: str, path: str) -> int:
        """Call at the start of a body; how often it has been started, this time included."""
        self.starts[run_id, task_id] += 1
        n = self.starts[run_id, task_id]
        self._trace.add("body", f"{run_id[-6:]} {path} ({n})")
        if self._history.is_completed(run_id, task_id):
            self._findings.add("no task recorded as completed runs again", f"{path} of {run_id}")
        return n

    def fresh_value(self) -> int:
        """What a body is to return: unlike any other."""
        self._values += 1
        return self._values

    def got(self, run_id: str, task_id: str, value: Any, path: str) -> None:
        """Call with what `io.run_task` returned: it is recorded, and is what was recorded."""
        task = self._history.tasks[run_id].get(task_id)
        if task is None or not self._history.is_completed(run_id, task_id):
            self._findings.add("what a task returned is recorded", f"{path} of {run_id} isn't")
        elif task.output is not None and msgspec.json.decode(task.output) != value:
            self._findings.add(
                "a replay returns what was recorded",
                f"{path} of {run_id}: {value!r}, recorded is {task.output}",
            )

    def wait_begins(self, run_id: str, path: str, seconds: float) -> None:
        """Call before a wait; the first time counts."""
        self._waits.setdefault((run_id, path), self._now() + seconds)

    def wait_ends(self, run_id: str, path: str) -> None:
        due = self._waits[run_id, path]
        if self._now() < due - 0.002:  # instants are whole milliseconds
            self._findings.add(
                "a wait is as long as it says", f"{path} of {run_id} ended {due - self._now():.3f} s early"
            )

    # --- how runs ended -------------------------------------------------------------------------------------------------

    def check_end(self, run_id: str, *, fails: bool, may_time_out: bool) -> None:
        """Hold the end of a run to its program."""
        run = self._history.runs[run_id]
        expected = RunStatus.FAILED if fails else RunStatus.COMPLETED
        error = run.error.name if run.error is not None else None
        lost = sum(status is RunStatus.EXECUTING for status in self._history.past[run_id])
        if run.status is RunStatus.FAILED and error == "Poisoned" and lost >= CRASHES_TO_POISON:
            return
        if run.status is RunStatus.CANCELLED and run_id in self.cancels:
            return
        if run.status is RunStatus.TIMED_OUT and may_time_out:
            return
        if run.status is not expected or error not in (None, "SimulatedError", "ExceptionGroup"):
            self._findings.add(
                "a run ends as its code does",
                f"{run_id} of {run.job_id} is {run.status.name}, expected {expected.name}: {run.error} {run.reason}",
            )
