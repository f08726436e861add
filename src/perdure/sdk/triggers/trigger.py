"""What every kind of trigger has in common: what starts the job, and what its payload looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from perdure.sdk.payloads import Example, PayloadSchema

Payload = TypeVar("Payload")


class Trigger(Generic[Payload]):
    """Made by `event_trigger`, `invoke_trigger`, ...

    Attributes:
        event_names: of the events that start the job; empty for one that is only invoked.
        source: only events of this source do; None for any.
        schema: parses payloads.
        examples: valid payloads, for test pages and documentation.
    """

    def __init__(
        self,
        *,
        event_names: tuple[str, ...] = (),
        source: str | None = None,
        schema: Any = None,
        examples: Sequence[Example] = (),
        where: str,
    ) -> None:
        self.event_names = event_names
        self.source = source
        self.schema = PayloadSchema(schema)
        self.examples = tuple(examples)
        self.schema.check_examples(self.examples, where=where)
