"""Jobs that run when an event is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from perdure.errors import UsageError
from perdure.filters import Filter
from perdure.sdk.payloads import Example

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
    names = (name,) if isinstance(name, str) else tuple(name)
    if not names or not all(names):
        raise UsageError("event_trigger needs the name of an event, or several")
    return Trigger(
        event_names=names,
        source=source,
        filter=filter,
        context_filter=context_filter,
        schema=schema,
        examples=examples,
        where=f"event_trigger({names[0]!r})",
    )
