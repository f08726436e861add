"""Runs for a terminal: a run as the tree of its tasks and log lines, and a table of runs. The demo draws with it too.

Whatever users wrote (keys, messages, outputs) is shown as text: no markup and no control character in it takes effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from perdure.schema.runs import ErrorInfo, Log, Run, RunStatus, Task, TaskStatus

VALUE_CHARS_MAX = 300

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LEVEL_STYLES = {"DEBUG": "dim", "INFO": "cyan", "WARN": "yellow", "WARNING": "yellow", "ERROR": "red"}


class RunTree:
    """A run as a tree.

    Args:
        run: with its tasks and logs, as `get_run` returns it.
        annotations: a remark by task id, shown at the task ("before the kill"); None for none.
        stacks: also show the stack of each error.
    """

    def __init__(
        self, run: Run, *, annotations: Mapping[str, str] | None = None, stacks: bool = False
    ) -> None:
        self._run = run
        self._annotations = annotations or {}
        self._stacks = stacks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        run = self._run
        tree = Tree(self._title(), guide_style="dim")
        if run.payload is not None:
            tree.add(Text.assemble(("payload ", "dim"), show_value(run.payload)))
        self._grow(tree, options)
        if run.error is not None:
            tree.add(self._error(run.error, "run failed: "))
        if run.reason:
            tree.add(Text(plain(run.reason), "yellow"))
        if run.status is RunStatus.COMPLETED:
            tree.add(Text.assemble(("output ", "dim"), show_value(run.output)))
        yield tree

    def _title(self) -> Text:
        run = self._run
        facts = [f"created {show_moment(run.created_at)}"]
        if run.execution_duration:
            facts.append(f"{show_duration(run.execution_duration)} executing")
        if run.started_at and run.completed_at:
            facts.append(f"done after {show_duration(run.completed_at - run.started_at)}")
        if run.wake_at:
            facts.append(f"goes on at {show_moment(run.wake_at)}")
        if run.is_test:
            facts.append("test")
        return Text.assemble(
            (run.id, "bold"),
            "  ",
            (run.status.label, f"bold {RUN_STYLES[run.status]}"),
            f"  {plain(run.job_id)} {plain(run.job_version)}, {count(run.executions, 'execution')}\n",
            (", ".join(facts), "dim"),
        )

    def _grow(self, tree: Tree, options: ConsoleOptions) -> None:
        children = _by_parent(self._run)
        label_cells, fact_cells = self._columns(children)
        unfinished: list[tuple[Tree, str | None, int]] = [(tree, None, 0)]
        while unfinished:
            branch, parent_id, indent = unfinished.pop()
            for item in children.get(parent_id, ()):
                if isinstance(item, Log):
                    branch.add(_log_line(item))
                    continue
                line = self._task_line(item, label_cells - indent, fact_cells, ascii_only=options.ascii_only)
                if item.status is TaskStatus.COMPLETED and item.output is not None:
                    output = f"  = {show_value(item.output)}"
                    room = options.max_width - indent - _INDENT - line.cell_len
                    line.append(output if room >= min(_VALUE_CELLS_MIN, cell_len(output)) else "")
                line.rstrip()
                twig = branch.add(line)
                if item.error is not None:
                    twig.add(self._error(item.error))
                unfinished.append((twig, item.id, indent + _INDENT))

    def _columns(self, children: Mapping[str | None, Sequence[Task | Log]]) -> tuple[int, int]:
        """Cells that labels take at most (indentation included), and facts: what lines are aligned to."""
        label_cells, fact_cells = 0, 0
        unfinished: list[tuple[str | None, int]] = [(None, 0)]
        while unfinished:
            parent_id, indent = unfinished.pop()
            for item in children.get(parent_id, ()):
                if isinstance(item, Task):
                    cells = indent + cell_len(f"  {_label(item)}")
                    label_cells = max(label_cells, cells if cells <= _LABEL_CELLS_MAX else 0)
                    cells = cell_len(self._task_facts(item))
                    fact_cells = max(fact_cells, cells if cells <= _FACT_CELLS_MAX else 0)
                    unfinished.append((item.id, indent + _INDENT))
        return label_cells, fact_cells

    def _task_line(self, task: Task, label_cells: int, fact_cells: int, *, ascii_only: bool) -> Text:
        sign, ascii_sign, style = TASK_SIGNS[task.status]
        line = Text(overflow="ellipsis", no_wrap=True)
        line.append(f"{ascii_sign if ascii_only else sign} ", style)
        line.append(plain(task.name), "bold")
        line.append(_label(task).removeprefix(plain(task.name)), "dim")
        line.append(" " * (label_cells - line.cell_len))
        facts = self._task_facts(task)
        line.append(f"  {facts}", "dim")
        line.append(" " * (fact_cells - cell_len(facts)))
        if self._annotations:
            width = max(map(cell_len, self._annotations.values()))
            line.append(f"  {plain(self._annotations.get(task.id, '')):{width}}", "magenta")
        if task.description:
            line.append(f"  {plain(task.description)}")
        return line

    def _task_facts(self, task: Task) -> str:
        facts: list[str] = []
        if task.started_at and self._run.started_at:
            facts.append(f"at {show_duration(task.started_at - self._run.started_at)}")
        if task.started_at and task.completed_at:
            facts.append(f"took {show_duration(task.completed_at - task.started_at)}")
        if task.attempts > 1:
            facts.append(count(task.attempts, "attempt"))
        if task.delay_until:
            facts.append(f"until {show_moment(task.delay_until)}")
        if task.status is not TaskStatus.COMPLETED:
            facts.append(task_label(task.status))
        return ", ".join(facts)

    def _error(self, error: ErrorInfo, prefix: str = "") -> Text:
        text = Text(prefix + plain(f"{error.name}: {error.message}" if error.message else error.name), "red")
        if self._stacks and error.stack:
            text.append("\n" + plain(error.stack.rstrip()), "dim")
        return text


_INDENT = 4
"""Cells by which a tree indents each level."""

_LABEL_CELLS_MAX = 32
_FACT_CELLS_MAX = 34
"""Longer labels and facts stand out of the columns instead of pushing everybody's to the right."""


