"""What the demo promises, each as a sentence and whether it held: pure functions of what was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from perdure import Run, RunStatus, Task, TaskStatus
from perdure.cli.render import count, show_duration

from .plan import CANCELLED, ENDS
from .record import SETTLED, Note
from .site import FLAKY_FAILURES

VISITS = {"/plain": 2, "/slow": 3, "/gone": 1, "/draft": 1}
"""How often a page is asked for in all: by `fetch` and `fetch again`, and by what was cut off."""


class Story(Struct, frozen=True, kw_only=True):
    """What is known at the end.

    Attributes:
        before: runs as they were in the file when the first process was dead and the second not yet alive.
        after: the same runs at the end; both by the id of their event.
        notes: of the bodies that began.
        visits: paths that the site was asked for.
        first, second: ids of the two processes.
    """

    before: Mapping[str, Run]
    after: Mapping[str, Run]
    notes: Sequence[Note]
    visits: Sequence[str]
    first: int
    second: int

    def recorded_before(self) -> dict[str, Task]:
        """Tasks that were settled in the file when the first process was dead, by id."""
        return {task.id: task for run in self.before.values() for task in run.tasks if task.status in SETTLED}

    def began(self, task: Task, pid: int) -> int:
        """How many bodies of a task began in a process."""
        return sum(note.task == task.id and note.pid == pid for note in self.notes)

    def was_cut_off(self, task: Task) -> bool:
        """Whether a body was under way at the kill: more bodies began than attempts were made."""
        return self.began(task, self.first) + self.began(task, self.second) > task.attempts > 0


class Finding(Struct, frozen=True):
    """A sentence about what happened, and whether it is true."""

    sentence: str
    holds: bool


def remarks(story: Story) -> dict[str, str]:
    """When each task ran, by its id."""
    return {task.id: _remark(story, task) for run in story.after.values() for task in run.tasks}


def _remark(story: Story, task: Task) -> str:
    ended = {run.event_id for run in story.before.values() if run.status.is_terminal}
    known = {other.id: run for run in story.before.values() for other in run.tasks}
    if task.id in story.recorded_before() or (task.id in known and known[task.id].event_id in ended):
        return "before the kill"
    if story.was_cut_off(task):
        return "cut off, run again"
    return "before and after" if task.id in known else "after the kill"


def findings(story: Story) -> list[Finding]:
    """All that the demo promises."""
    return [
        _nothing_ran_again(story),
        _what_was_cut_off_ran_again(story),
        _attempts_were_counted_on(story),
        _the_wait_was_not_begun_anew(story),
        _events_sent_again_started_nothing(story),
        _what_is_gone_is_given_up(story),
        _what_is_invalid_or_cancelled_does_not_run(story),
        _all_ended_as_they_should(story),
    ]


def _nothing_ran_again(story: Story) -> Finding:
    recorded = story.recorded_before()
    bodies = [task for task in recorded.values() if task.attempts]
    again = [task for task in bodies if story.began(task, story.second)]
    now = {task.id: task for run in story.after.values() for task in run.tasks}
    asked = {path: story.visits.count(path) for path in VISITS}
    return Finding(
        f"{count(len(recorded), 'task')} had been recorded before the kill; {len(again)} of them ran again after it. "
        "Every body notes its process when it begins, the site counts its visitors, and the file still has what "
        "was recorded: all three agree.",
        bool(bodies)
        and not again
        and all(story.began(task, story.first) == task.attempts for task in bodies)
        and all(now.get(task_id) == task for task_id, task in recorded.items())
        and asked == VISITS,
    )


def _what_was_cut_off_ran_again(story: Story) -> Finding:
    cut = {name: task for name, run in story.after.items() for task in run.tasks if story.was_cut_off(task)}
    what = ", ".join(f"{task.key} of the {name} page" for name, task in cut.items())
    return Finding(
        f"{count(len(cut), 'task')} was running when the process died, so it was not recorded ({what}). It ran "
        "again, with the same idempotency key: bodies of tasks run at least once.",
        list(cut) == ["slow"] and all(story.began(task, story.second) == 1 for task in cut.values()),
    )


def _attempts_were_counted_on(story: Story) -> Finding:
    task = _task(story.after, "flaky", "fetch")
    before, after = (story.began(task, pid) for pid in (story.first, story.second)) if task else (0, 0)
    return Finding(
        f"The flaky page took {count(before + after, 'attempt')}, {before} before the kill and {after} after it: they "
        "were counted on, and the delay between them was kept.",
        task is not None
        and task.attempts == before + after
        and before >= FLAKY_FAILURES
        and after == 1
        and story.visits.count("/flaky") == task.attempts + 1,
    )


def _the_wait_was_not_begun_anew(story: Story) -> Finding:
    before, after = (_task(runs, "plain", "cool down") for runs in (story.before, story.after))
    if not (before and after and before.delay_until and after.started_at and after.completed_at):
        return Finding("The plain page's run waits when the process is killed.", False)
    return Finding(
        "The plain page's run was waiting when the process died. The wait went on without any process: it ended "
        f"{show_duration(after.completed_at - after.started_at)} after it began, as if nothing had happened.",
        before.started_at == after.started_at and after.completed_at >= before.delay_until,
    )


def _events_sent_again_started_nothing(story: Story) -> Finding:
    return Finding(
        f"Both processes sent the same {len(ENDS)} events. An event has an id, and is one event however often it is "
        f"sent: there are {len(story.after)} runs.",
        list(story.after) == list(ENDS)
        and {run.id for run in story.after.values()} == {run.id for run in story.before.values()},
    )


def _what_is_gone_is_given_up(story: Story) -> Finding:
    task, run = _task(story.after, "gone", "fetch"), story.after.get("gone")
    message = run.error.message if run and run.error else "nothing"
    return Finding(
        f'The page that is gone was asked for once, and its run failed with "{message}". Other failures are tried '
        "again; which ones is up to the job.",
        task is not None and task.attempts == 1 and "410" in message,
    )


def _what_is_invalid_or_cancelled_does_not_run(story: Story) -> Finding:
    typo, cancelled = story.after.get("typo"), story.after.get(CANCELLED)
    return Finding(
        "The payload that is no URL was refused before the job's code saw it, and the cancelled run never came to "
        "fetch its page again.",
        typo is not None
        and not typo.tasks
        and cancelled is not None
        and _task(story.after, CANCELLED, "fetch again") is None,
    )


def _all_ended_as_they_should(story: Story) -> Finding:
    statuses = {event_id: run.status for event_id, run in story.after.items()}
    done = [run for run in story.after.values() if run.status is RunStatus.COMPLETED]
    return Finding(
        f'{len(done)} runs completed with {{"status": "success", ...}}; 1 failed, 1 had an invalid payload, 1 was '
        "cancelled, each as it should.",
        statuses == ENDS
        and all(run.output["status"] == "success" and not run.output["changed"] for run in done)
        and all(task.status is TaskStatus.COMPLETED for run in done for task in run.tasks),
    )


def _task(runs: Mapping[str, Run], event_id: str, key: str) -> Task | None:
    run = runs.get(event_id)
    return next((task for task in run.tasks if task.key == key), None) if run else None
