"""Schedules that are registered while the application runs."""

from __future__ import annotations

from perdure.limits import Limits
from perdure.sdk.triggers.dynamic_schedule import DynamicSchedule

from .connection import Connection


class ClientSchedules(Connection):
    """The part of `Client` about dynamic schedules."""

    def __init__(self, id: str, limits: Limits) -> None:
        super().__init__(id, limits)
        self._dynamic_schedules: dict[str, DynamicSchedule] = {}

    def dynamic_schedule(self, *, id: str) -> DynamicSchedule:
        """A trigger whose schedules are registered by key, from outside or in runs; it may trigger several jobs.

        Asking for the same `id` again returns the same one.

        Raises:
            UsageError: the id is empty or holds a colon.
        """
        known = self._dynamic_schedules.get(id)
        if known is None:
            known = self._dynamic_schedules[id] = DynamicSchedule(self, id)
        return known

    define_dynamic_schedule = dynamic_schedule
