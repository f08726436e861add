"""What becomes of the platform's requests, from the protocol's task operations and the improvements named in the module."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perdure.clock import parse_instant
from perdure.engine.core.fetching import (
    Again,
    Attempt,
    Finished,
    Happened,
    HttpResponse,
    Refused,
    RequestTimedOut,
    Unreachable,
    expired,
    next_step,
    request_of,
    reset_at,
    status_matches,
)
from perdure.engine.core.operating import poll_attempt
from perdure.schema.operations import FetchOperation, parse_operation

NOW = 1_700_000_000_000
URL = "https://api.example.com/v1/things?key=abc"


def fetch(kind: str = "fetch", **params: Any) -> FetchOperation:
    return parse_operation(kind, json.dumps({"url": URL, **params}))


def poll(**params: Any) -> FetchOperation:
    return fetch("fetch-poll", **params)


def answer(status: int = 200, body: Any = None, text: bytes | None = None, **headers: str) -> HttpResponse:
    return HttpResponse(
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=json.dumps(body).encode() if text is None else text,
    )


def step(
    operation: FetchOperation,
    happened: Happened,
    attempt: int = 1,
    now: int = NOW,
    began_at: int = NOW,
    chance: float = 0.0,
) -> Finished | Again:
    return next_step(operation, Attempt(number=attempt, began_at=began_at), happened, now, chance)


def finished(operation: FetchOperation, happened: Happened, **where: Any) -> Finished:
    found = step(operation, happened, **where)
    assert isinstance(found, Finished)
    return found


def again(operation: FetchOperation, happened: Happened, **where: Any) -> Again:
    found = step(operation, happened, **where)
    assert isinstance(found, Again)
    return found


def message(found: Finished) -> str:
    assert found.error is not None
    return found.error.message


# --- the request --------------------------------------------------------------------------------------------------------


def test_request_defaults_to_a_get_without_body():
    request = request_of(fetch())

    assert (request.method, request.url, request.headers, request.body) == ("GET", URL, {}, None)


def test_secrets_are_revealed_in_the_request_and_known_as_such():
    secret = {"__redactedString": True, "strings": ["Bearer ", ""], "interpolations": ["sk-1"]}
    init = {"method": "post", "headers": {"Authorization": secret, "X-A": "1"}, "body": "{}"}

    request = request_of(fetch(requestInit=init))

    assert request.method == "POST"
    assert request.headers["Authorization"] == "Bearer sk-1"
    assert request.headers["X-A"] == "1"
    assert request.body == b"{}"
    assert request.secret_headers == {"authorization"}


@pytest.mark.parametrize(
    "headers, expected",
    [
        pytest.param({}, "text/plain;charset=UTF-8", id="as fetch of the reference's runtime says"),
        pytest.param({"Content-Type": "application/json"}, "application/json", id="the user's own"),
    ],
)
def test_a_body_has_a_content_type(headers: dict[str, str], expected: str):
    request = request_of(fetch(requestInit={"method": "POST", "headers": headers, "body": "é"}))

    assert [value for name, value in request.headers.items() if name.lower() == "content-type"] == [expected]
    assert request.body == "é".encode()


@pytest.mark.parametrize(
    "operation, expected",
    [
        (fetch(), 120_000),
        (fetch(timeout={"durationInMs": 5_000}), 5_000),
        (fetch(timeout={"durationInMs": 1}), 1_000),
        (fetch(timeout={"durationInMs": 10_000_000}), 300_000),
        (poll(), 5_000),
        (poll(requestTimeout={"durationInMs": 2_000}), 2_000),
        (poll(requestTimeout={"durationInMs": 10}), 1_000),
        (poll(requestTimeout={"durationInMs": 60_000}), 5_000),
    ],
)
def test_timeouts_are_clamped(operation: FetchOperation, expected: int):
    assert request_of(operation).timeout_ms == expected


@pytest.mark.parametrize(
    "kind, params",
    [
        ("fetch", "{}"),
        ("fetch", "no json"),
        ("fetch", '{"url": "https://x", "retry": {"all": {"strategy": "hope"}}}'),
        ("fetch", '{"url": "https://x", "requestInit": {"headers": {"a": {"__redactedString": false}}}}'),
        ("fetch-poll", '{"url": "https://x", "interval": 9}'),
        ("fetch-poll", '{"url": "https://x", "timeout": 3601}'),
        ("fetch-everything", '{"url": "https://x"}'),
    ],
)
def test_params_that_do_not_fit_are_refused_with_a_text(kind: str, params: str):
    with pytest.raises(ValueError, match="task operation"):
        parse_operation(kind, params)


# --- 2xx ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, output",
    [
        pytest.param(b'{ "a": [1, 2.50] }', '{"a":[1,2.50]}', id="compact, numbers as they were"),
        pytest.param(b"\xef\xbb\xbf[1]", "[1]", id="byte order mark"),
        pytest.param(b"<html>", "null", id="not JSON"),
        pytest.param(b"", "null", id="empty"),
        pytest.param(b'"\xff"', "null", id="not UTF-8"),
        pytest.param(b'"\\ud800"', "null", id="half a surrogate pair"),
        pytest.param(b"[" * 100_000, "null", id="too deep"),
    ],
)
def test_fetch_gives_the_json_of_the_body(text: bytes, output: str):
    found = finished(fetch(), answer(204, text=text, x_a="1"))

    assert found == Finished(output=output, headers={"x-a": "1"})


def test_fetch_response_gives_status_data_and_headers():
    found = finished(fetch("fetch-response"), answer(201, {"id": 1}, x_a="1"))

    assert json.loads(found.output) == {"status": 201, "data": {"id": 1}, "headers": {"x-a": "1"}}
    assert found.error is None


# --- other statuses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern, fits, fits_not",
    [
        ("all", [100, 404, 599], []),
        ("429", [429], [428]),
        ("401,403", [401, 403], [402, 404]),
        ("401, 5xx", [401, 503], [402]),
        ("500-599", [500, 550, 599], [499, 600]),
        ("4xx", [400, 499], [500, 399]),
        ("4XX", [404], [504]),
        ("42x", [420, 429], [430, 419]),
        ("nonsense", [], [400, 500]),
        ("", [], [400]),
        ("4x", [], [404]),
    ],
)
def test_status_patterns(pattern: str, fits: list[int], fits_not: list[int]):
    assert [status for status in [*fits, *fits_not] if status_matches(pattern, status)] == fits


def test_bad_status_without_a_rule_fails_with_the_body():
    found = finished(fetch(retry={"5xx": {"strategy": "backoff"}}), answer(404, {"message": "no such thing"}))

    assert json.loads(found.output) == {"message": "no such thing"}
    assert found.error is not None
    assert found.error.name == "FetchStatusError"
    assert message(found) == "Fetch failed with status 404: no such thing"


@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"0", b"false", b'""'])
def test_bad_status_with_nothing_to_say_fails_with_its_number(body: bytes):
    found = finished(fetch(), answer(500, text=body))

    assert json.loads(found.output) == {"message": "Fetch failed with status 500"}
    assert message(found) == "Fetch failed with status 500"


def test_empty_object_is_something_to_say():
    assert finished(fetch(), answer(500, {})).output == "{}"


def test_message_of_an_error_is_bounded():
    found = finished(fetch(), answer(500, {"a": "x" * 1_000_000}))

    assert len(message(found)) < 3_000


BACKOFF = {
    "strategy": "backoff",
    "limit": 3,
    "factor": 2,
    "minTimeoutInMs": 1_000,
    "maxTimeoutInMs": 9_000,
    "randomize": False,
}


@pytest.mark.parametrize("attempt, delay", [(1, 1_000), (2, 1_000)])
def test_backoff_grows_as_that_of_tasks(attempt: int, delay: int):
    found = again(fetch(retry={"5xx": BACKOFF}), answer(503), attempt=attempt)

    assert found.at_ms == NOW + delay
    assert found.attempt == Attempt(number=attempt + 1, began_at=NOW)
    assert found.reason == "Fetch failed with status 503"


def test_backoff_ends_with_its_limit_of_tries():
    found = finished(fetch(retry={"5xx": BACKOFF}), answer(503), attempt=3)

    assert "status 503 (attempt 3 of 3)" in message(found)


def test_backoff_never_grows_beyond_its_longest_delay():
    operation = fetch(retry={"all": {**BACKOFF, "limit": 1e9, "factor": 1e300}})

    assert again(operation, answer(500), attempt=1_000).at_ms == NOW + 9_000


def test_backoff_has_the_protocols_defaults():
    operation = fetch(retry={"all": {"strategy": "backoff"}})

    assert again(operation, answer(500), attempt=4, chance=0.5).at_ms == NOW + round(1.5 * 1_000 * 1.8**2)
    assert isinstance(step(operation, answer(500), attempt=5), Finished)


@pytest.mark.parametrize("limit", [0, 1])
def test_backoff_with_a_limit_of_one_never_tries_again(limit: int):
    assert isinstance(step(fetch(retry={"all": {**BACKOFF, "limit": limit}}), answer(500)), Finished)


def test_first_pattern_that_fits_decides():
    slow = {**BACKOFF, "minTimeoutInMs": 5_000}

    assert again(fetch(retry={"503": slow, "5xx": BACKOFF}), answer(503)).at_ms == NOW + 5_000
    assert again(fetch(retry={"5xx": BACKOFF, "503": slow}), answer(503)).at_ms == NOW + 1_000


def test_body_filter_is_part_of_fitting():
    busy = {**BACKOFF, "bodyFilter": {"code": ["busy"]}}
    operation = fetch(retry={"4xx": busy, "409": {**BACKOFF, "minTimeoutInMs": 5_000}})

    assert again(operation, answer(409, {"code": "busy"})).at_ms == NOW + 1_000
    assert again(operation, answer(409, {"code": "other"})).at_ms == NOW + 5_000
    assert again(operation, answer(409, text=b"no json")).at_ms == NOW + 5_000
    assert isinstance(step(operation, answer(400, {"code": "other"})), Finished)


def by_headers(**more: str) -> FetchOperation:
    rule = {
        "strategy": "headers",
        "limitHeader": "x-l",
        "remainingHeader": "x-r",
        "resetHeader": "X-Reset",
        **more,
    }
    return fetch(retry={"429": rule})


def test_headers_strategy_comes_back_when_told():
    found = again(by_headers(), answer(429, x_reset=str(NOW // 1_000 + 60)), attempt=40)

    assert found.at_ms == NOW + 60_000


@pytest.mark.parametrize("headers", [{}, {"x-reset": "soon"}], ids=["missing", "unreadable"])
def test_headers_strategy_without_a_time_fails_and_says_why(headers: dict[str, str]):
    found = finished(by_headers(), HttpResponse(status=429, headers=headers))

    assert "header 'X-Reset'" in message(found)
    assert "unix_timestamp" in message(found)
    assert json.loads(found.output) == {"message": "Fetch failed with status 429"}


@pytest.mark.parametrize(
    "format, told, offset_ms",
    [
        ("unix_timestamp", str(NOW // 1_000 + 5), 5_000),
        ("unix_timestamp", f"{NOW // 1_000 + 5}.25", 5_250),
        ("unix_timestamp_in_ms", str(NOW + 1_234), 1_234),
        ("iso_8601", "2023-11-14T22:13:30Z", 10_000),
        ("iso_8601", "2023-11-14T23:13:30.500+01:00", 10_500),
        ("iso_8601", "2023-11-14T22:13:30", 10_000),
        ("iso_8601_duration_openai_variant", "1d2h3m4.5s6ms", 93_784_506),
        ("iso_8601_duration_openai_variant", "6m0s", 360_000),
        ("iso_8601_duration_openai_variant", "2m", 120_000),
        ("iso_8601_duration_openai_variant", "1500ms", 1_500),
        ("iso_8601_duration_openai_variant", "1m2000ms", 62_000),
        ("iso_8601_duration_openai_variant", "0.5s", 1_000),
        ("unix_timestamp", str(NOW // 1_000 - 3), 1_000),
        ("iso_8601", "1999-01-01", 1_000),
    ],
)
def test_reset_times(format: Any, told: str, offset_ms: int):
    assert reset_at(told, format, NOW) == NOW + offset_ms


@pytest.mark.parametrize(
    "format, told",
    [
        ("unix_timestamp", ""),
        ("unix_timestamp", "tomorrow"),
        ("unix_timestamp", "-5"),
        ("unix_timestamp", "nan"),
        ("unix_timestamp", "1e400"),
        ("unix_timestamp", "9" * 400),
        ("unix_timestamp", str(NOW)),  # milliseconds taken for seconds: the year 55,840
        ("unix_timestamp_in_ms", "12h"),
        ("iso_8601", "next week"),
        ("iso_8601", "9999-12-31T23:59:59Z"),
        ("iso_8601_duration_openai_variant", ""),
        ("iso_8601_duration_openai_variant", "5"),
        ("iso_8601_duration_openai_variant", "5s2m"),
        ("iso_8601_duration_openai_variant", "999999999d"),
    ],
)
def test_reset_times_that_cannot_be_read(format: Any, told: str):
    assert reset_at(told, format, NOW) is None


def test_instants_in_text():
    assert parse_instant("1970-01-01T00:00:01Z") == 1_000
    assert parse_instant("0001-01-01T00:00:00+14:00") is not None
    assert parse_instant("yesterday") is None


# --- no response --------------------------------------------------------------------------------------------------------


def test_timeout_without_a_rule_fails():
    found = finished(fetch(), RequestTimedOut(after_ms=120_000))

    assert json.loads(found.output) == {"message": "Fetch timed out after 120000ms"}
    assert found.error is not None
    assert found.error.types == ["FetchTimeoutError", "TimeoutError"]


def test_timeout_with_a_rule_is_tried_again():
    operation = fetch(timeout={"durationInMs": 2_000, "retry": {"limit": 2, "randomize": False}})

    assert again(operation, RequestTimedOut(after_ms=2_000)).at_ms == NOW + 1_000
    assert isinstance(step(operation, RequestTimedOut(after_ms=2_000), attempt=2), Finished)


def test_rules_for_statuses_are_not_for_timeouts():
    assert isinstance(step(fetch(retry={"all": BACKOFF}), RequestTimedOut(after_ms=1)), Finished)


LOST = Unreachable(problem="ConnectError: refused")


def test_unreachable_host_is_tried_three_times_then_the_task_fails():
    operation = fetch()

    assert again(operation, LOST, attempt=1).at_ms >= NOW + 1_000
    assert again(operation, LOST, attempt=2).at_ms >= NOW + 1_000
    found = finished(operation, LOST, attempt=3)
    assert message(found) == "Fetch could not reach api.example.com: ConnectError: refused (3 attempts)"
    assert found.error is not None
    assert found.error.types == ["FetchConnectionError", "ConnectionError"]


def test_unreachable_host_follows_the_operations_rule_for_all():
    operation = fetch(retry={"404": BACKOFF, "all": {**BACKOFF, "limit": 7, "minTimeoutInMs": 4_000}})

    assert again(operation, LOST, attempt=6).at_ms == NOW + 9_000
    assert isinstance(step(operation, LOST, attempt=7), Finished)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param({**BACKOFF, "limit": 9, "bodyFilter": {"a": [1]}}, id="asks for a body"),
        pytest.param({"strategy": "headers", "resetHeader": "x"}, id="asks for headers"),
    ],
)
def test_rules_that_need_a_response_are_not_for_unreachable_hosts(rule: dict[str, Any]):
    assert isinstance(step(fetch(retry={"all": rule}), LOST, attempt=3), Finished)


def test_no_message_has_path_query_or_credentials():
    operation = parse_operation("fetch", '{"url": "https://user:pw@host.example:8443/secret/path?token=1"}')

    assert "could not reach host.example:8443:" in message(finished(operation, LOST, attempt=3))


@pytest.mark.parametrize("operation", [fetch(retry={"all": BACKOFF}), poll()])
def test_what_can_never_work_is_not_tried_again(operation: FetchOperation):
    found = finished(operation, Refused(problem="the URL is no URL"))

    assert message(found) == "the URL is no URL"


# --- polls --------------------------------------------------------------------------------------------------------------


def test_poll_without_filter_takes_the_first_response():
    assert finished(poll(), answer(500, {"a": 1})).output == '{"a":1}'


@pytest.mark.parametrize(
    "filter, response, matches",
    [
        ({"status": [200, 201]}, answer(201), True),
        ({"status": [200]}, answer(202), False),
        ({"headers": {"X-State": ["done"]}}, answer(x_state="done"), True),
        ({"headers": {"x-state": [{"$startsWith": "do"}]}}, answer(x_state="done"), True),
        ({"headers": {"x-state": ["done"]}}, answer(x_state="busy"), False),
        ({"headers": {"x-state": ["done"]}}, answer(), False),
        ({"body": {"state": ["done"]}}, answer(body={"state": "done"}), True),
        ({"body": {"state": ["done"]}}, answer(body={"state": "busy"}), False),
        ({"body": {"state": ["done"]}}, answer(text=b"no json"), False),
        ({"body": {}}, answer(text=b"no json"), False),
        ({"status": [200], "body": {"a": [1]}}, answer(404, {"a": 1}), False),
        ({}, answer(404), True),
    ],
)
def test_poll_ends_when_status_headers_and_body_match(
    filter: dict[str, Any], response: HttpResponse, matches: bool
):
    assert isinstance(step(poll(responseFilter=filter), response), Finished) is matches


WAITING = {"responseFilter": {"body": {"state": ["done"]}}}


def test_poll_comes_back_after_its_interval():
    found = again(poll(interval=20, **WAITING), answer(body={"state": "busy"}), attempt=3)

    assert found.at_ms == NOW + 20_000
    assert found.attempt == Attempt(number=1, began_at=NOW)


def test_poll_looks_a_last_time_at_its_deadline():
    operation = poll(interval=20, timeout=30, **WAITING)
    deadline = NOW + 30_000
    last = Attempt(began_at=NOW)

    assert again(operation, answer(), now=NOW + 20_000).at_ms == deadline
    assert expired(operation, last, deadline) is None
    assert message(finished(operation, answer(), now=deadline)) == "Task timed out after 30 seconds"
    assert finished(operation, answer(body={"state": "done"}), now=deadline).error is None


def test_poll_that_wakes_after_its_deadline_sends_nothing():
    found = expired(poll(timeout=30), Attempt(began_at=NOW), NOW + 30_001)

    assert found is not None
    assert json.loads(found.output) == {"message": "Task timed out after 30 seconds"}
    assert found.error is not None
    assert "TimeoutError" in found.error.types


def test_a_fetch_has_no_deadline():
    assert expired(fetch(), Attempt(began_at=0), NOW) is None


def test_poll_request_that_takes_too_long():
    slow = RequestTimedOut(after_ms=5_000)

    assert message(finished(poll(), slow)) == "Fetch timed out after 5000ms"
    patient = poll(requestTimeout={"durationInMs": 5_000, "retry": {"limit": 2, "randomize": False}})
    assert again(patient, slow).at_ms == NOW + 1_000
    assert isinstance(step(patient, slow, attempt=2), Finished)


def test_poll_gives_up_on_a_host_that_is_unreachable_three_times_in_a_row():
    operation = poll(interval=20, **WAITING)

    second = again(operation, LOST)
    assert second.at_ms == NOW + 20_000
    answered = again(operation, answer(), attempt=second.attempt.number)
    assert answered.attempt.number == 1
    assert isinstance(step(operation, LOST, attempt=3), Finished)


def test_failures_do_not_outlive_a_polls_deadline():
    operation = poll(timeout=30, requestTimeout={"durationInMs": 1_000, "retry": {"minTimeoutInMs": 60_000}})

    assert again(operation, RequestTimedOut(after_ms=1_000)).at_ms == NOW + 30_000
    late = finished(operation, RequestTimedOut(after_ms=1_000), now=NOW + 31_000)
    assert message(late) == "Task timed out after 30 seconds"


def test_poll_attempt_is_shown_as_a_row():
    details = json.loads(poll_attempt(poll(), answer(202, {"state": "busy"}, x_a="1")))

    assert details == {
        "description": f"GET {URL} 202",
        "icon": "activity",
        "params": {"status": 202, "headers": {"x-a": "1"}, "body": {"state": "busy"}},
        "style": {"style": "minimal", "variant": "info"},
    }


def test_poll_attempt_leaves_out_a_large_body():
    details = json.loads(poll_attempt(poll(), answer(200, "x" * 100), bytes_max=50))

    assert "body" not in details["params"]
    assert "102 bytes" in details["params"]["omitted"]


def test_durations_of_the_protocol_are_whole_milliseconds():
    operation = fetch(
        timeout={"durationInMs": 1_000.2, "retry": {"minTimeoutInMs": 10.4, "randomize": False}}
    )

    assert request_of(operation).timeout_ms == 1_001
    assert again(operation, RequestTimedOut(after_ms=1_001)).at_ms == NOW + 10
