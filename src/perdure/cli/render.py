"""Runs for a terminal: a run as the tree of its tasks and log lines, and a table of runs. The demo draws with it too.

Whatever users wrote (keys, messages, outputs) is shown as text: no markup and no control character in it takes effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from rich.tree import Tree

from perdure.schema.reasons import Ended, Executing, Reason
from perdure.schema.runs import ErrorInfo, Log, Run, RunStatus, Task, TaskStatus
from perdure.schema.statuses import StatusRecord

VALUE_CHARS_MAX = 300

_JSON_ITEM = re.compile(r'(?:"(?:[^"\\]|\\.)*"?|[^",])*,?', re.DOTALL)
"""What stands up to the next comma that is not in a string, and the comma."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LEVEL_STYLES = {"DEBUG": "dim", "INFO": "cyan", "WARN": "yellow", "WARNING": "yellow", "ERROR": "red"}
_STATE_STYLES = {"loading": "blue", "success": "green", "failure": "red"}


class RunTree:
    """A run as a tree.

    Args:
        run: with its tasks and logs, as `get_run` returns it.
        annotations: a remark by task id, shown at the task ("before the kill"); None for none.
        stacks: also show the stack of each error.
        reasons: why it isn't executing; shown unless it has ended, or is.
        statuses: what it says of its progress.
    """

    def __init__(
        self,
        run: Run,
        *,
        annotations: Mapping[str, str] | None = None,
        stacks: bool = False,
        reasons: Sequence[Reason] = (),
        statuses: Sequence[StatusRecord] = (),
    ) -> None:
        self._run = run
        self._statuses = statuses
        self._reasons = [reason for reason in reasons if not isinstance(reason, Ended | Executing)]
        self._annotations = annotations or {}
        self._stacks = stacks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        run = self._run
        tree = Tree(self._title(), guide_style="dim")
        if run.payload is not None:
            tree.add(_value_lines("payload ", run.payload, options))
        if run.metadata:
            tree.add(_value_lines("metadata ", run.metadata, options))
        for status in self._statuses:
            tree.add(_status_line(status))
        self._grow(tree, options)
        if run.error is not None:
            tree.add(self._error(run.error, "run failed: "))
        if run.reason:
            tree.add(Text(plain(run.reason), "yellow"))
        for reason in self._reasons:
            tree.add(Text(plain(str(reason)), "yellow"))
        if run.status is RunStatus.COMPLETED:
            tree.add(_value_lines("output ", run.output, options))
        yield tree

    def _title(self) -> Text:
        run = self._run
        facts = [f"no. {run.number} of its job"] if run.number else []
        facts.append(f"created {show_moment(run.created_at)}")
        if run.execution_duration:
            facts.append(f"{show_duration(run.execution_duration)} executing")
        if run.started_at and run.completed_at:
            facts.append(f"done after {show_duration(run.completed_at - run.started_at)}")
        if run.wake_at:
            facts.append(f"goes on at {show_moment(run.wake_at)}")
        if run.is_test:
            facts.append("test")
        if run.priority:
            facts.append(f"priority {run.priority}")
        for name, value in (
            ("account", run.account_id),
            ("concurrency key", run.concurrency_key),
            ("tags", ", ".join(run.tags)),
            ("a child of", run.parent_run_id),
        ):
            if value:
                facts.append(f"{name} {plain(value)}")
        return Text.assemble(
            (run.id, "bold"),
            "  ",
            (run.status.label, f"bold {RUN_STYLES[run.status]}"),
            f"  {plain(run.job_id)} {plain(run.job_version)}, {count(run.executions, 'execution')}\n",
            (", ".join(facts), "dim"),
        )

    def _grow(self, tree: Tree, options: ConsoleOptions) -> None:
        children = _by_parent(self._run)
        columns = self._columns(children)
        lines = self._task_lines(children, columns, ascii_only=options.ascii_only)
        beside = all(
            options.max_width - indent - _INDENT - line.cell_len >= min(_VALUE_CELLS_MIN, cell_len(value))
            for indent, line, value in lines.values()
        )
        unfinished: list[tuple[Tree, str | None]] = [(tree, None)]
        while unfinished:
            branch, parent_id = unfinished.pop()
            for item in children.get(parent_id, ()):
                if isinstance(item, Log):
                    branch.add(_log_line(item))
                    continue
                indent, line, value = lines[item.id]
                if beside:
                    line.append(value)
                line.rstrip()
                if value and not beside:
                    line.append("\n" + cut(value, options.max_width - indent - _INDENT, options), "dim")
                twig = branch.add(line)
                if item.error is not None:
                    twig.add(self._error(item.error))
                unfinished.append((twig, item.id))

    def _task_lines(
        self,
        children: Mapping[str | None, Sequence[Task | Log]],
        columns: tuple[int, int],
        *,
        ascii_only: bool,
    ) -> dict[str, tuple[int, Text, str]]:
        """By task: its indentation, its line without its output, and its output ("" for none)."""
        lines: dict[str, tuple[int, Text, str]] = {}
        unfinished: list[tuple[str | None, int]] = [(None, 0)]
        while unfinished:
            parent_id, indent = unfinished.pop()
            for item in children.get(parent_id, ()):
                if isinstance(item, Task):
                    line = self._task_line(item, columns[0] - indent, columns[1], ascii_only=ascii_only)
                    has_output = item.status is TaskStatus.COMPLETED and item.output is not None
                    lines[item.id] = indent, line, f"  = {show_value(item.output)}" if has_output else ""
                    unfinished.append((item.id, indent + _INDENT))
        return lines

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
"""With less room than this beside a task for its output, the outputs of all stand below their tasks."""


