"""Jobs that run when they are called by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from perdure.sdk.payloads import Example

from .trigger import Trigger

T = TypeVar("T")


@overload
def invoke_trigger(*, schema: type[T], examples: Sequence[Example] = ()) -> Trigger[T]: ...
@overload
def invoke_trigger(*, schema: None = None, examples: Sequence[Example] = ()) -> Trigger[Any]: ...
def invoke_trigger(*, schema: Any = None, examples: Sequence[Example] = ()) -> Trigger[Any]:
    """Run the job only by `job.invoke(payload)`; `schema` and `examples` as in `event_trigger`."""
    return Trigger(schema=schema, examples=examples, where="invoke_trigger")
