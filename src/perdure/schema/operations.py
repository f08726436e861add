"""Requests that the platform makes on behalf of a run, while the run waits: as SDKs describe them in a task.

`operation` of a task is the kind, `params` the JSON of `FetchParams` or `PollParams` (Protocol, task operations). Names
on the wire are camelCase. Durations are milliseconds where the name says so; a poll's `interval` and `timeout` are seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, cast, get_args

import msgspec
from msgspec import Meta, Struct

OperationKind: TypeAlias = Literal["fetch", "fetch-response", "fetch-poll"]
"""What is done, and what comes out: the body; status, data and headers; the body of the first response that matches."""

ResetFormat: TypeAlias = Literal[
    "unix_timestamp", "unix_timestamp_in_ms", "iso_8601", "iso_8601_duration_openai_variant"
]

JsonFilter: TypeAlias = dict[str, Any]
"""An event filter (Protocol, EventFilter semantics)."""

HIDDEN = "********"
"""Stands for a secret wherever people look."""

SHOWN_CHARS_MAX = 10_000
"""Of a request's body, where it is shown; and of a response's among a poll's attempts, in bytes."""


class RedactString(Struct, frozen=True, kw_only=True, rename="camel"):
    """A text with secrets in it, kept apart: `strings` are the public pieces around the secret `interpolations`.

    JSON: `{"__redactedString": true, "strings": ["Bearer ", ""], "interpolations": ["sk-1"]}`. It is stored like that; its
    `repr` and `str` are those of the redacted text.
    """

    redacted_string: bool = msgspec.field(name="__redactedString", default=True)
    strings: list[str]
    interpolations: list[str]

    def __post_init__(self) -> None:
        if not self.redacted_string or len(self.strings) != len(self.interpolations) + 1:
            raise ValueError(
                "a redacted string has __redactedString true, and one more of strings than of interpolations"
            )

    def reveal(self) -> str:
        """The text with its secrets: for the request itself and nothing else."""
        return self._join(self.interpolations)

    def redacted(self) -> str:
        """The text with `********` for each secret."""
        return self._join([HIDDEN] * len(self.interpolations))

    def __repr__(self) -> str:
        return f"RedactString({self.redacted()!r})"

    def __str__(self) -> str:
        return self.redacted()

    def _join(self, between: list[str]) -> str:
        return "".join(piece for pair in zip(self.strings, [*between, ""], strict=True) for piece in pair)


