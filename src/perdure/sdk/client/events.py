"""Events: what a client sends, and looks up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from perdure.durations import to_instant_ms
from perdure.errors import LimitExceededError, UsageError
from perdure.limits import Limits
from perdure.schema.execution import EventRecord
from perdure.schema.runs import Event
from perdure.sdk.platform import Platform
from perdure.sdk.scope import current_scope
from perdure.sdk.texts import check_text

from .connection import Connection

_log = logging.getLogger("perdure.client")


class EventToSend(Struct, frozen=True, kw_only=True):
    """An event on its way; made by `client.event`."""

    name: str
    payload: Any = None
    id: str | None = None
    context: Any = None
    timestamp: datetime | None = None
    source: str | None = None
    is_test: bool = False

    def with_id(self, id: str) -> EventToSend:
        return msgspec.structs.replace(self, id=id)


class ClientEvents(Connection):
    """The part of `Client` about events."""

    def __init__(self, id: str, limits: Limits) -> None:
        super().__init__(id, limits)
        self._unheard: set[str] = set()

    def event(
        self,
        name: str,
        payload: Any = None,
        *,
        id: str | None = None,
        context: Any = None,
        timestamp: datetime | None = None,
        source: str | None = None,
        is_test: bool = False,
    ) -> EventToSend:
        """An event for `send_events`; the arguments are those of `send_event`."""
        return EventToSend(
            name=name,
            payload=payload,
            id=id,
            context=context,
            timestamp=timestamp,
            source=source,
            is_test=is_test,
        )

    async def send_event(
        self,
        name: str,
        payload: Any = None,
        *,
        id: str | None = None,
        context: Any = None,
        timestamp: datetime | None = None,
        source: str | None = None,
        is_test: bool = False,
    ) -> Event:
        """Send an event; each job it triggers gets a run. Durable when this returns.

        Args:
            name: what triggers select by; case-sensitive.
            payload: JSON-like; models, dataclasses, datetimes etc. become JSON.
            id: sending an id again returns the first event with its runs, and starts nothing.
            context: JSON-like, beside the payload; jobs find it in `ctx.event.context`.
            timestamp: aware; when it happened. Now, if not given.
            source: what triggers may select by; "trigger.dev" if not given, as in v2.
            is_test: marks the runs as tests.

        Raises:
            SerializationError, LimitExceededError, UsageError: the event can't be stored; says why.
            ConfigurationError: the client isn't connected to anything.
            UnavailableError: not stored (the disk is full, say); safe to repeat with the same id.
        """
        platform = self._sender(all_have_ids=bool(id))
        record = self._record(name, payload, id, context, timestamp, source, is_test)
        [event] = await platform.send([record])
        self._look_for_runs(event)
        return event

    async def send_events(self, events: Sequence[EventToSend]) -> list[Event]:
        """Send several events (made by `client.event`) in one go; each is stored by itself. Errors as `send_event`."""
        if len(events) > self.limits.events_per_send_max:
            raise LimitExceededError(
                what="the number of events in one send_events",
                size=len(events),
                limit=self.limits.events_per_send_max,
                setting="limits.events_per_send_max",
            )
        platform = self._sender(all_have_ids=all(event.id for event in events))
        records = [
            self._record(
                event.name,
                event.payload,
                event.id,
                event.context,
                event.timestamp,
                event.source,
                event.is_test,
            )
            for event in events
        ]
        sent = await platform.send(records)
        for event in sent:
            self._look_for_runs(event)
        return sent

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
        if not event.runs and event.name not in self._unheard:
            self._unheard.add(event.name)
            _log.warning("event %r is stored, and triggers no job of client %r", event.name, self.id)

    def _record(
        self,
        name: str,
        payload: Any,
        id: str | None,
        context: Any,
        timestamp: datetime | None,
        source: str | None,
        is_test: bool,
    ) -> EventRecord:
        where = f"event {name!r}"
        limits = self.limits
        for what, text in (("name", name), ("id", id), ("source", source)):
            if text is not None:
                check_text(text, f"{where}: {what}", limits.name_chars_max)
        if not name:
            raise UsageError("an event needs a name")
        return EventRecord(
            id=id or self._ids.event_id(),
            name=name,
            payload=self._to_json(payload, f"payload of {where}"),
            timestamp=(
                self._clock.now() if timestamp is None else to_instant_ms(timestamp, f"{where}: timestamp")
            ),
            context=self._context_json(context, where),
            source=source or "trigger.dev",
            is_test=is_test,
        )

    async def get_event(self, id: str) -> Event | None:
        """An event with the runs it caused; None if there is none of that id."""
        return await self.platform.get_event(id)
