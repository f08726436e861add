"""Statuses: named records of how far a run has come, for people to look at (Protocol, statuses)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import Struct

StatusState: TypeAlias = Literal["loading", "success", "failure"]
"""How a status is shown."""

STATUS_STATES: tuple[StatusState, ...] = ("loading", "success", "failure")


class StatusVersion(Struct, frozen=True, kw_only=True):
    """What a status said from `at` on, until it was changed."""

    label: str
    state: StatusState | None = None
    data: dict[str, Any] | None = None
    at: datetime


class StatusRecord(Struct, frozen=True, kw_only=True):
    """A status of a run as it is now; `history` has what it said before, oldest first."""

    key: str
    label: str
    state: StatusState | None = None
    data: dict[str, Any] | None = None
    history: list[StatusVersion] = []
    created_at: datetime
    updated_at: datetime
