"""Requests for the platform to make while a run waits: what `io.background_fetch` and `io.background_poll` are given.

The two builders turn their arguments into the operation on the wire, or say what is wrong with them. Nothing here sends.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, cast, get_args
from urllib.parse import SplitResult, urlsplit

from perdure.durations import to_ms
from perdure.errors import UsageError
from perdure.filters import Filter, JsonFilter, to_json_filter, to_json_response_filter
from perdure.schema.operations import (
    BackoffStrategy,
    FetchOperation,
    FetchParams,
    HeadersStrategy,
    PollParams,
    RedactString,
    RequestInit,
    RequestTimeout,
    ResetFormat,
    ResponseFilter,
    RetryOptions,
)

from .retry import Retry
from .values import to_json


@dataclass(frozen=True, kw_only=True)
class FromHeaders:
    """Try again when the response says that its limit is reset.

    Attributes:
        reset_header: name of the header with that time: "x-ratelimit-reset".
        reset_format: how it is written: "unix_timestamp" (seconds), "unix_timestamp_in_ms", "iso_8601", or
            "iso_8601_duration_openai_variant" ("1d2h3m4.5s6ms", from now). What can't be read is not tried again.
        limit_header, remaining_header: names of the headers beside it; shown, they decide nothing.
        body_filter: only if the response's JSON matches this event filter; None: whatever it says.

    Example: `retry={"429": FromHeaders(reset_header="x-ratelimit-reset")}`
    """

    reset_header: str
    reset_format: ResetFormat = "unix_timestamp"
    limit_header: str | None = None
    remaining_header: str | None = None
    body_filter: Filter | None = None


@dataclass(frozen=True)
class Backoff:
    """`retry`, but only for responses whose JSON matches `body_filter`: `{"403": Backoff(Retry(), {"code": ["slow_down"]})}`."""

    retry: Retry
    body_filter: Filter | None = None


Strategy: TypeAlias = Retry | Backoff | FromHeaders
RetryRules: TypeAlias = Retry | Mapping[str | int, Strategy]
"""What to do about failures by pattern of status, first fit: `{"429": FromHeaders(...), "5xx": Retry(attempts=3)}`.

