"""Records as people see them: `perdure.engine.views` and how `perdure.cli.render` draws them."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from json import dumps, loads
from typing import Any

import pytest
from rich.console import Console

from perdure.cli import render
from perdure.engine import views
from perdure.engine.store import RunRow
from perdure.schema.execution import EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import ErrorInfo, Run, RunStatus, Task, TaskStatus

T0 = 1_767_225_600_000  # 2026-01-01 00:00:00 UTC
START = datetime(2026, 1, 1, tzinfo=UTC)


def decode(json: str, types: str | None) -> Any:
    value = loads(json)
    return (types, value) if types else value


def make_row(**given: Any) -> RunRow:
    defaults: dict[str, Any] = {
        "id": "run_1",
        "job_id": "job",
        "job_version": "1.0.0",
        "event_id": "evt_1",
        "status": RunStatus.COMPLETED,
        "created_at": T0,
    }
    return RunRow(**defaults | given)


def make_record(key: str = "fetch", **given: Any) -> TaskRecord:
    defaults: dict[str, Any] = {
        "id": f"id-{key}",
        "idempotency_key": "0" * 64,
        "key": key,
        "name": key,
        "status": TaskStatus.COMPLETED,
        "position": 0,
    }
    return TaskRecord(**defaults | given)


def make_run(*tasks: TaskRecord, logs: tuple[LogRecord, ...] = (), **given: Any) -> Run:
    return views.to_run(make_row(**given), decode=decode, tasks=tasks, logs=logs)


def draw(renderable: Any, *, width: int = 200, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    Console(file=stream, width=width).print(renderable)
    stream.flush()
    stream.seek(0)
    return stream.read()


# --- views --------------------------------------------------------------------------------------------------------------


def test_run_has_instants_as_aware_datetimes_and_values_decoded():
    row = make_row(
        started_at=T0 + 5,
        completed_at=T0 + 2005,
        spent_ms=1500,
        execution=3,
        output='{"a": [1]}',
        reason="why",
    )
    event = EventRecord(id="evt_1", name="foo", payload='{"url": "x"}', timestamp=T0)

    run = views.to_run(row, decode=decode, event=event)

    assert run.created_at == START
    assert run.started_at == START + timedelta(milliseconds=5)
    assert run.completed_at == START + timedelta(milliseconds=2005)
    assert run.execution_duration == timedelta(seconds=1.5)
    assert (run.executions, run.output, run.payload, run.reason) == (3, {"a": [1]}, {"url": "x"}, "why")


def test_run_without_event_or_output_has_none():
    run = views.to_run(make_row(), decode=decode)

    assert run.payload is None
    assert run.output is None
    assert run.wake_at is None


def test_types_reach_the_decoder():
    run = make_run(make_record(output="[1]", types='{"": "tuple"}'), output="[2]", types='{"": "set"}')

    assert run.output == ('{"": "set"}', [2])
    assert run.tasks[0].output == ('{"": "tuple"}', [1])


def test_task_details_are_unpacked():
    details = {
        "description": "gets it",
        "icon": "globe",
        "params": {"url": "x"},
        "properties": [{"label": "Url", "text": "x"}],
        "style": {"style": "minimal"},
    }

    task = views.to_task(make_record(details=dumps(details)), decode=decode)

    assert {name: getattr(task, name) for name in details} == details


@pytest.mark.parametrize(
    "status, expected",
    [
        pytest.param(TaskStatus.WAITING, START, id="waiting"),
        pytest.param(TaskStatus.RUNNING, None, id="a running body's deadline is no delay"),
        pytest.param(TaskStatus.COMPLETED, None, id="completed"),
    ],
)
def test_delay_until_is_told_of_waiting_tasks_only(status: TaskStatus, expected: datetime | None):
    assert views.to_task(make_record(status=status, due_at=T0), decode=decode).delay_until == expected


def test_redacted_members_of_output_and_params_are_blanked():
    details = {"redact": ["user.token", "secret"], "params": {"secret": 1, "open": 2}}
    output = {"user": {"token": "s3cret", "name": "Ann"}}

    task = views.to_task(make_record(output=dumps(output), details=dumps(details)), decode=decode)

    assert task.output == {"user": {"token": "[REDACTED]", "name": "Ann"}}
    assert task.params == {"secret": "[REDACTED]", "open": 2}


@pytest.mark.parametrize(
    "value, path, expected",
    [
        pytest.param({"a": {"b": 1}}, "a", {"a": "[REDACTED]"}, id="a whole object"),
        pytest.param({"a": None}, "a", {"a": "[REDACTED]"}, id="a null"),
        pytest.param({"a": 1}, "b", {"a": 1}, id="a path that leads nowhere"),
        pytest.param({"a": 1}, "a.b", {"a": 1}, id="a path through a number"),
        pytest.param([1, 2], "0", [1, 2], id="not an object"),
        pytest.param(None, "a", None, id="nothing"),
    ],
)
def test_redact(value: Any, path: str, expected: Any):
    before = dumps(value)

    assert views.redact(value, [path]) == expected
    assert dumps(value) == before


def test_event_lists_its_runs():
    record = EventRecord(id="evt_1", name="foo", payload="1", context='{"c": 2}', timestamp=T0, is_test=True)
    record.delivered_at = T0

    event = views.to_event(record, decode=decode, runs=[make_row()])

    assert (event.payload, event.context, event.is_test) == (1, {"c": 2}, True)
    assert event.timestamp == event.delivered_at == START
    assert [(run.id, run.job_id, run.status) for run in event.runs] == [("run_1", "job", RunStatus.COMPLETED)]


# --- render -------------------------------------------------------------------------------------------------------------


def test_tree_nests_tasks_and_tells_what_happened():
    run = make_run(
        make_record("parent", started_at=T0 + 10, completed_at=T0 + 1260, attempts=3, output='{"n": 1}'),
        make_record("child", parent_id="id-parent", status=TaskStatus.WAITING, due_at=T0 + 60_000),
        make_record("bad", status=TaskStatus.ERRORED, error=ErrorInfo(name="ValueError", message="boom")),
        status=RunStatus.FAILED,
        started_at=T0,
        error=ErrorInfo(name="TaskError", message="task 'bad' failed"),
        reason="because",
    )

    lines = draw(render.RunTree(run, annotations={"id-parent": "before the kill"})).splitlines()

    text = "\n".join(line.rstrip() for line in lines)
    assert "run_1  Failed  job 1.0.0, 0 executions" in text
    assert '├── ✓ parent     at 10 ms, took 1.25 s, 3 attempts  before the kill  = {"n":1}' in text
    assert "│   └── ◷ child  until 2026-01-01 00:01:00 UTC, waiting\n" in text
    assert "✗ bad        failed\n│   └── ValueError: boom" in text
    assert "run failed: TaskError: task 'bad' failed" in text
    assert "because" in text


def test_one_long_key_does_not_push_the_columns_of_the_others():
    run = make_run(make_record("short", attempts=2), make_record("long" * 20, attempts=2))

    text = draw(render.RunTree(run))

    assert "✓ short  2 attempts\n" in text
    assert f"✓ {'long' * 20}  2 attempts\n" in text


OUTPUTS = [make_record("a", output="[]"), make_record("b", attempts=3, output=dumps("x" * 60))]


def test_outputs_stand_beside_all_tasks_shortened_if_need_be():
    lines = [line.rstrip() for line in draw(render.RunTree(make_run(*OUTPUTS)), width=60).splitlines()]

    assert "├── ✓ a              = []" in lines
    assert f'├── ✓ b  3 attempts  = "{"x" * 35}…' in lines


def test_outputs_stand_below_all_tasks_if_one_has_no_room_beside_it():
    lines = [line.rstrip() for line in draw(render.RunTree(make_run(*OUTPUTS)), width=32).splitlines()]

    assert lines[-5:-1] == [
        "├── ✓ a",
        "│     = []",
        "├── ✓ b  3 attempts",
        f'│     = "{"x" * 22}…',
    ]


@pytest.mark.parametrize("width", range(30, 90, 7))
def test_json_is_not_broken_inside_a_string(width: int):
    output = {"status": "success", "title": 'Plain, "quoted" words', "missing": ["a, b", "c"]}

    text = draw(render.RunTree(make_run(output=dumps(output))), width=width)

    first, *others = text.partition("output ")[2].splitlines()
    assert [line[:11] for line in others] == [" " * 11] * len(others)
    shown = [first.rstrip(), *(line.strip() for line in others)]
    assert all(line.endswith((",", "}", "…")) for line in shown)
    if not any("…" in line for line in shown):
        assert loads("".join(shown)) == output


def test_log_lines_stand_between_the_tasks_they_were_written_between():
    run = make_run(
        make_record("first", started_at=T0),
        make_record("second", started_at=T0 + 100),
        logs=(
            LogRecord(id="1", level="INFO", message="between", at=T0 + 50, data='{"n":1}'),
            LogRecord(id="2", level="WARN", message="inside", at=T0 + 120, task_id="id-second"),
            LogRecord(id="3", level="ERROR", message="last", at=T0 + 200),
        ),
        started_at=T0,
    )

    text = draw(render.RunTree(run))

    order = [text.index(part) for part in ("first", 'between  {"n":1}', "second", "inside", "last")]
    assert order == sorted(order)
    assert "│   └── warn inside" in text


def test_stacks_are_shown_on_request():
    run = make_run(error=ErrorInfo(name="E", message="m", stack="Traceback: here"), status=RunStatus.FAILED)

    assert "Traceback" not in draw(render.RunTree(run))
    assert "Traceback: here" in draw(render.RunTree(run, stacks=True))


def test_a_task_without_its_parent_is_still_shown():
    assert "orphan" in draw(render.RunTree(make_run(make_record("orphan", parent_id="gone"))))


def test_ascii_only_streams_get_ascii():
    run = make_run(
        make_record("a", output='"' + "x" * 1000 + '"'), make_record("b", status=TaskStatus.ERRORED)
    )

    text = draw(render.RunTree(run), encoding="ascii")

    assert "+ a" in text
    assert "x b" in text


def test_what_users_wrote_is_neither_markup_nor_obeyed_by_the_terminal():
    run = make_run(
        make_record("[bold]key[/bold]", output='"\\u009b31m"'),
        logs=(LogRecord(id="1", level="INFO", message="\x1b]0;title\x07", at=T0),),
        job_id="\x1b[31mjob",
    )

    text = draw(render.RunTree(run)) + draw(render.RunTable([run]))

    assert "[bold]key[/bold]" in text
    assert not {"\x1b", "\x07", "\x9b"} & set(text)


def test_long_values_are_cut():
    assert render.show_value("x" * 1000, chars_max=10) == '"xxxxxx...'


def test_values_that_are_no_json_are_shown_all_the_same():
    assert render.show_value({"d": timedelta(seconds=1), "c": 1 + 2j}) == '{"d":"PT1S","c":"(1+2j)"}'
    assert render.show_value({(1, 2): 3}) == '{"(1, 2)":3}'


@pytest.mark.parametrize(
    "duration, expected",
    [
        pytest.param(timedelta(0), "0 ms", id="zero"),
        pytest.param(timedelta(milliseconds=999), "999 ms", id="milliseconds"),
        pytest.param(timedelta(seconds=1.25), "1.25 s", id="seconds"),
        pytest.param(timedelta(minutes=1), "1 min", id="a whole minute"),
        pytest.param(timedelta(minutes=4, seconds=5), "4 min 5 s", id="minutes"),
        pytest.param(timedelta(hours=3, minutes=12), "3 h 12 min", id="hours"),
        pytest.param(timedelta(days=2, hours=3, minutes=59), "2 d 3 h", id="days"),
    ],
)
def test_durations_are_readable(duration: timedelta, expected: str):
    assert render.show_duration(duration) == expected


def test_every_status_has_its_look():
    assert set(render.RUN_STYLES) == set(RunStatus)
    assert set(render.TASK_SIGNS) == set(TaskStatus)


def test_table_shows_runs_with_what_went_wrong():
    failed = make_run(status=RunStatus.FAILED, error=ErrorInfo(name="ValueError", message="boom\nmore"))

    text = draw(render.RunTable([failed]))

    assert "run_1" in text
    assert "Failed" in text
    assert "ValueError: boom" in text
    assert "more" not in text


ENDINGS: list[tuple[RunStatus, str, dict[str, Any]]] = [
    (RunStatus.COMPLETED, "short", {}),
    (RunStatus.WAITING_ON_CONNECTIONS, "short", {}),
    (RunStatus.FAILED, "a-job-with-a-long-name" * 3, {"error": ErrorInfo(name="E", message="m" * 300)}),
    (RunStatus.INVALID_PAYLOAD, "short", {"error": ErrorInfo(name="E", message="url:\tno URL\nmore")}),
    (RunStatus.PENDING, "short", {"reason": "no process defines the job"}),
]
MANY_RUNS = [
    make_run(
        id=f"run_{number:026}",
        job_id=job_id,
        started_at=T0,
        completed_at=T0 + 3_720_000,
        execution=12,
        status=status,
        **given,
    )
    for number, (status, job_id, given) in enumerate(ENDINGS)
]


@pytest.mark.parametrize(
    "runs", [pytest.param(MANY_RUNS, id="with notes"), pytest.param(MANY_RUNS[:1], id="without")]
)
@pytest.mark.parametrize("width", [80, 90, 100, 110, 120, 140, 160, 200, 1000])
def test_table_has_all_columns_at_every_width(width: int, runs: list[Run]):
    text = draw(render.RunTable(runs), width=width)

    header = text.partition("run_0")[0].split()
    assert header[:7] == ["run", "status", "created", "(UTC)", "job", "took", "executions"]
    assert header[7:] in ([], ["note"])
    assert max(map(len, text.splitlines())) <= width
    for run in runs:
        assert re.search(
            rf"^{run.id}  {run.status.label} +2026-01-01 00:00:00\s+{run.job_id[:20]}.* 1 h 2 min +12\b",
            text,
            re.MULTILINE,
        )


@pytest.mark.parametrize("width", [80, 120, 160, 200])
def test_note_is_shortened_in_its_column_or_stands_below_its_run(width: int):
    text = draw(render.RunTable(MANY_RUNS), width=width)

    assert re.search(r"E: m+…$", text, re.MULTILINE)
    assert re.search(r"E: url: no URL$", text, re.MULTILINE)
    notes = [line for line in text.splitlines() if "no process" in line]
    assert notes == ["  no process defines the job"] or "executions  note\n" in text


def test_table_on_an_ascii_stream_is_ascii():
    assert re.search(
        r"E: m+\.\.\.$", draw(render.RunTable(MANY_RUNS), width=80, encoding="ascii"), re.MULTILINE
    )


def test_table_without_runs_says_so():
    assert draw(render.RunTable([])).strip() == "no runs"


def test_deep_nesting_is_drawn():
    tasks = [
        Task(
            id=str(depth),
            idempotency_key="",
            key=f"t{depth}",
            name=f"t{depth}",
            status=TaskStatus.COMPLETED,
            parent_id=str(depth - 1) if depth else None,
        )
        for depth in range(300)
    ]
    run = Run(
        id="r",
        job_id="j",
        job_version="1",
        status=RunStatus.COMPLETED,
        event_id="e",
        created_at=START,
        tasks=tasks,
    )

    assert "t299" in draw(render.RunTree(run), width=2000)
