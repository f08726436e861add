"""Events: what a client sends, for now or later, and looks up."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack, cast

import msgspec
from msgspec import Struct

from perdure.durations import to_instant_ms, to_ms
from perdure.errors import LimitExceededError, UsageError
from perdure.limits import Limits
from perdure.schema.execution import EventRecord
from perdure.schema.runs import Event
from perdure.sdk.operation import Duration
from perdure.sdk.platform import Platform
from perdure.sdk.run_options import run_options
from perdure.sdk.scope import current_scope
from perdure.sdk.texts import check_text

from .connection import Connection

_log = logging.getLogger("perdure.client")


class EventOptions(TypedDict, total=False):
    """What `send_event`, `client.event` and `io.send_event` take beside name and payload: see `ClientEvents.send_event`."""

    id: str | None
    context: Any
    timestamp: datetime | None
    source: str | None
    is_test: bool
    account_id: str | None
    deliver_at: datetime | None
    deliver_after: Duration | None
    tags: Iterable[str]
    metadata: Mapping[str, Any] | None
    priority: int | None
    concurrency_key: str | None


class EventToSend(Struct, frozen=True, kw_only=True):
    """An event on its way; made by `client.event`. Attributes: as the arguments of `client.send_event`."""

    name: str
    payload: Any = None
    id: str | None = None
    context: Any = None
    timestamp: datetime | None = None
    source: str | None = None
    is_test: bool = False
    account_id: str | None = None
    deliver_at: datetime | None = None
    deliver_after: Duration | None = None
    tags: Iterable[str] = ()
    metadata: Mapping[str, Any] | None = None
    priority: int | None = None
    concurrency_key: str | None = None

    def with_id(self, id: str) -> EventToSend:
        return msgspec.structs.replace(self, id=id)


class ClientEvents(Connection):
    """The part of `Client` about events."""

    def __init__(self, id: str, limits: Limits) -> None:
        super().__init__(id, limits)
        self._unheard: set[str] = set()

    def event(self, name: str, payload: Any = None, **options: Unpack[EventOptions]) -> EventToSend:
        """An event for `send_events`; the arguments are those of `send_event`."""
        if options and (unknown := options.keys() - EventOptions.__annotations__.keys()):
            raise UsageError(
                f"event {name!r}: there is no option {min(unknown)!r}; there are "
                f"{', '.join(EventOptions.__annotations__)}"
            )
        return EventToSend(name=name, payload=payload, **options)

    async def send_event(self, name: str, payload: Any = None, **options: Unpack[EventOptions]) -> Event:
        """Send an event; each job it triggers gets a run. Durable when this returns.

        Args:
            name: what triggers select by; case-sensitive.
            payload: JSON-like; models, dataclasses, datetimes etc. become JSON.
            options: as follows.
            id: sending an id again returns the first event with its runs, and starts nothing. An event that is to be
                delivered later takes payload, context and the time of its delivery from what is sent again, until 5 s
                before that time.
            context: JSON-like, beside the payload; jobs find it in `ctx.event.context`.
            timestamp: aware; when it happened. Now, if not given.
            source: what triggers may select by; "trigger.dev" if not given, as in v2.
            is_test: marks the runs as tests.
            account_id: the user of the application that it is for; jobs find it in `ctx.account`. See `put_account`.
            deliver_at: aware; jobs that exist then are started then. At once if it is past.
            deliver_after: the same, counted from now: timedelta or seconds.
            tags: of the runs: strings, at most 50 of at most 128 characters; jobs find them in `ctx.run.tags`.
            metadata: of the runs: a JSON-like object; jobs find it in `ctx.run.metadata`.
            priority: of the runs, instead of their jobs'.
            concurrency_key: of the runs, instead of what their jobs make of the payload.

        Raises:
            SerializationError, LimitExceededError, UsageError: the event can't be stored; says why.
            ConfigurationError: the client isn't connected to anything.
            UnavailableError: not stored (the disk is full, say); safe to repeat with the same id.
        """
        platform = self._sender(all_have_ids=bool(options.get("id")))
        record = self._record(self.event(name, payload, **options))
        event = await platform.send_event(record)
        self._look_for_runs(event)
        return event

    async def send_events(self, events: Sequence[EventToSend]) -> list[Event]:
        """Send several events (made by `client.event`) in one go; each is stored by itself. Errors as `send_event`."""
        events = checked_events(events)
        if len(events) > self.limits.events_per_send_max:
            raise LimitExceededError(
                what="the number of events in one send_events",
                size=len(events),
                limit=self.limits.events_per_send_max,
                setting="limits.events_per_send_max",
            )
        platform = self._sender(all_have_ids=all(event.id for event in events))
        sent = await platform.send([self._record(event) for event in events])
        for event in sent:
            self._look_for_runs(event)
        return sent

    async def get_event(self, id: str) -> Event | None:
        """An event with the runs it caused; None if there is none of that id."""
        return await self.platform.get_event(self._checked_id(id, "get_event: the id of an event"))

    async def cancel_event(self, id: str) -> Event:
        """Keep an event that was sent for later from being delivered. Returns it; cancelling it again changes nothing.

        Raises:
            NotFoundError: there is no such event.
            ConflictError: it has been delivered: `cancel_runs_for_event` cancels its runs.
        """
        return await self.platform.cancel_event(self._checked_id(id, "cancel_event: the id of an event"))

    def _sender(self, *, all_have_ids: bool) -> Platform:
        """What events are sent to, if they may be sent from here."""
        platform = self.platform
        scope = current_scope.get()
        if scope is not None and scope.operation is None and not all_have_ids:
            raise UsageError(
                "client.send_event in a run function sends again at every replay: write `await io.send_event(key, name, "
                "payload)`, which sends once (or give the event an id: the same id is the same event)"
            )
        return platform

    def _look_for_runs(self, event: Event) -> None:
        """Say, once per name, that nobody listens."""
        if event.runs or event.delivered_at is not None or event.deliver_at is not None:
            return
        if event.name not in self._unheard:
            self._unheard.add(event.name)
            if not any(event.name in job.trigger.event_names for job in self.jobs.values()):
                _log.warning("event %r is stored, and no job of client %r listens to it", event.name, self.id)

    def _record(self, event: EventToSend) -> EventRecord:
        name = event.name
        where = f"event {name!r}"
        is_test: Any = event.is_test
        if not isinstance(is_test, bool):
            raise UsageError(f"{where}: is_test is True or False, not {is_test!r}")
        self._check_names(event, where)
        options = run_options(
            where,
            self.limits,
            tags=event.tags,
            metadata=event.metadata,
            priority=event.priority,
            concurrency_key=event.concurrency_key,
        )
        return EventRecord(
            id=event.id or self._ids.event_id(),
            name=name,
            payload=self._to_json(event.payload, f"payload of {where}"),
            timestamp=(
                self._clock.now()
                if event.timestamp is None
                else to_instant_ms(event.timestamp, f"{where}: timestamp")
            ),
            context=self._context_json(event.context, where),
            source=event.source or "trigger.dev",
            is_test=event.is_test,
            account_id=event.account_id,
            deliver_at=self._delivery(event, where),
            run_options=None if options is None else options.to_json(),
        )

    def _check_names(self, event: EventToSend, where: str) -> None:
        chars_max = self.limits.name_chars_max
        check_text(event.name, f"{where}: name", chars_max)
        if event.id is not None:
            check_text(event.id, f"{where}: id", chars_max)
        if event.source is not None:
            check_text(event.source, f"{where}: source", chars_max)
        if event.account_id is not None:
            check_text(event.account_id, f"{where}: account_id", chars_max)
            if not event.account_id:
                raise UsageError(f"{where}: account_id can't be empty")
        if not event.name:
            raise UsageError("an event needs a name")

    def _delivery(self, event: EventToSend, where: str) -> int | None:
        if event.deliver_at is None and event.deliver_after is None:
            return None
        if event.deliver_after is None:
            assert event.deliver_at is not None
            return to_instant_ms(event.deliver_at, f"{where}: deliver_at")
        if event.deliver_at is not None:
            raise UsageError(f"{where}: give it either deliver_at or deliver_after, not both")
        return self._clock.now() + to_ms(event.deliver_after, f"{where}: deliver_after")


def checked_events(events: Iterable[EventToSend]) -> list[EventToSend]:
    """Events to be sent, as a list. Raises UsageError for what `client.event` didn't make."""
    given: Any = events
    listed = list(cast("Iterable[Any]", given)) if isinstance(given, Iterable) else [given]
    if not all(isinstance(event, EventToSend) for event in listed):
        raise UsageError(f"send_events takes a list of what client.event(name, payload) makes, not {given!r}")
    return listed