Patterns: "all", "429", "401,403", "500-599", "4xx", "42x". Under "all", a Retry also covers hosts that can't be reached
(otherwise: three attempts). One Retry in place of a mapping is for everything: any bad status, hosts, time-outs.
"""

Headers: TypeAlias = Mapping[str, str | RedactString]


def redact_string(template: str, *secrets: str) -> RedactString:
    """A header with secrets in it: the request has them, what people see shows `********`.

    Each `{}` of the template stands for one of `secrets`; `{{` and `}}` are braces.

    Example: `headers={"authorization": redact_string("Bearer {}", token)}`

    Raises:
        UsageError: there are more or fewer `{}` than secrets, or something is no string.
    """
    if not isinstance(cast("Any", template), str):
        raise UsageError(f"redact_string: the template must be a string, got {type(template).__name__}")
    strings, places = [""], 0
    try:
        for literal, field, spec, conversion in string.Formatter().parse(template):
            strings[-1] += literal
            if field is None:
                continue
            if field or spec or conversion:
                raise UsageError(
                    f"redact_string: only {{}} stands for a secret, got {{{field}...}}; write {{{{ and }}}} for braces"
                )
            strings.append("")
            places += 1
    except ValueError as exc:
        raise UsageError(f"redact_string: {exc}; write {{{{ and }}}} for braces") from exc
    if places != len(secrets):
        raise UsageError(f"redact_string: the template has {places} {{}} for {len(secrets)} secrets")
    for number, secret in enumerate(secrets, 1):
        if not isinstance(cast("Any", secret), str):  # never its value: it is a secret
            raise UsageError(
                f"redact_string: secret {number} must be a string, got {type(secret).__name__}; is a setting missing?"
            )
    return RedactString(strings=strings, interpolations=list(secrets))


def fetch_operation(
    url: str,
    *,
    method: str = "GET",
    headers: Headers | None = None,
    json: Any = None,
    body: str | None = None,
    retry: RetryRules | None = None,
    timeout: timedelta | int | float | None = None,
    timeout_retry: Retry | None = None,
    whole_response: bool = False,
    where: str = "background_fetch",
) -> FetchOperation:
    """What `io.background_fetch` asks for, or with `whole_response` `io.background_fetch_response`.

    Args:
        url: http or https, absolute.
        method: of the request.
        headers: by name; secrets as `redact_string(...)`.
        json: sent as JSON, unless None.
        body: sent as it is (instead of `json`).
        retry: what to do about failures; None: any status but 2xx fails the task, a host gets three attempts.
        timeout: for the whole response, timedelta or seconds; counts as 1 s to 300 s (default: 120 s).
        timeout_retry: what to do about such a time-out; None: it fails the task (or `retry`, if that is one Retry).
        whole_response: the output is {"status", "data", "headers"} instead of the body.
        where: begins the message of an error.

    Raises:
        UsageError: an argument is wrong; the message says which, and what would be right.
    """
    rules = {"all": retry} if isinstance(retry, Retry) else retry
    if timeout_retry is None and isinstance(retry, Retry):
        timeout_retry = retry
    return FetchOperation(
        kind="fetch-response" if whole_response else "fetch",
        params=FetchParams(
            url=_url(url, where),
            request_init=_request_init(method, headers, json, body, where),
            retry=None if rules is None else _strategies(rules, where),
            timeout=_request_timeout(timeout, timeout_retry, 120_000, f"{where}: timeout"),
        ),
    )


def poll_operation(
    url: str,
    *,
    interval: timedelta | int | float = 10,
    timeout: timedelta | int | float = 600,
    response_filter: Mapping[str, Any] | None = None,
    method: str = "GET",
    headers: Headers | None = None,
    json: Any = None,
    body: str | None = None,
    request_timeout: timedelta | int | float | None = None,
    request_timeout_retry: Retry | None = None,
    where: str = "background_poll",
) -> FetchOperation:
    """What `io.background_poll` asks for.

    Args:
        url: http or https, absolute.
        interval: between two requests, whole seconds from 10 to 600 or such a timedelta.
        timeout: for the poll in all, whole seconds from 30 to 3600 or such a timedelta.
        response_filter: what the awaited response is like: {"status": [200], "headers": {"x-state": ["done"]},
            "body": {"status": ["ready"]}}, each optional, headers and body as event filters. None: the first one is.
        method: as in `fetch_operation`, like the next three.
        headers: by name.
        json: sent as JSON.
        body: sent as it is.
        request_timeout: for one response, timedelta or seconds; counts as 1 s to 5 s (default: 5 s).
        request_timeout_retry: what to do about such a time-out; None: it fails the task.
        where: begins the message of an error.

    Raises:
        UsageError: an argument is wrong; the message says which, and what would be right.
    """
    return FetchOperation(
        kind="fetch-poll",
        params=PollParams(
            url=_url(url, where),
            interval=_seconds(interval, 10, 600, f"{where}: interval"),
            timeout=_seconds(timeout, 30, 3_600, f"{where}: timeout"),
            response_filter=_response_filter(response_filter, where),
            request_init=_request_init(method, headers, json, body, where),
            request_timeout=_request_timeout(
                request_timeout, request_timeout_retry, 5_000, f"{where}: request_timeout"
            ),
        ),
    )


def display_name(operation: FetchOperation) -> str:
    """What its task is called unless the user says otherwise: "fetch api.example.com/v1/things" (Protocol, IO methods)."""
    verbs = {"fetch": "fetch", "fetch-response": "fetch response", "fetch-poll": "poll"}
    parts = urlsplit(operation.params.url)
    # Neither query nor credentials: they are where secrets are.
    return f"{verbs[operation.kind]} {parts.netloc.rpartition('@')[2]}{parts.path}"


# --- the request --------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _url(url: Any, where: str) -> str:
    if not isinstance(url, str):
        raise UsageError(f"{where}: the URL must be a string, got {type(url).__name__}")
    try:
        parts: SplitResult | None = urlsplit(url)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        bad = True
    if bad or re.search(r"[\x00-\x20\x7f\ud800-\udfff]", url):
        raise UsageError(f"{where}: {url!r} is no absolute URL that begins with http:// or https://")
    return url


def _request_init(method: Any, headers: Any, json: Any, body: Any, where: str) -> RequestInit | None:
    if not isinstance(method, str) or not _TOKEN.fullmatch(method):
        raise UsageError(f"{where}: method must be the name of an HTTP method, got {method!r}")
    method = method.upper()
    if json is not None and body is not None:
        raise UsageError(f"{where}: json and body exclude each other")
    sent = {} if headers is None else _headers(headers, where)
    if json is not None:
        body = to_json(json, where=f"{where}: json")
        if not any(name.lower() == "content-type" for name in sent):
            sent["content-type"] = "application/json"
    if body is not None:
        if not isinstance(body, str):
            raise UsageError(
                f"{where}: body must be text, got {type(body).__name__}; json= takes other values"
            )
        if method in ("GET", "HEAD"):
            raise UsageError(f'{where}: a {method} request has no body; give method="POST" or another')
        if not body.isascii() and not _is_utf8(body):
            raise UsageError(f"{where}: body has half of a surrogate pair, which can't be sent")
    if method == "GET" and not sent and body is None:
        return None
    return RequestInit(method=method, headers=sent or None, body=body)


def _headers(headers: Any, where: str) -> dict[str, str | RedactString]:
    if not isinstance(headers, Mapping):
        raise UsageError(
            f"{where}: headers must be a mapping of names to texts, got {type(headers).__name__}"
        )
    found: dict[str, str | RedactString] = {}
    for name, value in cast("Mapping[Any, Any]", headers).items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise UsageError(f"{where}: {name!r} can't be the name of a header")
        if not isinstance(value, (str, RedactString)):
            raise UsageError(
                f"{where}: header {name!r} must be a string or redact_string(...), got {type(value).__name__}"
            )
        text = value.reveal() if isinstance(value, RedactString) else value
        if re.search(r"[^\x20-\x7e\t]", text):  # the value may be a secret: it stays out of the message
            raise UsageError(
                f"{where}: header {name!r} has a line break or a character outside of ASCII, which can't be sent"
            )
        found[name] = value
    return found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- time and retries ---------------------------------------------------------------------------------------------------


def _seconds(given: timedelta | int | float, least: int, most: int, what: str) -> int:
    ms = to_ms(given, what)
    if ms % 1_000 or not least * 1_000 <= ms <= most * 1_000:
        raise UsageError(f"{what} must be whole seconds from {least} to {most}, got {given!r}")
    return ms // 1_000


def _request_timeout(
    given: timedelta | int | float | None, retry: Retry | None, default_ms: int, what: str
) -> RequestTimeout | None:
    if given is None and retry is None:
        return None
    return RequestTimeout(
        duration_in_ms=default_ms if given is None else to_ms(given, what),
        retry=None if retry is None else RetryOptions(**_options(retry, f"{what}_retry")),
    )


def _strategies(rules: Any, where: str) -> dict[str, BackoffStrategy | HeadersStrategy]:
    if not isinstance(rules, Mapping):
        raise UsageError(
            f"{where}: retry must be a Retry, or a mapping of patterns of status to what to do, "
            f"got {type(rules).__name__}"
        )
    return {
        _pattern(pattern, where): _strategy(strategy, f"{where}: retry[{pattern!r}]")
        for pattern, strategy in cast("Mapping[Any, Any]", rules).items()
    }


def _pattern(given: Any, where: str) -> str:
    pattern = str(given) if type(given) is int else given
    if not isinstance(pattern, str) or not all(_STATUS.fullmatch(part) for part in pattern.split(",")):
        raise UsageError(
            f"{where}: {given!r} in retry is no pattern of statuses; there are "
            '"all", "429", "4xx", "42x", "500-599", and lists like "401,403"'
        )
    return pattern


_STATUS = re.compile(
    r"\s*(all|[1-5][0-9]{2}|[1-5][0-9]x|[1-5]xx|[1-5][0-9]{2}\s*-\s*[1-5][0-9]{2})\s*", re.IGNORECASE
)


def _strategy(given: Any, where: str) -> BackoffStrategy | HeadersStrategy:
    match given:
        case Retry():
            return BackoffStrategy(**_options(given, where))
        case Backoff():
            return BackoffStrategy(
                body_filter=_filter(given.body_filter, f"{where}.body_filter"), **_options(given.retry, where)
            )
        case FromHeaders():
            if given.reset_format not in get_args(ResetFormat):
                raise UsageError(
                    f"{where}: reset_format must be one of {', '.join(get_args(ResetFormat))}, got {given.reset_format!r}"
                )
            for name in (given.reset_header, given.limit_header, given.remaining_header):
                if name is not None and not _is_header_name(name):
                    raise UsageError(f"{where}: {name!r} can't be the name of a header")
            return HeadersStrategy(
                reset_header=given.reset_header,
                reset_format=given.reset_format,
                limit_header=given.limit_header,
                remaining_header=given.remaining_header,
                body_filter=_filter(given.body_filter, f"{where}.body_filter"),
            )
        case _:
            raise UsageError(f"{where} must be a Retry, a Backoff or FromHeaders, got {type(given).__name__}")


def _is_header_name(name: Any) -> bool:
    return isinstance(name, str) and _TOKEN.fullmatch(name) is not None


def _options(retry: Any, what: str) -> dict[str, Any]:
    if not isinstance(retry, Retry):
        raise UsageError(f"{what} must be a Retry, got {type(retry).__name__}")
    if retry.only is not None:
        raise UsageError(
            f"{what}: `only` names exceptions, and the platform's requests raise none; leave it out"
        )
    return {
        "limit": retry.attempts,
        "factor": retry.factor,
        "min_timeout_in_ms": to_ms(retry.min_delay, "min_delay"),
        "max_timeout_in_ms": to_ms(retry.max_delay, "max_delay"),
        "randomize": retry.jitter,
    }


# --- filters ------------------------------------------------------------------------------------------------------------


def _response_filter(given: Any, where: str) -> ResponseFilter | None:
    if given is None or isinstance(given, ResponseFilter):
        return given
    return ResponseFilter(**to_json_response_filter(given, where=f"{where}: response_filter"))


def _filter(given: Any, where: str) -> JsonFilter | None:
    return None if given is None else to_json_filter(given, where=where)
