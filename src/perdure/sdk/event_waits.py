"""`io.wait_for_event`: what it waits for, and the event that the run is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set as AbstractSet
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.clock import to_datetime
from perdure.durations import to_instant_ms, to_ms
from perdure.errors import InvalidPayloadError, SerializationError, UsageError
from perdure.limits import Limits
from perdure.schema.effects import EventWait
from perdure.schema.execution import EventRecord, TaskRecord
from perdure.schema.runs import Event, TaskStatus

from .keys import Key
from .operation import Duration, Operation, TaskOptions
from .others import Plan, start_waiting
from .payloads import PayloadSchema
from .texts import check_text
from .values import to_json

if TYPE_CHECKING:
    from perdure.filters import Filter

    from .execution import Execution

NAMES_MAX = 100
"""Names that one wait may be for."""

_decode_event = msgspec.json.Decoder(EventRecord).decode


class EventPlan(Plan):
    """A wait for an event, as described by the arguments of `IO.wait_for_event`."""

    name = "wait for event"

    def __init__(
        self,
        key: Key,
        names: str | Sequence[str],
        *,
        schema: Any,
        filter: Filter | None,
        source: str | None,
        context_filter: Filter | None,
        account_id: str | None,
        since: datetime | timedelta | None,
        timeout: Duration | None,
        limits: Limits,
    ) -> None:
        where = f"io.wait_for_event({key!r})"
        self._names = _checked_names(names, where, limits)
        self._schema = PayloadSchema(schema)
        self._source = source
        self._account_id = account_id
        for what, text in (("source", source), ("account_id", account_id)):
            if text is not None:
                check_text(text, f"{where}: {what}", limits.name_chars_max)
        self._filter = _json_filter(filter, f"{where}: filter")
        self._context_filter = _json_filter(context_filter, f"{where}: context_filter")
        self._back = to_ms(since, f"{where}: since") if isinstance(since, timedelta) else 0
        self._since = (
            to_instant_ms(since, f"{where}: since")
            if since is not None and not isinstance(since, timedelta)
            else None
        )
        self._timeout = None if timeout is None else to_ms(timeout, f"{where}: timeout")
        self.options = self._shown()
        self._operation: Operation | None = None

    def _shown(self) -> TaskOptions:
        params = {
            "names": list(self._names),
            "source": self._source,
            "filter": None if self._filter is None else msgspec.json.decode(self._filter),
            "contextFilter": None
            if self._context_filter is None
            else msgspec.json.decode(self._context_filter),
            "accountId": self._account_id,
            "timeoutInSeconds": None if self._timeout is None else self._timeout / 1000,
        }
        given = {name: value for name, value in params.items() if value is not None}
        return TaskOptions(icon="custom-event", params=given)

    def begin(self, execution: Execution, operation: Operation) -> Iterator[None]:
        if operation.record.status is TaskStatus.PENDING:
            now = execution.clock.now()
            if now <= self._last_seen(execution):
                now = self._last_seen(execution) + 1
            start_waiting(operation, now, None if self._timeout is None else now + self._timeout)
            execution.note(operation.record)
        yield from ()  # it need not be durable: what the platform is told of the wait comes later, and says since when

    def _last_seen(self, execution: Execution) -> int:
        """When the last event arrived that the run knows already: it isn't to come again, be it in this millisecond."""
        cause = execution.claim.event
        arrived = (cause.delivered_at or 0) if cause.name in self._names else 0
        return max(arrived, execution.others.event_seen)

    def records(self, operation: Operation) -> Sequence[TaskRecord]:
        self._operation = operation
        return super().records(operation)

    def event(self, operation: Operation) -> EventWait:
        record = operation.record
        since = (record.started_at or 0) - self._back if self._since is None else self._since
        return EventWait(
            task_id=record.id,
            names=self._names,
            since=since,
            source=self._source,
            filter=self._filter,
            context_filter=self._context_filter,
            account_id=self._account_id,
        )

    def overdue(self, operation: Operation) -> Exception:
        seconds = (self._timeout or 0) / 1000
        return TimeoutError(f"no event {_listed(self._names)} that fits came within {seconds:g} s")

    def decode(self, json: str, types: str | None = None, *, where: object) -> Event:
        record = _decode_event(json)
        self._note_seen(record)
        try:
            payload = self._schema.parse(record.payload, job_id="")
        except InvalidPayloadError as error:
            issue = error.issues[0]
            raise SerializationError(
                where=f"{where}: the payload of event {record.name!r} ({record.id})",
                path=".".join(["$", *map(str, issue["path"])]),
                problem=f"doesn't fit the schema that io.wait_for_event was given: {issue['message']}",
            ) from error
        return Event(
            id=record.id,
            name=record.name,
            payload=payload,
            context=None if record.context is None else msgspec.json.decode(record.context),
            source=record.source,
            timestamp=to_datetime(record.timestamp),
            account_id=record.account_id,
            deliver_at=None if record.deliver_at is None else to_datetime(record.deliver_at),
            delivered_at=None if record.delivered_at is None else to_datetime(record.delivered_at),
            is_test=record.is_test,
        )

    def _note_seen(self, event: EventRecord) -> None:
        assert self._operation is not None
        others = self._operation.scope.execution.others
        arrived = event.delivered_at or event.deliver_at or event.timestamp
        others.event_seen = max(
            others.event_seen, min(arrived, self._operation.record.completed_at or arrived)
        )


def _checked_names(names: str | Sequence[str], where: str, limits: Limits) -> tuple[str, ...]:
    given: Any = names
    if not isinstance(given, (str, Sequence, AbstractSet)):
        raise UsageError(
            f"{where}: names the event by a string, or the events by a list of them, not {given!r}"
        )
    listed = (names,) if isinstance(names, str) else tuple(names)
    for name in listed:
        if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance] (users aren't checked)
            raise UsageError(f"{where}: name the event, or the events, that it waits for, not {name!r}")
    if not listed:
        raise UsageError(f"{where}: name the event, or the events, that it waits for")
    listed = tuple(dict.fromkeys(listed))
    if len(listed) > NAMES_MAX:
        raise UsageError(f"{where}: a wait can be for at most {NAMES_MAX} names, not {len(listed)}")
    for name in listed:
        check_text(name, f"{where}: the name of an event", limits.name_chars_max)
    return listed


def _json_filter(given: Filter | None, where: str) -> str | None:
    if given is None:
        return None
    from perdure.filters import to_json_filter

    return to_json(to_json_filter(given, where=where), where=where)


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(map(repr, names))
