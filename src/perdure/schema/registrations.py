"""Registrations of dynamic schedules, as people see them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct


class Registration(Struct, frozen=True, kw_only=True):
    """By which schedule the jobs of a dynamic schedule run for one key.

    Attributes:
        key: of the registration; runs have it in `ctx.source.id`.
        cron, timezone: of a cron expression; None for an interval.
        interval: between two ticks; None for a cron expression.
        metadata: JSON value that runs have in `ctx.source.metadata`.
        account_id: of the user of the application that it is for; runs have it in `ctx.account`.
        catch_up: whether ticks that were missed while no engine ran come one by one.
        next_at: when it fires next; None if it doesn't any more.
        last_at: when it fired last, None if never.
    """

    key: str
    cron: str | None = None
    timezone: str | None = None
    interval: timedelta | None = None
    metadata: Any = None
    account_id: str | None = None
    catch_up: bool = False
    next_at: datetime | None = None
    last_at: datetime | None = None