_VALUE_CELLS_MIN = 16
"""With less room than this on its line a longer output is left out: nothing of it could be read."""


def _label(task: Task) -> str:
    return plain(task.name) if task.name == task.key else f"{plain(task.name)} ({plain(task.key)})"


class RunTable:
    """Runs as a table, one line each."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._runs:
            yield Text("no runs", "dim")
            return
        is_wide = options.max_width >= _WIDE
        rows = [_table_row(run, is_wide) for run in self._runs]
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("run", "status", "created (UTC)"):  # never cut: ids are there to be copied
            table.add_column(title, no_wrap=True, min_width=max(len(row[title]) for row in rows))
        table.add_column("job", no_wrap=True, overflow="ellipsis")
        if is_wide:
            table.add_column("took", no_wrap=True, min_width=max(len(row["took"]) for row in rows))
            table.add_column("executions", no_wrap=True, min_width=len("executions"), justify="right")
            table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
        for row in rows:
            table.add_row(*[row[str(column.header)] for column in table.columns])
        yield table


_WIDE = 110
"""Columns of a terminal from which a table of runs also has what is nice to know."""


def _table_row(run: Run, is_wide: bool) -> dict[str, Text]:
    took = run.completed_at - run.started_at if run.started_at and run.completed_at else None
    return {
        "run": Text(run.id),
        "status": Text(run.status.label, RUN_STYLES[run.status]),
        "created (UTC)": Text(show_moment(run.created_at).removesuffix(" UTC")),
        "job": Text(plain(f"{run.job_id} {run.job_version}" if is_wide else run.job_id)),
        "took": Text("" if took is None else show_duration(took)),
        "executions": Text(str(run.executions)),
        "": Text(_remark(run).partition("\n")[0], "dim"),
    }


RUN_STYLES: Mapping[RunStatus, str] = {
    RunStatus.PENDING: "yellow",
    RunStatus.QUEUED: "yellow",
    RunStatus.WAITING_ON_CONNECTIONS: "yellow",
    RunStatus.WAITING: "yellow",
    RunStatus.EXECUTING: "blue",
    RunStatus.COMPLETED: "green",
    RunStatus.FAILED: "red",
    RunStatus.CANCELLED: "bright_black",
    RunStatus.TIMED_OUT: "red",
    RunStatus.INVALID_PAYLOAD: "red",
    RunStatus.UNRESOLVED_AUTH: "red",
}

# A task's sign, its sign where only ASCII can be written, its colour.
TASK_SIGNS: Mapping[TaskStatus, tuple[str, str, str]] = {
    TaskStatus.COMPLETED: ("✓", "+", "green"),
    TaskStatus.ERRORED: ("✗", "x", "red"),
    TaskStatus.RUNNING: ("▶", ">", "blue"),
    TaskStatus.WAITING: ("◷", "~", "yellow"),
    TaskStatus.PENDING: ("·", ".", "yellow"),
    TaskStatus.CANCELED: ("⊘", "/", "bright_black"),
}


def task_label(status: TaskStatus) -> str:
    """A task's status as people read it."""
    return {TaskStatus.ERRORED: "failed", TaskStatus.CANCELED: "cancelled"}.get(status, status.value.lower())


