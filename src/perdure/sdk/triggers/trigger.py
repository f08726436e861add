"""What every kind of trigger has in common: what starts the job, and what its payload looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from perdure.filters import Filter, to_json_filter
from perdure.schedules import Schedule
from perdure.sdk.payloads import Example, PayloadSchema

Payload = TypeVar("Payload")


class Trigger(Generic[Payload]):
    """Made by `event_trigger`, `cron_trigger`, `invoke_trigger`, ...

    Attributes:
        event_names: of the events that start the job; empty for one that is only invoked.
        source: only events of this source do; None for any.
        filter: only events whose payload matches do, in JSON form; None for any.
        context_filter: only events whose context matches do, in JSON form; None for any.
        schedule: whose ticks start the job; None if it has none.
        catch_up: whether ticks missed while nothing ran come one by one, rather than being skipped.
        dispatchers: ids of dynamic schedules whose ticks start the job.
        schema: parses payloads.
        examples: valid payloads, for test pages and documentation.
    """

    def __init__(
        self,
        *,
        event_names: tuple[str, ...] = (),
        source: str | None = None,
        filter: Filter | None = None,
        context_filter: Filter | None = None,
        schedule: Schedule | None = None,
        catch_up: bool = False,
        dispatchers: tuple[str, ...] = (),
        schema: Any = None,
        examples: Sequence[Example] = (),
        where: str,
    ) -> None:
        self.event_names = event_names
        self.source = source
        self.filter = None if filter is None else to_json_filter(filter, where=f"{where}: filter")
        self.context_filter = (
            None
            if context_filter is None
            else to_json_filter(context_filter, where=f"{where}: context_filter")
        )
        self.schedule = schedule
        self.catch_up = catch_up
        self.dispatchers = dispatchers
        self.schema = PayloadSchema(schema)
        self.examples = tuple(examples)
        self.schema.check_examples(self.examples, where=where)
