"""Arguments of `io.background_fetch` and `io.background_poll` into operations on the wire, and what is refused."""

from __future__ import annotations

import json
import pickle
from datetime import timedelta
from typing import Any

import pytest

from perdure.errors import UsageError
from perdure.filters import starts_with
from perdure.schema.operations import FetchOperation, RedactString, parse_operation
from perdure.sdk.fetch import (
    Backoff,
    FromHeaders,
    display_name,
    fetch_operation,
    poll_operation,
    redact_string,
)
from perdure.sdk.retry import Retry

URL = "https://api.example.com/v1/things"


def params(operation: FetchOperation) -> Any:
    return json.loads(operation.params_json())


# --- secrets ------------------------------------------------------------------------------------------------------------


def test_redacted_string_hides_its_secret_from_people():
    secret = redact_string("Bearer {}", "sk-1")

    assert secret.reveal() == "Bearer sk-1"
    for shown in (secret.redacted(), str(secret), repr(secret), f"{secret}"):
        assert "sk-1" not in shown
        assert "Bearer ********" in shown


@pytest.mark.parametrize(
    "template, secrets, text",
    [
        ("{}", ("a",), "a"),
        ("{}:{}", ("a", "b"), "a:b"),
        ("{{x}} {}", ("a",), "{x} a"),
        ("{}", ("{}",), "{}"),
        ("nothing", (), "nothing"),
    ],
)
def test_templates(template: str, secrets: tuple[str, ...], text: str):
    assert redact_string(template, *secrets).reveal() == text


@pytest.mark.parametrize(
    "template, secrets",
    [("{}", ()), ("{} {}", ("a",)), ("", ("a",)), ("{0}", ("a",)), ("{name}", ("a",)), ("{", ("a",)), ("{}", (None,)), (1, ())],
)  # fmt: skip
def test_templates_that_do_not_fit_are_refused_without_naming_the_secret(template: Any, secrets: Any):
    with pytest.raises(UsageError, match="redact_string"):
        redact_string(template, *secrets)


def test_secret_of_a_wrong_type_is_not_shown():
    wrong: Any = b"sk-1"

    with pytest.raises(UsageError) as caught:
        redact_string("{}", wrong)

    assert "sk-1" not in str(caught.value)


def test_redacted_string_on_the_wire_is_v2s():
    operation = fetch_operation(URL, headers={"Authorization": redact_string("Bearer {}", "sk-1")})

    assert params(operation)["requestInit"]["headers"]["Authorization"] == {
        "__redactedString": True,
        "strings": ["Bearer ", ""],
        "interpolations": ["sk-1"],
    }
    assert parse_operation(operation.kind, operation.params_json()) == operation
    assert "sk-1" not in repr(operation)
    assert "sk-1" not in json.dumps(operation.redacted_params())
    assert operation.redacted_params()["requestInit"]["headers"]["Authorization"] == "Bearer ********"


def test_redacted_string_survives_pickling():
    secret = redact_string("{}", "a")

    assert pickle.loads(pickle.dumps(secret)) == secret


def test_redacted_string_needs_pieces_that_fit():
    with pytest.raises(ValueError, match="one more"):
        RedactString(strings=["a"], interpolations=["b"])


# --- fetches ------------------------------------------------------------------------------------------------------------


def test_plain_fetch_has_a_url_and_nothing_else():
    operation = fetch_operation(URL)

    assert operation.kind == "fetch"
    assert params(operation) == {"url": URL}


def test_whole_response_is_another_operation():
    assert fetch_operation(URL, whole_response=True).kind == "fetch-response"


def test_json_is_sent_as_json():
    operation = fetch_operation(URL, method="post", json={"a": timedelta(seconds=1)}, headers={"X-A": "1"})

    init = params(operation)["requestInit"]
    assert init["method"] == "POST"
    assert json.loads(init["body"]) == {"a": "PT1S"}
    assert init["headers"] == {"X-A": "1", "content-type": "application/json"}


def test_own_content_type_is_kept():
    operation = fetch_operation(
        URL, method="PATCH", json=[], headers={"Content-Type": "application/json-patch+json"}
    )

    assert params(operation)["requestInit"]["headers"] == {"Content-Type": "application/json-patch+json"}


def test_rules_by_status():
    operation = fetch_operation(
        URL,
        retry={
            429: FromHeaders(
                reset_header="x-reset",
                reset_format="unix_timestamp_in_ms",
                limit_header="x-limit",
                remaining_header="x-left",
            ),
            "403": Backoff(Retry(attempts=2, jitter=False), {"message": [starts_with("slow")]}),
            "5xx": Retry(attempts=3, min_delay=0.5, max_delay=timedelta(minutes=2), factor=2),
        },
    )

    rules = params(operation)["retry"]
    assert list(rules) == ["429", "403", "5xx"]
    assert rules["429"] == {
        "strategy": "headers",
        "resetHeader": "x-reset",
        "resetFormat": "unix_timestamp_in_ms",
        "limitHeader": "x-limit",
        "remainingHeader": "x-left",
    }
    assert rules["403"] == {
        "strategy": "backoff",
        "limit": 2,
        "factor": 1.8,
        "minTimeoutInMs": 1_000,
        "maxTimeoutInMs": 60_000,
        "randomize": False,
        "bodyFilter": {"message": [{"$startsWith": "slow"}]},
    }
    assert rules["5xx"] == {
        "strategy": "backoff",
        "limit": 3,
        "factor": 2,
        "minTimeoutInMs": 500,
        "maxTimeoutInMs": 120_000,
    }


