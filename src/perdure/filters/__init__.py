"""Event filters: which payloads, contexts, headers, queries and bodies start a job or end a poll.

A filter is a JSON object with a pattern for each key that matters. In Python the functions here stand for the operators:

    from perdure.filters import gt, starts_with

    {"status": ["PAID", "SENT"], "total": gt(100), "customer": {"email": [starts_with("ada@")]}}

is what `to_json_filter` checks and turns into the form that is stored and sent (that of Trigger.dev v2):

    {"status": ["PAID", "SENT"], "total": [{"$gt": 100}], "customer": {"email": [{"$startsWith": "ada@"}]}}

The rules (Protocol, EventFilter semantics):

- Every key must hold. A key whose object is missing (or is null, or is no object) is *absent*.
- A list of strings, numbers or booleans: the value equals one of them. Equality is JSON's: 1 is 1.0, true isn't 1, "1" isn't 1.
- A list of operators: every one must hold. The empty list holds for anything, absent or not.
- An object: the value, or if it is an array one of its elements, matches that filter. The empty filter holds for anything.
- `$exists: false`, `$anythingBut` and `$isNull: false` hold for what is absent; no other operator does.

Where v2 fails by accident we do what it meant: what is inside a missing object is absent (v2 refuses even `$exists: false`
there); `{"$gt": 1, "$lt": 5}` means both (v2 keeps one of them); response filters look at status and headers.

Everything here is pure, and shared by the SDK, which checks filters where they are written, and the engine, which asks them.
"""

from .checking import (
    METHODS as METHODS,
    check_filter as check_filter,
    check_request_filter as check_request_filter,
    check_response_filter as check_response_filter,
    to_json_filter as to_json_filter,
    to_json_request_filter as to_json_request_filter,
    to_json_response_filter as to_json_response_filter,
)
from .matching import (
    Pairs as Pairs,
    matches as matches,
    matches_request as matches_request,
    matches_response as matches_response,
    merge as merge,
)
from .operators import (
    Filter as Filter,
    Operator as Operator,
    Scalar as Scalar,
    anything_but as anything_but,
    between as between,
    ends_with as ends_with,
    exists as exists,
    gt as gt,
    gte as gte,
    ignore_case_equals as ignore_case_equals,
    includes as includes,
    is_null as is_null,
    lt as lt,
    lte as lte,
    not_ as not_,
    starts_with as starts_with,
)
from .rules import (
    JsonFilter as JsonFilter,
)

__all__ = [
    "METHODS",
    "Filter",
    "JsonFilter",
    "Operator",
    "Pairs",
    "Scalar",
    "anything_but",
    "between",
    "check_filter",
    "check_request_filter",
    "check_response_filter",
    "ends_with",
    "exists",
    "gt",
    "gte",
    "ignore_case_equals",
    "includes",
    "is_null",
    "lt",
    "lte",
    "matches",
    "matches_request",
    "matches_response",
    "merge",
    "not_",
    "starts_with",
    "to_json_filter",
    "to_json_request_filter",
    "to_json_response_filter",
]
