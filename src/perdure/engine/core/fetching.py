"""What becomes of a request that the platform makes for a run: (operation, attempt, what happened, now) → over, or again.

The rules are the protocol's (task operations) with three improvements. A host that can't be reached is tried again by
the operation's own policy or a few times, and then the task fails; the reference leaves such a task running for ever.
A poll's filters of status and headers count. And a poll looks a last time at its deadline, instead of some time after it.

How a request is sent is `perdure.engine.fetcher`'s business.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias, assert_never, cast

import msgspec
from msgspec import Raw, Struct

from perdure.backoff import backoff_ms
from perdure.clock import parse_instant
from perdure.filters import matches, matches_response
from perdure.schema.operations import (
    BackoffStrategy,
    FetchOperation,
    FetchParams,
    HeadersStrategy,
    PollParams,
    RedactString,
    ResetFormat,
    ResponseFilter,
    RetryOptions,
)
from perdure.schema.runs import ErrorInfo

FETCH_TIMEOUT_MS, FETCH_TIMEOUT_MS_MIN, FETCH_TIMEOUT_MS_MAX = 120_000, 1_000, 300_000
POLL_TIMEOUT_MS, POLL_TIMEOUT_MS_MIN, POLL_TIMEOUT_MS_MAX = 5_000, 1_000, 5_000
"""How long one request may take: unless said otherwise, at least, at most."""

UNREACHABLE_ATTEMPTS_MAX = 3
"""Tries in all (of a poll: in a row) to reach a host, where the operation has no policy for it."""

RESET_DELAY_MS_MIN = 1_000
"""A reset that has passed already (clocks differ, and seconds are coarse) is waited for so long: no server is hammered."""

RESET_DELAY_MS_MAX = 366 * 86_400_000
"""A reset further off is none: milliseconds taken for seconds would otherwise park a run for thousands of years."""

_SHOWN_CHARS_MAX = 2_000


class HttpRequest(Struct, frozen=True, kw_only=True):
    """A request ready to be sent, secrets revealed.

    Attributes:
        timeout_ms: from the start of the request to the end of the response's body.
        secret_headers: lower-case names of headers that hold secrets: they go to this origin only.
    """

    method: str
    url: str
    headers: dict[str, str] = {}
    body: bytes | None = None
    timeout_ms: int
    secret_headers: frozenset[str] = frozenset()


class HttpResponse(Struct, frozen=True, kw_only=True):
    """A response read to its end. `headers`: names in lower case, values of a repeated one joined by ", "."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""


class RequestTimedOut(Struct, frozen=True, kw_only=True):
    """There was no whole response within `after_ms`."""

    after_ms: int


class Unreachable(Struct, frozen=True, kw_only=True):
    """There was no response, for a reason that may pass: DNS, refused, cut."""

    problem: str


class Refused(Struct, frozen=True, kw_only=True):
    """The request can't be made or its response can't be taken, now or later: a bad URL, a body that is too large."""

    problem: str


Happened: TypeAlias = HttpResponse | RequestTimedOut | Unreachable | Refused


class Attempt(Struct, frozen=True, kw_only=True):
    """Where an operation stands: what has to be kept of it between two requests.

    Attributes:
        number: 1 for the first request, one more after each failure; responses that a poll only didn't match are none.
        began_at: when the operation began (the task's start): a poll's `timeout` counts from there.
    """

    number: int = 1
    began_at: int


class Finished(Struct, frozen=True, kw_only=True):
    """The operation is over.

    Attributes:
        output: JSON for the task's output; of a failure what the wire shows as its output (a response's body, a message).
        error: why it failed; None if it didn't.
        headers: of the response, for the task's `context` on the wire; None if there is none to show.
    """

    output: str
    error: ErrorInfo | None = None
    headers: dict[str, str] | None = None


class Again(Struct, frozen=True, kw_only=True):
    """Send the request again at the instant `at_ms`, with `attempt`. `reason`: for people."""

    at_ms: int
    reason: str
    attempt: Attempt