class RetryOptions(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A growing delay (Protocol, task retry backoff). `limit`: tries in all; `randomize`: stretch by a chance in [1, 2)."""

    limit: int | float = 5
    factor: int | float = 1.8
    min_timeout_in_ms: int | float = 1_000
    max_timeout_in_ms: int | float = 60_000
    randomize: bool = True


class BackoffStrategy(RetryOptions, frozen=True, kw_only=True, tag_field="strategy", tag="backoff"):
    """Try again after a growing delay, if the response's JSON matches `body_filter` (None: any does)."""

    body_filter: JsonFilter | None = None


class HeadersStrategy(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="strategy", tag="headers"
):
    """Try again when the response's header `reset_header` says so.

    `limit_header` and `remaining_header` are carried for whoever looks; they decide nothing (Protocol, fetch).
    """

    reset_header: str
    reset_format: ResetFormat = "unix_timestamp"
    limit_header: str | None = None
    remaining_header: str | None = None
    body_filter: JsonFilter | None = None


class RequestInit(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The request beside its URL. `method` None is GET; `body` is sent in UTF-8."""

    method: str | None = None
    headers: dict[str, str | RedactString] | None = None
    body: str | None = None


class RequestTimeout(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How long one request may take, and whether one that took longer is made again (None: it isn't)."""

    duration_in_ms: int | float
    retry: RetryOptions | None = None


class ResponseFilter(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What ends a poll: a status out of `status`, headers and a JSON body that match their filters. None: anything does."""

    status: list[int] | None = None
    headers: JsonFilter | None = None
    body: JsonFilter | None = None


class FetchParams(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One request. `retry`: what to do about a status, by pattern ("429", "401,403", "500-599", "4xx", "all"), first fit."""

    url: str
    request_init: RequestInit | None = None
    retry: dict[str, BackoffStrategy | HeadersStrategy] | None = None
    timeout: RequestTimeout | None = None


class PollParams(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A request made every `interval` seconds until a response matches, for at most `timeout` seconds."""

    url: str
    interval: Annotated[int, Meta(ge=10, le=600)] = 10
    timeout: Annotated[int, Meta(ge=30, le=3_600)] = 600
    response_filter: ResponseFilter | None = None
    request_init: RequestInit | None = None
    request_timeout: RequestTimeout | None = None


class FetchOperation(Struct, frozen=True, kw_only=True):
    """What the platform is asked to do in place of a task's body."""

    kind: OperationKind
    params: FetchParams | PollParams

    def params_json(self) -> str:
        """`params` as the wire and the store have them, secrets included; `parse_operation` reads it."""
        return msgspec.json.encode(self.params).decode()

    def redacted_params(self) -> dict[str, Any]:
        """`params` for people to see: `{"url": ..., "requestInit": {"headers": {"authorization": "Bearer ********"}}}`.

        A long body is cut.
        """
        shown = cast("dict[str, Any]", msgspec.to_builtins(self.params))
        init = self.params.request_init
        if init is not None and init.headers:
            shown["requestInit"]["headers"] = {name: str(value) for name, value in init.headers.items()}
        if init is not None and init.body is not None and len(init.body) > SHOWN_CHARS_MAX:
            shown["requestInit"]["body"] = init.body[:SHOWN_CHARS_MAX] + " ..."
        return shown

    def secrets(self) -> list[str]:
        """What its redacted strings hide, the longest first."""
        init = self.params.request_init
        found = {
            secret
            for value in ((init.headers or {}) if init is not None else {}).values()
            if isinstance(value, RedactString)
            for secret in value.interpolations
            if secret
        }
        return sorted(found, key=len, reverse=True)

    def hide(self, value: Any) -> Any:
        """A copy of a JSON value (or a text) with `********` wherever a text in it holds one of the secrets."""
        secrets = self.secrets()
        return _hidden(value, secrets) if secrets else value


class StoredOperation(Struct, frozen=True, kw_only=True):
    """An operation as a platform keeps it: with the `position` of its task, below which its attempts are shown."""

    kind: str
    params: msgspec.Raw
    position: int = 0

    def operation(self) -> FetchOperation:
        """Raises ValueError, as `parse_operation`."""
        return parse_operation(self.kind, bytes(self.params))


def stored_json(operation: FetchOperation, position: int) -> str:
    """JSON of a StoredOperation. It has the secrets in it, as the request needs them."""
    params = msgspec.Raw(operation.params_json().encode())
    return msgspec.json.encode(
        StoredOperation(kind=operation.kind, params=params, position=position)
    ).decode()


decode_stored = msgspec.json.Decoder(StoredOperation).decode


def _hidden(value: Any, secrets: list[str]) -> Any:
    match value:
        case str():
            for secret in secrets:
                value = value.replace(secret, HIDDEN)
            return value
        case dict():
            members = cast("dict[str, Any]", value)
            return {_hidden(name, secrets): _hidden(member, secrets) for name, member in members.items()}
        case list():
            return [_hidden(item, secrets) for item in cast("list[Any]", value)]
        case _:
            return value


def parse_operation(kind: str, params: str | bytes) -> FetchOperation:
    """The operation `kind` with `params`, which is JSON.

    Raises:
        ValueError: there is no such operation, or the params don't fit it; the text is what the task fails with.
    """
    if kind not in get_args(OperationKind):
        raise ValueError(
            f"there is no task operation {kind!r}; there are {', '.join(get_args(OperationKind))}"
        )
    known = cast("OperationKind", kind)
    try:
        if known == "fetch-poll":
            return FetchOperation(kind=known, params=msgspec.json.decode(params, type=PollParams))
        return FetchOperation(kind=known, params=msgspec.json.decode(params, type=FetchParams))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ValueError(f"the params of the task operation {kind!r} don't fit: {exc}") from exc
