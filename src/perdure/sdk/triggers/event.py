"""Jobs that run when an event is sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast, overload

from perdure.errors import UsageError
from perdure.filters import Filter
from perdure.limits import DEFAULT_LIMITS
from perdure.sdk.payloads import Example
from perdure.sdk.texts import check_text

from .trigger import Trigger

T = TypeVar("T")


@overload
def event_trigger(
    name: str | Sequence[str],
    *,
    schema: type[T],
    source: str | None = None,
    filter: Filter | None = None,
    context_filter: Filter | None = None,
    examples: Sequence[Example] = (),
) -> Trigger[T]: ...
@overload
def event_trigger(
    name: str | Sequence[str],
    *,
    schema: None = None,
    source: str | None = None,
    filter: Filter | None = None,
    context_filter: Filter | None = None,
    examples: Sequence[Example] = (),
) -> Trigger[Any]: ...
def event_trigger(
    name: str | Sequence[str],
    *,
    schema: Any = None,
    source: str | None = None,
    filter: Filter | None = None,
    context_filter: Filter | None = None,
    examples: Sequence[Example] = (),
) -> Trigger[Any]:
    """Run the job for every event of this name (case-sensitive), or of one of several names.

    Args:
        name: of the event, or names.
        schema: type of the payload: a pydantic model, dataclass, TypedDict, msgspec Struct or plain type. A payload that
            doesn't fit ends the run as Invalid payload. Without one the payload is the JSON as sent.
        source: only events sent with this `source`.
        filter: only events whose payload matches, e.g. {"status": ["PAID"], "total": gt(100)}; the operators and rules are
            in `perdure.filters`. It sees the payload as sent, before `schema`.
        context_filter: the same for the `context` sent with the event.
        examples: payloads to try the job with; each must fit the schema.

    Raises:
        UsageError: no name; a filter that can't be used (the message has the path inside it); an example that doesn't fit.
    """
    given: Any = name
    names: tuple[Any, ...] = (given,)
    if isinstance(given, Iterable) and not isinstance(given, str):
        names = tuple(cast("Iterable[Any]", given))
    if not names or not all(names):
        raise UsageError("event_trigger needs the name of an event, or several")
    for text in (*names, source):
        check_text(text, "event_trigger: the name of an event, or a source,", DEFAULT_LIMITS.name_chars_max)
    return Trigger(
        event_names=names,
        source=source,
        filter=filter,
        context_filter=context_filter,
        schema=schema,
        examples=examples,
        where=f"event_trigger({names[0]!r})",
    )