def request_of(operation: FetchOperation) -> HttpRequest:
    """The request that an operation asks for, its time-out within the protocol's bounds."""
    params = operation.params
    init = params.request_init
    given = (init.headers if init is not None else None) or {}
    headers = {
        name: value.reveal() if isinstance(value, RedactString) else value for name, value in given.items()
    }
    body = init.body if init is not None else None
    if body is not None and not any(name.lower() == "content-type" for name in headers):
        headers["content-type"] = "text/plain;charset=UTF-8"  # what `fetch` of the reference's runtime says
    return HttpRequest(
        method=((init.method if init is not None else None) or "GET").upper(),
        url=params.url,
        headers=headers,
        body=None if body is None else body.encode("utf-8", "surrogatepass"),
        timeout_ms=_timeout_ms(params),
        secret_headers=frozenset(
            name.lower() for name, value in given.items() if isinstance(value, RedactString)
        ),
    )


def expired(operation: FetchOperation, attempt: Attempt, now_ms: int) -> Finished | None:
    """How an operation ends whose time is over before its next request; None if it is to be sent."""
    params = operation.params
    if isinstance(params, PollParams) and now_ms > _deadline(params, attempt):
        return _poll_timed_out(params)
    return None


def next_step(
    operation: FetchOperation, attempt: Attempt, happened: Happened, now_ms: int, chance: float
) -> Finished | Again:
    """What follows from what happened to request number `attempt.number`. `chance`, in [0, 1), decides the jitter."""
    params = operation.params
    if isinstance(params, PollParams):
        return _after_poll(params, attempt, happened, now_ms, chance)
    match happened:
        case HttpResponse(status=status) if 200 <= status < 300:
            return Finished(output=_output(operation, happened), headers=happened.headers)
        case HttpResponse():
            return _after_bad_status(params, attempt, happened, now_ms, chance)
        case RequestTimedOut():
            return _after_timeout(params.timeout and params.timeout.retry, attempt, happened, now_ms, chance)
        case Unreachable():
            options = _backoff_for_all(params) or RetryOptions(limit=UNREACHABLE_ATTEMPTS_MAX)
            delay = _backoff(options, attempt, chance)
            if delay is None:
                return _unreachable(params, attempt, happened)
            return _again(attempt, now_ms + delay, _cannot_reach(params, happened))
        case Refused():
            return _failed("FetchRefusedError", happened.problem)
        case _ as never:
            assert_never(never)


# --- polls --------------------------------------------------------------------------------------------------------------


def _after_poll(
    params: PollParams, attempt: Attempt, happened: Happened, now_ms: int, chance: float
) -> Finished | Again:
    match happened:
        case HttpResponse():
            body = Body(happened.body)
            if _matches(params.response_filter, happened, body):
                return Finished(output=body.json, headers=happened.headers)
            fresh = Attempt(began_at=attempt.began_at)
            step = Again(
                at_ms=now_ms + params.interval * 1_000,
                reason=f"the response with status {happened.status} doesn't match the filter",
                attempt=fresh,
            )
        case RequestTimedOut():
            retry = params.request_timeout and params.request_timeout.retry
            step = _after_timeout(retry, attempt, happened, now_ms, chance)
        case Unreachable():
            if attempt.number >= UNREACHABLE_ATTEMPTS_MAX:
                return _unreachable(params, attempt, happened)
            step = _again(attempt, now_ms + params.interval * 1_000, _cannot_reach(params, happened))
        case Refused():
            return _failed("FetchRefusedError", happened.problem)
        case _ as never:
            assert_never(never)
    if isinstance(step, Finished):
        return step
    deadline = _deadline(params, attempt)
    if now_ms >= deadline:
        return _poll_timed_out(params)
    return msgspec.structs.replace(step, at_ms=min(step.at_ms, deadline))


def _matches(wanted: ResponseFilter | None, response: HttpResponse, body: Body) -> bool:
    if wanted is None:
        return True
    around = {"status": wanted.status, "headers": wanted.headers}
    if not matches_response(around, status=response.status, headers=response.headers, body=None):
        return False
    return wanted.body is None or (body.is_json and matches(wanted.body, body.value))


def _deadline(params: PollParams, attempt: Attempt) -> int:
    return attempt.began_at + params.timeout * 1_000


def _poll_timed_out(params: PollParams) -> Finished:
    return _failed("PollTimeoutError", f"Task timed out after {params.timeout} seconds", "TimeoutError")


# --- statuses -----------------------------------------------------------------------------------------------------------


