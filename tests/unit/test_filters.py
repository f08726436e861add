"""Event, request and response filters: what they match, what they refuse, and how Python's form becomes JSON's."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from perdure import UsageError, event_trigger
from perdure.filters import (
    anything_but,
    between,
    check_filter,
    check_request_filter,
    check_response_filter,
    ends_with,
    exists,
    gt,
    gte,
    ignore_case_equals,
    includes,
    is_null,
    lt,
    lte,
    matches,
    matches_request,
    matches_response,
    merge,
    not_,
    starts_with,
    to_json_filter,
    to_json_request_filter,
    to_json_response_filter,
)

ABSENT = object()

scalars = st.text(max_size=3) | st.integers(-3, 3) | st.floats(-3, 3) | st.booleans()
json_values = st.recursive(
    st.none() | scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
numbers = st.integers(-3, 3) | st.floats(-3, 3)
operators = st.one_of(
    st.builds(lambda name, text: {name: text}, st.sampled_from(["$startsWith", "$endsWith", "$ignoreCaseEquals"]), st.text(max_size=2)),
    st.builds(lambda name, flag: {name: flag}, st.sampled_from(["$exists", "$isNull"]), st.booleans()),
    st.builds(lambda name, number: {name: number}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers),
    st.builds(lambda low, high: {"$between": [low, high]}, numbers, numbers),
    st.builds(lambda name, value: {name: value}, st.sampled_from(["$anythingBut", "$includes", "$not"]), scalars),
)  # fmt: skip
lists = st.one_of(
    *(st.lists(kind, max_size=3) for kind in (st.text(max_size=2), numbers, st.booleans(), operators))
)
filters = st.recursive(
    st.dictionaries(st.sampled_from("abc"), lists, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | lists, max_size=3),
    max_leaves=6,
)


# --- what matches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern, value, expected",
    [
        # Plain values: one of them, strictly.
        (["A", "B"], "B", True),
        (["A", "B"], "C", False),
        (["A"], "a", False),
        (["A"], ABSENT, False),
        (["A"], None, False),
        (["1"], 1, False),
        ([1, 2], 2, True),
        ([1], 1.0, True),
        ([1], True, False),
        ([1], "1", False),
        ([0], False, False),
        ([True], True, True),
        ([True], 1, False),
        ([False], False, True),
        ([False], None, False),
        ([False], ABSENT, False),
        (["A"], ["A"], False),
        (["A"], {"A": "A"}, False),
        ([10**400], 10**400, True),
        # The empty list holds for anything.
        ([], "x", True),
        ([], None, True),
        ([], ABSENT, True),
        # Text.
        ([{"$startsWith": "ab"}], "abc", True),
        ([{"$startsWith": "b"}], "abc", False),
        ([{"$startsWith": "1"}], 12, False),
        ([{"$startsWith": ""}], ABSENT, False),
        ([{"$endsWith": "bc"}], "abc", True),
        ([{"$endsWith": "b"}], "abc", False),
        ([{"$endsWith": "c"}], ["c"], False),
        ([{"$ignoreCaseEquals": "ÉCOLE"}], "école", True),
        ([{"$ignoreCaseEquals": "ecole"}], "école", False),
        ([{"$ignoreCaseEquals": "\u00e9"}], "E\u0301", True),
        ([{"$ignoreCaseEquals": "a"}], None, False),
        # Presence and null.
        ([{"$exists": True}], "x", True),
        ([{"$exists": True}], None, True),
        ([{"$exists": True}], ABSENT, False),
        ([{"$exists": False}], ABSENT, True),
        ([{"$exists": False}], None, False),
        ([{"$exists": False}], "x", False),
        ([{"$isNull": True}], None, True),
        ([{"$isNull": True}], "x", False),
        ([{"$isNull": True}], ABSENT, False),
        ([{"$isNull": False}], None, False),
        ([{"$isNull": False}], "x", True),
        ([{"$isNull": False}], ABSENT, True),
        # Numbers.
        ([{"$gt": 1}], 2, True),
        ([{"$gt": 1}], 1, False),
        ([{"$gt": 1}], "2", False),
        ([{"$gt": 0}], True, False),
        ([{"$gt": 1}], ABSENT, False),
        ([{"$gte": 1}], 1, True),
        ([{"$gte": 1}], 0.5, False),
        ([{"$lt": 1}], 0.5, True),
        ([{"$lt": 1}], 1, False),
        ([{"$lt": 1}], False, False),
        ([{"$lt": 1}], None, False),
        ([{"$lte": 1}], 1.0, True),
        ([{"$lte": 1}], 1.1, False),
        ([{"$between": [1, 3]}], 1, True),
        ([{"$between": [1, 3]}], 3, True),
        ([{"$between": [1, 3]}], 3.1, False),
        ([{"$between": [0, 3]}], True, False),
        # Anything but, includes, not.
        ([{"$anythingBut": "A"}], "B", True),
        ([{"$anythingBut": "A"}], "A", False),
        ([{"$anythingBut": "A"}], None, True),
        ([{"$anythingBut": "A"}], ABSENT, True),
        ([{"$anythingBut": "A"}], ["A"], True),
        ([{"$anythingBut": 1}], True, True),
        ([{"$anythingBut": [1, 2]}], 2, False),
        ([{"$anythingBut": [1, 2]}], 3, True),
        ([{"$includes": "A"}], ["B", "A"], True),
        ([{"$includes": "A"}], ["B"], False),
        ([{"$includes": "A"}], "A", False),
        ([{"$includes": 1}], [True], False),
        ([{"$includes": 1}], [1.0], True),
        ([{"$not": "A"}], "B", True),
        ([{"$not": "A"}], "A", False),
        ([{"$not": "A"}], 1, True),
        ([{"$not": "A"}], ["B"], True),
        ([{"$not": "A"}], ["B", "A"], False),
        ([{"$not": "A"}], None, False),
        ([{"$not": "A"}], {}, False),
        ([{"$not": "A"}], ABSENT, False),
        ([{"$not": 1}], True, True),
        # Lists of operators: all of them.
        ([{"$gt": 1}, {"$lt": 3}], 2, True),
        ([{"$gt": 1}, {"$lt": 3}], 3, False),
        ([{"$startsWith": "a"}, {"$endsWith": "c"}], "abc", True),
        ([{"$startsWith": "a"}, {"$endsWith": "c"}], "ab", False),
        ([{"$gt": 1, "$lt": 3}], 2, True),
        ([{"$gt": 1, "$lt": 3}], 4, False),
        ([{"$gt": 1, "$lt": 3}], 0, False),
        # Objects, and arrays of them.
        ({"b": ["x"]}, {"b": "x", "c": 1}, True),
        ({"b": ["x"]}, {"b": "y"}, False),
        ({"b": ["x"]}, "x", False),
        ({"b": ["x"]}, [{"b": "y"}, {"b": "x"}], True),
        ({"b": ["x"]}, [{"b": "y"}], False),
        ({"b": ["x"]}, [], False),
        ({"b": ["x"], "c": ["x"]}, [{"b": "x"}, {"c": "x"}], False),
        ({"b": {"c": [1]}}, {"b": {"c": 1}}, True),
        ({"b": {"c": [1]}}, [{"b": [{"c": 2}, {"c": 1}]}], True),
        ({}, "x", True),
        ({}, ABSENT, True),
        # What is inside a missing object is absent.
        ({"b": [{"$exists": False}]}, ABSENT, True),
        ({"b": [{"$exists": False}]}, None, True),
        ({"b": {"c": [{"$exists": False}]}}, {}, True),
        ({"b": [{"$exists": True}]}, ABSENT, False),
        ({"b": [{"$anythingBut": "A"}]}, ABSENT, True),
        ({"b": ["x"]}, ABSENT, False),
        ({"b": ["x"]}, None, False),
    ],
)  # fmt: skip
def test_pattern_matches(pattern: Any, value: Any, expected: bool):
    check_filter({"a": pattern})

    assert matches({"a": pattern}, {} if value is ABSENT else {"a": value}) is expected


def test_every_key_must_match():
    written = {"status": ["PAID"], "total": [{"$gt": 10}]}

    assert matches(written, {"status": "PAID", "total": 11})
    assert not matches(written, {"status": "PAID", "total": 9})
    assert not matches(written, {"status": "SENT", "total": 11})


@pytest.mark.parametrize("payload", [None, "text", 3, [], ["x"]])
def test_payload_that_is_no_object_has_no_keys(payload: Any):
    assert matches({}, payload)
    assert not matches({"a": ["x"]}, payload)


def test_payload_that_is_an_array_matches_by_one_of_its_elements():
    assert matches({"a": ["x"]}, [{"a": "y"}, {"a": "x"}])


def test_operators_of_a_newer_sdk_hold():
    assert matches({"a": [{"$startsWith": "x"}, {"$soundsLike": "y"}]}, {"a": "xyz"})


@pytest.mark.parametrize("pattern", [["a", 1], [{"$gt": "1"}], [{"$gt": 1}, "a"], "a", None, [None]])
def test_invalid_filter_never_matches(pattern: Any):
    assert [value for value in ("a", 1, 2, None) if matches({"a": pattern}, {"a": value})] == []


patterns = st.recursive(
    st.none() | scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "$gt", "$between", "$not", "$isNull", "$x", "$startsWith"]), inner
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), patterns), json_values)
def test_asking_never_raises_whatever_is_stored(filter: dict[str, Any], value: Any):
    assert matches(filter, value) in (True, False)


@given(st.dictionaries(st.sampled_from("abc"), patterns))
def test_check_raises_nothing_but_its_error(filter: dict[str, Any]):
    parts = {"headers": filter}, {"method": filter.get("a")}, {"status": filter.get("a")}
    for check in (check_filter, check_request_filter, check_response_filter):
        for given_filter in (filter, *parts):
            with contextlib.suppress(UsageError):
                check(given_filter)


@given(filters, json_values)
def test_any_valid_filter_can_be_asked_about_any_value(filter: dict[str, Any], value: Any):
    check_filter(filter)

    assert matches(filter, value) is matches(json.loads(json.dumps(filter)), value)
    assert matches({}, value)


@given(filters, filters, st.dictionaries(st.sampled_from("abc"), json_values))
def test_filters_on_different_keys_merge_into_their_conjunction(
    first: Any, second: Any, value: dict[str, Any]
):
    first = {f"1{key}": pattern for key, pattern in first.items()}
    second = {f"2{key}": pattern for key, pattern in second.items()}
    value = {f"{side}{key}": item for key, item in value.items() for side in "12"}

    assert matches(merge(first, second), value) is (matches(first, value) and matches(second, value))


@given(filters, lists, json_values)
def test_any_one_pattern_less_matches_no_less(filter: dict[str, Any], pattern: list[Any], value: Any):
    assert not matches(filter | {"d": pattern}, value) or matches(filter, value)


# --- merge ----------------------------------------------------------------------------------------------------------------


def test_merge_goes_into_objects_and_lets_the_later_win_elsewhere():
    first = {"a": ["x"], "b": {"c": ["x"], "d": ["x"]}, "e": {"f": ["x"]}}
    second = {"b": {"c": ["y"], "g": ["y"]}, "e": ["y"], "h": ["y"]}

    merged = merge(first, second)

    assert merged == {"a": ["x"], "b": {"c": ["y"], "d": ["x"], "g": ["y"]}, "e": ["y"], "h": ["y"]}
    assert first == {"a": ["x"], "b": {"c": ["x"], "d": ["x"]}, "e": {"f": ["x"]}}


# --- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filter, path, problem",
    [
        (["A"], "filter:", "expected an object"),
        ({1: ["A"]}, "filter:", "keys are strings"),
        ({"a": "A"}, "filter.a:", "expected a list"),
        ({"a": None}, "filter.a:", "is_null()"),
        ({"a": ["A", 1]}, "filter.a:", "strings only"),
        ({"a": [1, True]}, "filter.a:", "numbers only"),
        ({"a": [None]}, "filter.a:", "strings only"),
        ({"a": [float("nan")]}, "filter.a:", "numbers only"),
        ({"a": ["A", {"$gt": 1}]}, "filter.a:", "operators only"),
        ({"a": {"b": [{"$gte": 1}, {"$startWith": "x"}]}}, "filter.a.b[1]:", "$startsWith"),
        ({"a": [{}]}, "filter.a[0]:", "missing"),
        ({"a": {"$gt": 1}}, "filter.a.$gt:", "in a list"),
        ({"a": [{"$startsWith": 1}]}, "filter.a[0]:", "$startsWith takes a string, got 1"),
        ({"a": [{"$exists": "yes"}]}, "filter.a[0]:", "$exists takes true or false"),
        ({"a": [{"$isNull": None}]}, "filter.a[0]:", "$isNull takes true or false"),
        ({"a": [{"$gt": "1"}]}, "filter.a[0]:", "$gt takes a finite number"),
        ({"a": [{"$lte": True}]}, "filter.a[0]:", "$lte takes a finite number"),
        ({"a": [{"$between": [1]}]}, "filter.a[0]:", "$between takes a list of two numbers"),
        ({"a": [{"$between": 1}]}, "filter.a[0]:", "$between takes a list of two numbers"),
        ({"a": [{"$includes": ["x"]}]}, "filter.a[0]:", "$includes takes a string, number or boolean"),
        ({"a": [{"$not": None}]}, "filter.a[0]:", "$not takes a string, number or boolean"),
        ({"a": [{"$anythingBut": ["x", 1]}]}, "filter.a[0]:", "$anythingBut takes a string, number or boolean, or a list"),
    ],
)  # fmt: skip
def test_check_names_the_path_and_the_problem(filter: Any, path: str, problem: str):
    with pytest.raises(UsageError) as raised:
        check_filter(filter)

    assert str(raised.value).startswith(path)
    assert problem in str(raised.value)


# --- Python's form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operator, written",
    [
        (starts_with("x"), {"$startsWith": "x"}),
        (ends_with("x"), {"$endsWith": "x"}),
        (ignore_case_equals("x"), {"$ignoreCaseEquals": "x"}),
        (exists(), {"$exists": True}),
        (exists(False), {"$exists": False}),
        (is_null(), {"$isNull": True}),
        (is_null(False), {"$isNull": False}),
        (anything_but("x"), {"$anythingBut": "x"}),
        (anything_but(1, 2), {"$anythingBut": [1, 2]}),
        (gt(1), {"$gt": 1}),
        (gte(1), {"$gte": 1}),
        (lt(1.5), {"$lt": 1.5}),
        (lte(1), {"$lte": 1}),
        (between(1, 2), {"$between": [1, 2]}),
        (includes("x"), {"$includes": "x"}),
        (not_(False), {"$not": False}),
    ],
)
def test_operator_alone_or_in_a_list_is_its_json(operator: Any, written: Any):
    assert to_json_filter({"a": operator}) == {"a": [written]}
    assert to_json_filter({"a": {"b": (operator, operator)}}) == {"a": {"b": [written, written]}}


def test_json_form_and_bare_values_can_be_mixed_with_operators():
    written = {"status": "PAID", "ids": (1, 2), "total": [gt(1), {"$lt": 5}], "customer": {"vip": True}}

    assert to_json_filter(written) == {
        "status": ["PAID"],
        "ids": [1, 2],
        "total": [{"$gt": 1}, {"$lt": 5}],
        "customer": {"vip": [True]},
    }


@given(filters)
def test_json_form_is_its_own_python_form(filter: dict[str, Any]):
    assert to_json_filter(filter) == filter


def test_wrong_operand_is_refused_where_the_filter_is_written():
    with pytest.raises(UsageError, match=r"filter\.total\[0\]: \$gt takes a finite number, got '100'"):
        to_json_filter({"total": gt("100")})  # pyright: ignore[reportArgumentType]


# --- triggers ---------------------------------------------------------------------------------------------------------------


def test_trigger_has_its_filters_in_json_form():
    trigger = event_trigger(["a", "b"], filter={"total": gt(100)}, context_filter={"region": ["eu"]})

    assert trigger.event_names == ("a", "b")
    assert trigger.filter == {"total": [{"$gt": 100}]}
    assert trigger.context_filter == {"region": ["eu"]}


def test_trigger_without_filters_has_none():
    trigger = event_trigger("a")

    assert (trigger.filter, trigger.context_filter) == (None, None)


def test_filter_of_a_trigger_is_checked_at_definition():
    with pytest.raises(UsageError, match=r"event_trigger\('paid'\): filter\.total\[0\]: .*'\$more'"):
        event_trigger("paid", filter={"total": [{"$more": 1}]})
    with pytest.raises(UsageError, match=r"event_trigger\('paid'\): context_filter\.a: "):
        event_trigger("paid", context_filter={"a": [1, "x"]})


# --- requests and responses -------------------------------------------------------------------------------------------------


def request(filter: dict[str, Any], **given: Any) -> bool:
    check_request_filter(filter)
    return matches_request(filter, **{"method": "POST", "headers": {}, "query": {}, "body": None} | given)


def test_empty_request_filter_matches_every_request():
    assert request({}, body=b"\xff not json")


def test_request_filter_looks_at_the_method():
    assert request({"method": ["POST", "PUT"]}, method="post")
    assert not request({"method": ["POST", "PUT"]}, method="GET")


def test_request_filter_looks_at_headers_in_any_case():
    written = {"headers": {"X-Event": ["push"], "content-type": [{"$startsWith": "application/json"}]}}

    assert request(
        written, headers=[("x-event", "push"), ("Content-Type", "application/json; charset=utf-8")]
    )
    assert not request(written, headers={"x-event": "push"})
    assert not request(written, headers={"x-event": "pull", "content-type": "application/json"})


def test_request_filter_looks_at_the_last_value_of_a_query_parameter():
    assert request({"query": {"a": ["2"]}}, query=[("a", "1"), ("a", "2")])
    assert not request({"query": {"a": ["1"]}}, query=[("a", "1"), ("a", "2")])


@pytest.mark.parametrize(
    "body, expected",
    [
        pytest.param(b'{"ref": "main"}', True, id="matches"),
        pytest.param('{"ref": "main"}', True, id="text"),
        pytest.param(b'{"ref": "next"}', False, id="other value"),
        pytest.param(b"ref=main", False, id="no JSON"),
        pytest.param(b"", False, id="empty"),
        pytest.param(None, False, id="none"),
        pytest.param(b'{"ref": "\xff"}', False, id="no UTF-8"),
    ],
)
def test_request_filter_looks_into_a_json_body(body: Any, expected: bool):
    assert request({"body": {"ref": ["main"]}}, body=body) is expected


def test_body_filter_fails_for_what_is_no_json_even_if_empty():
    assert not request({"body": {}}, body=b"<html>")


def test_response_filter_holds_status_headers_and_body():
    written = to_json_response_filter(
        {"status": [200, 201], "headers": {"X-Ready": "yes"}, "body": {"done": [True], "n": gt(1)}}
    )

    def matches_with(status: int = 200, ready: str = "yes", body: bytes = b'{"done": true, "n": 2}') -> bool:
        return matches_response(written, status=status, headers={"x-ready": ready}, body=body)

    assert matches_with()
    assert not matches_with(status=202)
    assert not matches_with(ready="no")
    assert not matches_with(body=b'{"done": true, "n": 1}')
    assert not matches_with(body=b"done")


def test_empty_response_filter_matches_every_response():
    check_response_filter({})

    assert matches_response({}, status=500, headers={}, body=b"oops")


def test_request_filter_can_be_written_with_operators():
    written = to_json_request_filter(
        {"method": ["POST"], "headers": {"x-a": starts_with("b")}, "body": {"n": lt(3)}}
    )

    assert written == {
        "method": ["POST"],
        "headers": {"x-a": [{"$startsWith": "b"}]},
        "body": {"n": [{"$lt": 3}]},
    }


@pytest.mark.parametrize(
    "filter, problem",
    [
        ({"methods": ["GET"]}, "filter.methods: a request filter has method, headers, query and body"),
        ({"method": "GET"}, "filter.method: expected a list of methods"),
        ({"method": ["get"]}, "filter.method: expected a list of methods"),
        ({"method": [["GET"]]}, "filter.method: expected a list of methods"),
        ({"headers": {"a": [1]}}, "filter.headers.a: the value is text"),
        ({"headers": {"a": {"b": ["c"]}}}, "filter.headers.a: expected a list"),
        ({"query": {"a": [{"$gt": 1}]}}, "filter.query.a[0]: there is no operator '$gt' here"),
        ({"body": {"a": ["x", 1]}}, "filter.body.a: a list has strings only"),
    ],
)
def test_request_filter_that_cannot_be_used_is_refused(filter: Any, problem: str):
    with pytest.raises(UsageError) as raised:
        check_request_filter(filter)

    assert str(raised.value).startswith(problem)


@pytest.mark.parametrize(
    "filter, problem",
    [
        ({"method": ["GET"]}, "filter.method: a response filter has status, headers and body"),
        ({"status": 200}, "filter.status: expected a list of status codes"),
        ({"status": ["200"]}, "filter.status: expected a list of status codes"),
        ({"headers": [1]}, "filter.headers: expected an object"),
        ({"body": {"a": [{"$x": 1}]}}, "filter.body.a[0]: there is no operator '$x'"),
    ],
)
def test_response_filter_that_cannot_be_used_is_refused(filter: Any, problem: str):
    with pytest.raises(UsageError) as raised:
        check_response_filter(filter)

    assert str(raised.value).startswith(problem)