def plain(text: str) -> str:
    """`text` with control characters (all but newline and tab) written out, so that a terminal doesn't obey them."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def show_value(value: Any, chars_max: int = VALUE_CHARS_MAX) -> str:
    """A value as compact JSON, cut at `chars_max`."""
    try:
        text = msgspec.json.encode(value, enc_hook=repr).decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        text = repr(value)
    return plain(text if len(text) <= chars_max else text[: chars_max - 3] + "...")


def show_moment(moment: datetime) -> str:
    """ "2026-01-31 12:00:00 UTC"."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def show_duration(duration: timedelta) -> str:
    """ "3 ms", "1.25 s", "4 min 5 s", "3 h 12 min", "2 d 3 h"."""
    ms = round(duration / timedelta(milliseconds=1))
    if ms < 1000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.2f} s"
    seconds = ms // 1000
    for unit, size, smaller, part in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size} {unit} {rest} {smaller}" if rest else f"{seconds // size} {unit}"
    raise AssertionError(seconds)


def count(number: int, thing: str) -> str:
    """ "1 attempt", "2 attempts"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _by_parent(run: Run) -> dict[str | None, list[Task | Log]]:
    """Tasks and log lines by the id of the task they are in (None: the run itself or a task that isn't there).

    Tasks keep their order; a line comes before the first task that began after it.
    """
    known = {task.id for task in run.tasks}
    items: dict[str | None, list[Task | Log]] = {}
    lines: dict[str | None, list[Log]] = {}
    for log in reversed(run.logs):
        lines.setdefault(log.task_id if log.task_id in known else None, []).append(log)
    for task in run.tasks:
        parent_id = task.parent_id if task.parent_id in known else None
        siblings, waiting = items.setdefault(parent_id, []), lines.get(parent_id, [])
        while waiting and task.started_at and waiting[-1].at < task.started_at:
            siblings.append(waiting.pop())
        siblings.append(task)
    for parent_id, waiting in lines.items():
        items.setdefault(parent_id, []).extend(reversed(waiting))
    return items


def _log_line(log: Log) -> Text:
    level = log.level.upper()
    line = _line((f"{level.lower()} ", _LEVEL_STYLES.get(level, "")), plain(log.message))
    if log.data is not None:
        line.append(f"  {show_value(log.data)}", "dim")
    return line


def _line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, overflow="ellipsis", no_wrap=True)


def _remark(run: Run) -> str:
    if run.reason:
        return plain(run.reason)
    return plain(f"{run.error.name}: {run.error.message}") if run.error else ""