def _after_bad_status(
    params: FetchParams, attempt: Attempt, response: HttpResponse, now_ms: int, chance: float
) -> Finished | Again:
    body = Body(response.body)
    reason = f"Fetch failed with status {response.status}"
    why_not = ""
    match _strategy_for(params, response.status, body.value):
        case None:
            pass
        case BackoffStrategy() as strategy:
            delay = _backoff(strategy, attempt, chance)
            if delay is not None:
                return _again(attempt, now_ms + delay, reason)
            why_not = f" (attempt {attempt.number} of {strategy.limit:g})"
        case HeadersStrategy() as strategy:
            told = response.headers.get(strategy.reset_header.lower())
            at = None if told is None else reset_at(told, strategy.reset_format, now_ms)
            if at is not None:
                return _again(attempt, at, reason)
            said = "is missing" if told is None else f"says {told[:100]!r}"
            why_not = f" (not tried again: header {strategy.reset_header!r} {said}, expected {strategy.reset_format})"
        case _ as never:
            assert_never(never)
    said = _said(body)
    return Finished(
        output=body.json if _is_truthy(body.value) else _message(reason),
        error=_error("FetchStatusError", f"{reason}{why_not}{said}"),
        headers=response.headers,
    )


def _strategy_for(params: FetchParams, status: int, body: Any) -> BackoffStrategy | HeadersStrategy | None:
    for pattern, strategy in (params.retry or {}).items():
        if status_matches(pattern, status) and (
            strategy.body_filter is None or matches(strategy.body_filter, body)
        ):
            return strategy
    return None


def _backoff_for_all(params: FetchParams) -> BackoffStrategy | None:
    for pattern, strategy in (params.retry or {}).items():
        if "all" in _parts(pattern) and isinstance(strategy, BackoffStrategy) and not strategy.body_filter:
            return strategy
    return None


def status_matches(pattern: str, status: int) -> bool:
    """Whether a status fits: `all`, `429`, `4xx`, `42x`, `500-599`, or a list of these with commas between.

    What is none of these fits nothing; see `is_status_pattern`.
    """
    return any(_part_matches(part, status) for part in _parts(pattern))


def reset_at(told: str, format: ResetFormat, now_ms: int) -> int | None:
    """The instant at which a limit is said to be reset, a second from now at the earliest; None if it can't be read.

    `iso_8601_duration_openai_variant` is like "1d2h3m4.5s6ms", any of them left out, and counts from now.
    """
    at = _instant_told(told.strip(), format, now_ms)
    if at is None or at > now_ms + RESET_DELAY_MS_MAX:
        return None
    return max(at, now_ms + RESET_DELAY_MS_MIN)


def _instant_told(told: str, format: ResetFormat, now_ms: int) -> int | None:
    match format:
        case "unix_timestamp" | "unix_timestamp_in_ms":
            if not _NUMBER.fullmatch(told):
                return None
            return _ceil(float(told) * (1_000 if format == "unix_timestamp" else 1))
        case "iso_8601":
            return parse_instant(told)
        case "iso_8601_duration_openai_variant":
            found = _DURATION.fullmatch(told)
            if found is None or not told:
                return None
            return now_ms + _ceil(
                sum(float(count) * unit for count, unit in zip(found.groups("0"), _UNITS_MS, strict=True))
            )
        case _ as never:
            assert_never(never)


_NUMBER = re.compile(r"[0-9]{1,30}(\.[0-9]{0,30})?")
_DURATION = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,30})?)s)?(?:([0-9]{1,9}(?:\.[0-9]{1,30})?)ms)?"
)
_UNITS_MS = (86_400_000, 3_600_000, 60_000, 1_000, 1)
_RANGE = re.compile(r"([0-9]{3})\s*-\s*([0-9]{3})")


def _parts(pattern: str) -> list[str]:
    return [part.strip().lower() for part in pattern.split(",")]


def _part_matches(part: str, status: int) -> bool:
    if part == "all":
        return True
    if bounds := _RANGE.fullmatch(part):
        return int(bounds[1]) <= status <= int(bounds[2])
    digits = str(status)
    return len(part) == len(digits) and all(
        wanted in ("x", digit) for wanted, digit in zip(part, digits, strict=True)
    )