def test_one_retry_is_for_everything():
    operation = fetch_operation(URL, retry=Retry(attempts=2), timeout=10)

    assert params(operation)["retry"]["all"]["limit"] == 2
    assert params(operation)["timeout"]["durationInMs"] == 10_000
    assert params(operation)["timeout"]["retry"]["limit"] == 2


def test_timeout_with_its_own_rule():
    operation = fetch_operation(URL, timeout=timedelta(seconds=1.5), timeout_retry=Retry(attempts=4))

    assert params(operation)["timeout"]["durationInMs"] == 1_500
    assert params(operation)["timeout"]["retry"]["limit"] == 4
    assert params(fetch_operation(URL, timeout_retry=Retry()))["timeout"]["durationInMs"] == 120_000


# --- polls --------------------------------------------------------------------------------------------------------------


def test_plain_poll_leaves_the_protocols_defaults():
    operation = poll_operation(URL)

    assert operation == parse_operation("fetch-poll", json.dumps({"url": URL}))


def test_poll_with_everything():
    operation = poll_operation(
        URL,
        interval=timedelta(minutes=1),
        timeout=120,
        response_filter={
            "status": [200],
            "headers": {"x-a": [starts_with("b")]},
            "body": {"state": ["done"]},
        },
        headers={"accept": "application/json"},
        request_timeout=2,
    )

    assert params(operation) == {
        "url": URL,
        "interval": 60,
        "timeout": 120,
        "responseFilter": {
            "status": [200],
            "headers": {"x-a": [{"$startsWith": "b"}]},
            "body": {"state": ["done"]},
        },
        "requestInit": {"method": "GET", "headers": {"accept": "application/json"}},
        "requestTimeout": {"durationInMs": 2_000},
    }
    assert parse_operation(operation.kind, operation.params_json()) == operation


@pytest.mark.parametrize(
    "operation, name",
    [
        (fetch_operation("https://u:p@api.example.com:8443/a/b?key=1"), "fetch api.example.com:8443/a/b"),
        (fetch_operation(URL, whole_response=True), "fetch response api.example.com/v1/things"),
        (poll_operation(URL), "poll api.example.com/v1/things"),
    ],
)
def test_display_names(operation: FetchOperation, name: str):
    assert display_name(operation) == name


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, says",
    [
        ({"url": "/relative"}, "http://"),
        ({"url": "ftp://example.com"}, "http://"),
        ({"url": "https://"}, "http://"),
        ({"url": "https://exa mple.com"}, "http://"),
        ({"url": "https://example.com:99999"}, "http://"),
        ({"url": 5}, "string"),
        ({"method": "GET IT"}, "method"),
        ({"json": {}, "body": ""}, "exclude"),
        ({"json": {}}, 'method="POST"'),
        ({"method": "POST", "body": b"bytes"}, "body"),
        ({"method": "POST", "body": "\ud800"}, "surrogate"),
        ({"headers": ["a"]}, "mapping"),
        ({"headers": {"a b": "c"}}, "'a b'"),
        ({"headers": {"a": 1}}, "redact_string"),
        ({"headers": {"a": "b\r\nc: d"}}, "line break"),
        ({"headers": {"a": RedactString(strings=["", ""], interpolations=["x\n"])}}, "line break"),
        ({"retry": 3}, "Retry"),
        ({"retry": {"429": 3}}, "retry['429']"),
        ({"retry": {"4": Retry()}}, "pattern"),
        ({"retry": {"42": Retry()}}, "pattern"),
        ({"retry": {"429;430": Retry()}}, "pattern"),
        ({"retry": {"5xx": Retry(only=ValueError)}}, "only"),
        ({"retry": {"429": FromHeaders(reset_header="")}}, "header"),
        ({"retry": {"429": FromHeaders(reset_header="a", reset_format="soon")}}, "reset_format"),  # pyright: ignore[reportArgumentType]
        ({"retry": {"429": Backoff(Retry(), {"a": [{"$is": 1}]})}}, "$is"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout_retry": 3}, "timeout_retry"),
    ],
)
def test_fetches_that_are_refused(options: dict[str, Any], says: str):
    with pytest.raises(UsageError) as caught:
        fetch_operation(**{"url": URL, **options})

    assert str(caught.value).startswith("background_fetch")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"interval": 9}, "10 to 600"),
        ({"interval": 601}, "10 to 600"),
        ({"interval": 10.5}, "whole seconds"),
        ({"timeout": 29}, "30 to 3600"),
        ({"timeout": timedelta(hours=2)}, "30 to 3600"),
        ({"response_filter": {"state": ["done"]}}, "status, headers and body"),
        ({"response_filter": {"status": ["ok"]}}, "status"),
        ({"response_filter": []}, "response_filter"),
    ],
)
def test_polls_that_are_refused(options: dict[str, Any], says: str):
    with pytest.raises(UsageError) as caught:
        poll_operation(URL, **options)

    assert str(caught.value).startswith("background_poll")
    assert says in str(caught.value)
