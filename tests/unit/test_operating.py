"""What is written after a call that the platform made for a task."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perdure.engine.core.fetching import Again, Attempt, Finished, HttpResponse
from perdure.engine.core.operating import after_call, attempt_of, refused
from perdure.engine.store import OperationRow, RepeatOperation, ResolveTask
from perdure.schema.execution import PLATFORM_ROW
from perdure.schema.operations import (
    FetchOperation,
    decode_stored,
    parse_operation,
    stored_json,
)
from perdure.schema.runs import ErrorInfo, TaskStatus
from perdure.sdk.fetch import fetch_operation, poll_operation, redact_string

NOW = 1_700_000_000_000
URL = "https://api.example.com/things"


def row(**fields: Any) -> OperationRow:
    defaults: dict[str, Any] = {"run_id": "run_1", "task_id": "task_1", "due_at": NOW - 100, "attempt": 4}
    return OperationRow(**defaults | {"tries": 2, "started_at": NOW - 9_000, "operation": ""} | fields)


def written(
    operation: FetchOperation, step: Finished | Again, response: HttpResponse | None = None
) -> ResolveTask | RepeatOperation:
    return after_call(row(), operation, step, response, NOW, position=7, duration_ms=50, output_bytes_max=100)


def secretive(value: str = "s3cret", poll: bool = False) -> FetchOperation:
    make = poll_operation if poll else fetch_operation
    return make(URL, headers={"x-key": redact_string("k {}", value)})


def test_attempt_goes_on_from_what_is_stored():
    assert attempt_of(row()) == Attempt(number=2, began_at=NOW - 9_000)


def test_success_is_the_output_and_nothing_is_shown_below_a_fetch():
    change = written(fetch_operation(URL), Finished(output="[1]"), HttpResponse(status=200, body=b"[1]"))

    assert isinstance(change, ResolveTask)
    assert (change.status, change.output, change.error, change.at) == (TaskStatus.COMPLETED, "[1]", None, NOW)
    assert change.tasks == []


@pytest.mark.parametrize("size, fits", [(98, True), (99, False)])
def test_output_over_the_limit_fails_the_task(size: int, fits: bool):
    change = written(fetch_operation(URL), Finished(output=json.dumps("x" * size)))

    assert isinstance(change, ResolveTask)
    assert (change.status is TaskStatus.COMPLETED) is fits
    if not fits:
        assert change.error is not None
        assert change.output is None
        assert change.error.name == "LimitExceededError"
        assert "101" in change.error.message


def test_failure_keeps_what_was_answered_unless_that_is_too_large():
    error = ErrorInfo(name="FetchStatusError", message="Fetch failed with status 404")

    small = written(fetch_operation(URL), Finished(output='{"a":1}', error=error))
    large = written(fetch_operation(URL), Finished(output=json.dumps("x" * 200), error=error))

    assert isinstance(small, ResolveTask)
    assert isinstance(large, ResolveTask)
    assert (small.status, small.output, small.error) == (TaskStatus.ERRORED, '{"a":1}', error)
    assert (large.status, large.output, large.error) == (TaskStatus.ERRORED, None, error)


def test_another_try_keeps_its_count():
    again = Again(at_ms=NOW + 500, reason="s3cret: 503", attempt=Attempt(number=3, began_at=NOW - 9_000))

    change = written(secretive(), again, HttpResponse(status=503))

    [shown] = change.tasks
    assert change == RepeatOperation(
        run_id="run_1", task_id="task_1", attempt=4, due_at=NOW + 500, tries=3, tasks=[shown]
    )
    assert (shown.name, shown.status, shown.opened) == ("attempt", TaskStatus.ERRORED, PLATFORM_ROW)
    assert shown.error is not None
    assert shown.error.message == "********: 503"


@pytest.mark.parametrize(
    "step",
    [Finished(output="1"), Again(at_ms=NOW, reason="", attempt=Attempt(began_at=0))],
    ids=["end", "again"],
)
def test_each_response_of_a_poll_is_a_row_of_the_platforms(step: Finished | Again):
    change = written(poll_operation(URL), step, HttpResponse(status=202, body=b'{"a":1}'))

    [shown] = change.tasks
    assert (shown.name, shown.parent_id, shown.position, shown.opened) == (
        "poll attempt",
        "task_1",
        7,
        PLATFORM_ROW,
    )
    assert (shown.status, shown.started_at, shown.completed_at) == (TaskStatus.COMPLETED, NOW - 50, NOW)
    assert json.loads(shown.details or "")["params"] == {"status": 202, "headers": {}, "body": {"a": 1}}


def test_secret_that_comes_back_is_hidden_from_people():
    operation = secretive(poll=True)
    body = json.dumps({"s3cret": ["a s3cret b", 1, None], "n": {"k": "s3cret"}}).encode()
    error = ErrorInfo(name="E", message="s3cret is no good")

    change = written(
        operation,
        Finished(output=body.decode(), error=error),
        HttpResponse(status=401, headers={"x-echo": "s3cret"}, body=body),
    )

    assert isinstance(change, ResolveTask)
    assert change.error is not None
    assert change.error.message == "******** is no good"
    assert "s3cret" not in f"{change}"
    assert json.loads(change.output or "") == {"********": ["a ******** b", 1, None], "n": {"k": "********"}}


@pytest.mark.parametrize("secret", ['"', "1", ":", "\\", "a", "params"])
def test_whatever_the_secret_is_what_is_shown_stays_json(secret: str):
    body = json.dumps({"params": [1, "1", ":", '"', "\\", "a"]}).encode()

    change = written(
        secretive(secret, poll=True),
        Finished(output=body.decode(), error=ErrorInfo(name="E", message="m")),
        HttpResponse(status=401, body=body),
    )

    assert isinstance(change, ResolveTask)
    json.loads(change.output or "")
    json.loads(change.tasks[0].details or "")


def test_longer_secret_is_hidden_before_one_that_is_part_of_it():
    operation = fetch_operation(
        URL, headers={"a": redact_string("{}", "abc"), "b": redact_string("{}", "abcdef")}
    )

    assert operation.hide("xabcdefx abc") == "x********x ********"


def test_request_without_secrets_hides_nothing():
    value = {"a": ["b"]}

    assert fetch_operation(URL).hide(value) is value


def test_refused_operation_fails_its_task():
    change = refused(row(), ErrorInfo(name="UsageError", message="no"), NOW)

    assert (change.task_id, change.status, change.output) == ("task_1", TaskStatus.ERRORED, None)


def test_operation_is_stored_with_its_secrets_and_its_place():
    operation = secretive()

    stored = decode_stored(stored_json(operation, 12))

    assert stored.position == 12
    assert stored.operation() == operation
    assert stored.operation().secrets() == ["s3cret"]


def test_stored_operation_that_is_none_says_so():
    stored = decode_stored('{"kind":"teleport","params":{}}')

    with pytest.raises(ValueError, match="teleport"):
        stored.operation()
    assert parse_operation("fetch", '{"url":"x"}').kind == "fetch"