# --- parts --------------------------------------------------------------------------------------------------------------


class Body:
    """A response's body. `json` is its compact JSON text; what isn't JSON counts as null (Protocol, fetch)."""

    def __init__(self, body: bytes) -> None:
        text = body.removeprefix(b"\xef\xbb\xbf")
        try:
            self.value: Any = msgspec.json.decode(text)
            self.json = msgspec.json.format(text, indent=-1).decode()
            self.is_json = True
        except (msgspec.DecodeError, UnicodeError, ValueError, RecursionError):
            self.value, self.json, self.is_json = None, "null", False


def _output(operation: FetchOperation, response: HttpResponse) -> str:
    body = Body(response.body).json
    if operation.kind == "fetch":
        return body
    whole = {"status": response.status, "data": Raw(body), "headers": response.headers}
    return msgspec.json.encode(whole).decode()


def _after_timeout(
    retry: RetryOptions | None, attempt: Attempt, happened: RequestTimedOut, now_ms: int, chance: float
) -> Finished | Again:
    reason = f"Fetch timed out after {happened.after_ms}ms"
    delay = None if retry is None else _backoff(retry, attempt, chance)
    if delay is None:
        return _failed("FetchTimeoutError", reason, "TimeoutError")
    return _again(attempt, now_ms + delay, reason)


def _again(attempt: Attempt, at_ms: int, reason: str) -> Again:
    return Again(
        at_ms=at_ms, reason=reason, attempt=Attempt(number=attempt.number + 1, began_at=attempt.began_at)
    )


def _cannot_reach(params: FetchParams | PollParams, happened: Unreachable) -> str:
    return f"Fetch could not reach {_host(params.url)}: {happened.problem}"


def _unreachable(params: FetchParams | PollParams, attempt: Attempt, happened: Unreachable) -> Finished:
    tries = "" if attempt.number == 1 else f" ({attempt.number} attempts)"
    return _failed("FetchConnectionError", _cannot_reach(params, happened) + tries, "ConnectionError")


def _failed(name: str, message: str, *kinds: str) -> Finished:
    return Finished(output=_message(message), error=_error(name, message, *kinds))


def _error(name: str, message: str, *kinds: str) -> ErrorInfo:
    # The builtin beside our own name lets `TaskError.matches(TimeoutError)` tell the kinds apart.
    return ErrorInfo(name=name, message=message, types=[name, *kinds])


def _message(message: str) -> str:
    return msgspec.json.encode({"message": message}).decode()


def _said(body: Body) -> str:
    """What a response says of its failure, short enough for a message."""
    if not _is_truthy(body.value):
        return ""
    value = body.value
    said = cast("dict[str, Any]", value).get("message") if isinstance(value, dict) else None
    text = said if isinstance(said, str) and said else body.json
    return f": {text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + ' ...'}"


def _is_truthy(value: Any) -> bool:
    # As JavaScript has it: empty objects and lists count as something.
    return isinstance(value, (dict, list)) or bool(value)


def _host(url: str) -> str:
    # Neither path nor query nor credentials: a message must not carry what may be secret.
    authority = re.split(r"[/?#\\]", url.partition("://")[2], maxsplit=1)[0]
    return authority.rpartition("@")[2] or "the URL"


def _backoff(options: RetryOptions, attempt: Attempt, chance: float) -> int | None:
    return backoff_ms(
        attempt.number,
        chance,
        limit=options.limit,
        factor=options.factor,
        min_ms=options.min_timeout_in_ms,
        max_ms=options.max_timeout_in_ms,
        jitter=options.randomize,
    )


def _timeout_ms(params: FetchParams | PollParams) -> int:
    if isinstance(params, PollParams):
        given = params.request_timeout.duration_in_ms if params.request_timeout else POLL_TIMEOUT_MS
        return _ceil(min(max(given, POLL_TIMEOUT_MS_MIN), POLL_TIMEOUT_MS_MAX))
    given = params.timeout.duration_in_ms if params.timeout else FETCH_TIMEOUT_MS
    return _ceil(min(max(given, FETCH_TIMEOUT_MS_MIN), FETCH_TIMEOUT_MS_MAX))


def _ceil(ms: float) -> int:
    return int(-(-ms // 1))
