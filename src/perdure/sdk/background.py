"""`io.background_fetch`, `io.background_fetch_response`, `io.background_poll`: requests made by the platform while the run waits.

The platform completes the task (engine/loops/operator.py); what it may be asked for, and how failures are tried again, is in
fetch.py. Requests are made at least once: a platform that dies between a response and its commit makes the request again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec
from msgspec import Raw, Struct

from perdure.errors import LimitExceededError, UsageError
from perdure.limits import Limits
from perdure.schema.effects import StartOperation
from perdure.schema.operations import FetchOperation, stored_json
from perdure.schema.runs import TaskStatus

from .fetch import Headers, RetryRules, display_name, fetch_operation, poll_operation
from .keys import Key
from .operation import Operation, TaskOptions
from .others import Plan, start_waiting
from .retry import Retry
from .values import codec_for

if TYPE_CHECKING:
    from .execution import Execution


class FetchOptions(TypedDict, total=False):
    """Options of `io.background_fetch` and `io.background_fetch_response`.

    Keys:
        method: "GET" unless said otherwise.
        headers: by name; secrets as `redact_string("Bearer {}", token)`.
        json, body: what is sent: a value as JSON, or text as it is.
        retry: what to do about failures: one `Retry` for all of them, or by pattern of status, first fit:
            `{"429": FromHeaders("x-ratelimit-reset"), "5xx": Retry(attempts=3)}`. None: any status but 2xx fails the task.
        timeout: for the whole response, timedelta or seconds: counts as 1 s to 300 s; 120 s unless said otherwise.
        timeout_retry: what to do about such a time-out.
        output: type of the response's JSON: a pydantic model, dataclass, TypedDict ...; what doesn't fit fails the task.
        name: shown for the task.
    """

    method: str
    headers: Headers | None
    json: Any
    body: str | None
    retry: RetryRules | None
    timeout: timedelta | float | None
    timeout_retry: Retry | None
    output: Any
    name: str | None


class PollOptions(TypedDict, total=False):
    """Options of `io.background_poll`.

    Keys:
        interval: between two requests: whole seconds from 10 to 600 (or such a timedelta), 10 unless said otherwise.
        timeout: for the poll in all: whole seconds from 30 to 3600, 600 unless said otherwise.
        response_filter: what the awaited response is like: {"status": [200], "headers": {...}, "body": {"state": ["ready"]}},
            each optional, headers and body as event filters. None: the first response is.
        method, headers, json, body, output, name: as in FetchOptions.
        request_timeout: for one response: counts as 1 s to 5 s; 5 s unless said otherwise.
        request_timeout_retry: what to do about such a time-out; None: it fails the task.
    """

    interval: timedelta | float
    timeout: timedelta | float
    response_filter: Mapping[str, Any] | None
    method: str
    headers: Headers | None
    json: Any
    body: str | None
    request_timeout: timedelta | float | None
    request_timeout_retry: Retry | None
    output: Any
    name: str | None


class FetchResponse(Struct, frozen=True, kw_only=True):
    """What `io.background_fetch_response` returns.

    Attributes:
        status: 200 to 299.
        headers: names in lower case, values of a repeated one joined by ", ".
        data: the body's JSON, None if it is none; of the type that `output` asked for.
    """

    status: int
    headers: dict[str, str]
    data: Any


class _Response(Struct):
    status: int
    headers: dict[str, str]
    data: Raw


_decode_response = msgspec.json.Decoder(_Response).decode


class FetchPlan(Plan):
    """A request, as described by the arguments of one of the io calls."""

    def __init__(
        self, key: Key, operation: FetchOperation, *, output: Any, name: str | None, limits: Limits
    ) -> None:
        size = len(operation.params_json())
        if size > limits.params_bytes_max:
            raise LimitExceededError(
                what=f"the size in bytes of the request of task {key!r}",
                size=size,
                limit=limits.params_bytes_max,
                setting="limits.params_bytes_max",
            )
        self._operation = operation
        self._codec = codec_for(output)
        self.name = name or display_name(operation)
        self.options = TaskOptions(icon="background", params=operation.redacted_params())

    def begin(self, execution: Execution, operation: Operation) -> Iterator[None]:
        record, now = operation.record, execution.clock.now()
        if record.status is not TaskStatus.PENDING:
            return
        start_waiting(operation, now, None)
        execution.ask(
            StartOperation(
                run_id=execution.claim.run_id,
                task_id=record.id,
                at=now,
                operation=stored_json(self._operation, record.position),
            )
        )
        yield  # the platform has to know of it before it can answer

    def overdue(self, operation: Operation) -> Exception:
        """It has no time of its own: the platform ends it."""
        raise AssertionError("a background request is never overdue")

    def decode(self, json: str, types: str | None = None, *, where: object) -> Any:
        if self._operation.kind != "fetch-response":
            return self._codec.decode(json, types, where=where)
        response = _decode_response(json)
        data = self._codec.decode(bytes(response.data).decode(), None, where=where)
        return FetchResponse(status=response.status, headers=response.headers, data=data)


def fetch_plan(
    key: Key, url: str, options: FetchOptions, limits: Limits, *, whole_response: bool = False
) -> FetchPlan:
    """For `io.background_fetch`, or `io.background_fetch_response`. Raises UsageError and LimitExceededError."""
    where = f"io.{'background_fetch_response' if whole_response else 'background_fetch'}({key!r})"
    output, name, rest = _divided(options, FetchOptions, where)
    operation = fetch_operation(url, **rest, whole_response=whole_response, where=where)
    return FetchPlan(key, operation, output=output, name=name, limits=limits)


def poll_plan(key: Key, url: str, options: PollOptions, limits: Limits) -> FetchPlan:
    """For `io.background_poll`. Raises UsageError and LimitExceededError."""
    where = f"io.background_poll({key!r})"
    output, name, rest = _divided(options, PollOptions, where)
    operation = poll_operation(url, **rest, where=where)
    return FetchPlan(key, operation, output=output, name=name, limits=limits)


def _divided(
    options: Mapping[str, Any], kind: type[Any], where: str
) -> tuple[Any, str | None, dict[str, Any]]:
    """`output`, `name`, and the options that describe the request."""
    if unknown := options.keys() - kind.__annotations__.keys():
        raise UsageError(
            f"{where}: there is no option {', '.join(map(repr, sorted(unknown)))}; there are "
            f"{', '.join(kind.__annotations__)}"
        )
    rest = {**options}
    return rest.pop("output", None), rest.pop("name", None), rest
