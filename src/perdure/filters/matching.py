"""Asking a filter in its JSON form about a value, a request or a response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from .rules import ABSENT, OPERATORS, JsonFilter, is_array, is_object, is_one_of, is_uniform

Pairs: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""Headers or query parameters; the last of several with one name counts."""


def matches(filter: JsonFilter, value: Any) -> bool:
    """Whether the decoded JSON `value` satisfies `filter`, by the rules at the top of `perdure.filters`.

    A filter that `check_filter` refuses raises nothing here: unknown operators hold, so that an engine serves filters of a
    newer SDK (as v2's does); lists of mixed types and operands of a wrong type match nothing.
    """
    if not filter:
        return True
    if is_array(value):
        return any(_has_all(filter, element) for element in value)
    return _has_all(filter, value)


def matches_request(
    filter: Mapping[str, Any], *, method: str, headers: Pairs, query: Pairs, body: bytes | str | None
) -> bool:
    """Whether an HTTP request satisfies a request filter; what the filter doesn't have isn't looked at.

    Args:
        filter: {"method": ["POST"], "headers": {"x-event": ["push"]}, "query": {"a": ["1"]}, "body": {...}}.
        method: in any case.
        headers: their names in any case, as are those in the filter.
        query: decoded parameters.
        body: as received. With a `body` filter one that isn't JSON fails.
    """
    methods: list[str] | None = filter.get("method")
    return (
        (not methods or method.upper() in methods)
        and _headers_match(filter.get("headers"), headers)
        and matches(filter.get("query") or {}, dict(query))
        and _body_matches(filter.get("body"), body)
    )


def matches_response(
    filter: Mapping[str, Any], *, status: int, headers: Pairs, body: bytes | str | None
) -> bool:
    """Whether an HTTP response satisfies a response filter; what the filter doesn't have isn't looked at.

    Args:
        filter: {"status": [200, 201], "headers": {"x-ready": ["yes"]}, "body": {"state": ["done"]}}.
        status: of the response.
        headers: their names in any case, as are those in the filter.
        body: as received. With a `body` filter one that isn't JSON fails.
    """
    statuses: list[int] | None = filter.get("status")
    return (
        (not statuses or status in statuses)
        and _headers_match(filter.get("headers"), headers)
        and _body_matches(filter.get("body"), body)
    )


def merge(first: JsonFilter, second: JsonFilter) -> JsonFilter:
    """Both filters in one: objects are merged key by key, otherwise what `second` has for a key wins. Changes neither."""
    merged = dict(first)
    for key, later in second.items():
        earlier = merged.get(key)
        merged[key] = merge(earlier, later) if is_object(earlier) and is_object(later) else later
    return merged


def _has_all(filter: JsonFilter, value: Any) -> bool:
    members = value if is_object(value) else {}
    return all(_holds(pattern, members.get(key, ABSENT)) for key, pattern in filter.items())


def _holds(pattern: Any, value: Any) -> bool:
    if is_object(pattern):
        return matches(pattern, value)
    if not is_array(pattern):
        return False
    if pattern and isinstance(pattern[0], dict):
        return all(is_object(item) and _satisfies(item, value) for item in pattern)
    return not pattern or (is_uniform(pattern) and is_one_of(value, pattern))


def _satisfies(operators: JsonFilter, value: Any) -> bool:
    for name, operand in operators.items():
        rule = OPERATORS.get(name)
        if rule is not None and not (rule.takes(operand) and rule.holds(value, operand)):
            return False
    return True


def _headers_match(filter: JsonFilter | None, headers: Pairs) -> bool:
    if not filter:
        return True
    seen = {name.lower(): value for name, value in dict(headers).items()}
    return matches({name.lower(): pattern for name, pattern in filter.items()}, seen)


def _body_matches(filter: JsonFilter | None, body: bytes | str | None) -> bool:
    if filter is None:
        return True
    try:
        value = msgspec.json.decode(body or b"")
    except (msgspec.DecodeError, UnicodeError):
        return False
    return matches(filter, value)