def _label(task: Task) -> str:
    return plain(task.name) if task.name == task.key else f"{plain(task.name)} ({plain(task.key)})"


class RunTable:
    """Runs as a table: one line each where that fits, else two. A remark stands in a column, or else in a line below.

    Nothing but jobs' names and remarks is ever shortened: the rest is there to be copied and compared.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._runs:
            yield Text("no runs", "dim")
            return
        rows = [_table_row(run) for run in self._runs]
        lines, widths = _layout(rows, options.max_width)
        has_note_column = "note" in lines[0]
        yield from _row_lines({title: Text(title, "dim") for title in widths}, lines, widths, options)
        for row in rows:
            yield from _row_lines(row, lines, widths, options)
            if row["note"] and not has_note_column:
                yield Text(" " * _GAP + cut(row["note"].plain, options.max_width - _GAP, options), "dim")


_FIRST_COLUMNS = ("run", "status", "created (UTC)")
_OTHER_COLUMNS = ("job", "took", "executions")
_COLUMNS = (*_FIRST_COLUMNS, *_OTHER_COLUMNS)
_GAP = 2

_JOB_CELLS_MAX = 24
"""Longer names of jobs are shortened rather than have each run take two lines."""

_NOTE_CELLS_MIN = 32
"""With less room than this a longer remark stands below its run."""


def _layout(rows: Sequence[Mapping[str, Text]], cells: int) -> tuple[list[Sequence[str]], dict[str, int]]:
    """Which columns stand in which line of a row, and how wide each is."""
    widths = {title: max(cell_len(title), *(row[title].cell_len for row in rows)) for title in rows[0]}
    room = cells - sum(widths[title] + _GAP for title in _COLUMNS if title != "job")
    if room < min(widths["job"], _JOB_CELLS_MAX):
        widths["job"] = widths["run"] - _GAP
        widths["status"] = widths["took"] = max(widths["status"], widths["took"])
        return [_FIRST_COLUMNS, _OTHER_COLUMNS], widths
    note_cells_min = min(_NOTE_CELLS_MIN, widths["note"])
    widths["job"] = min(widths["job"], max(_JOB_CELLS_MAX, room - _GAP - note_cells_min), room)
    room -= widths["job"] + _GAP
    if not any(row["note"] for row in rows) or room < note_cells_min:
        return [_COLUMNS], widths
    widths["note"] = min(widths["note"], room)
    return [(*_COLUMNS, "note")], widths


def _row_lines(
    row: Mapping[str, Text],
    lines: Sequence[Sequence[str]],
    widths: Mapping[str, int],
    options: ConsoleOptions,
) -> Iterator[Text]:
    for number, titles in enumerate(lines):
        line = Text(" " * _GAP * number, no_wrap=True)
        for title in titles:
            cell = cut(row[title].plain, widths[title], options)
            padding = " " * (widths[title] - cell_len(cell))
            line.append(cell, row[title].style).append(padding + " " * _GAP)
        line.rstrip()
        yield line


def _table_row(run: Run) -> dict[str, Text]:
    took = run.completed_at - run.started_at if run.started_at and run.completed_at else None
    return {
        "run": Text(run.id),
        "status": Text(run.status.label, RUN_STYLES[run.status]),
        "created (UTC)": Text(show_moment(run.created_at).removesuffix(" UTC")),
        "job": Text(plain(f"{run.job_id} {run.job_version}")),
        "took": Text("" if took is None else show_duration(took)),
        "executions": Text(str(run.executions)),
        "note": Text(" ".join(_remark(run).partition("\n")[0].split()), "dim"),
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


def cut(text: str, cells: int, options: ConsoleOptions) -> str:
    """`text` in at most so many cells, an ellipsis at its end if it had more."""
    if cell_len(text) <= cells:
        return text
    ellipsis = "..." if options.ascii_only else "…"
    return set_cell_size(text, max(cells - len(ellipsis), 0)) + ellipsis


def fold_value(text: str, cells: int, options: ConsoleOptions) -> list[str]:
    """JSON as lines of at most so many cells: broken after commas, never in a string; what is longer is cut."""
    lines = [""]
    for item in _JSON_ITEM.findall(text):
        if lines[-1] and cell_len(lines[-1] + item) > cells:
            lines.append("")
        lines[-1] += item
    return [cut(line, cells, options) for line in lines]


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


def _value_lines(title: str, value: Any, options: ConsoleOptions) -> Text:
    """A value in the first level of a tree, its lines aligned."""
    lines = fold_value(show_value(value), options.max_width - _INDENT - len(title), options)
    return Text.assemble(
        (title, "dim"), ("\n" + " " * len(title)).join(lines), overflow="ellipsis", no_wrap=True
    )


def _status_line(status: StatusRecord) -> Text:
    line = _line(("status ", "dim"), (plain(status.label), "bold"))
    if status.state is not None:
        line.append(f"  {status.state}", _STATE_STYLES.get(status.state, ""))
    if status.data is not None:
        line.append(f"  {show_value(status.data)}", "dim")
    return line


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
