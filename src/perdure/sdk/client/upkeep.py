"""What is done to queues, users and the database as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

import msgspec

from perdure.errors import UsageError
from perdure.schema.queues import Queue
from perdure.schema.retention import Pruned, Retention
from perdure.schema.runs import Account
from perdure.sdk.run_options import metadata_json
from perdure.sdk.texts import check_text

from .connection import Connection


class ClientUpkeep(Connection):
    """The part of `Client` about queues, accounts and the database."""

    async def put_account(self, id: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Write what is known of a user of the application; runs for this `account_id` find it in `ctx.account`.

        Replaces what was written before. Sending an event for an account that isn't known makes one without metadata.

        Raises:
            UsageError, SerializationError, LimitExceededError: it can't be stored; says why.
        """
        where = f"account {id!r}"
        check_text(id, f"{where}: id", self.limits.name_chars_max)
        if not id:
            raise UsageError("an account needs an id")
        await self.platform.put_account(id, metadata_json(metadata, where, self.limits))

    async def get_account(self, id: str) -> Account | None:
        """A user of the application; None if no event was for it and `put_account` wasn't called."""
        return await self.platform.get_account(self._checked_id(id, "get_account: the id of an account"))

    # --- queues ---------------------------------------------------------------------------------------------------------

    async def get_queues(self) -> list[Queue]:
        """The queues that jobs have, or had, by id: limits, pauses, and how many runs are in them."""
        return await self.platform.get_queues()

    async def pause_queue(self, id: str) -> None:
        """Start nothing from a queue, over restarts too, until `resume_queue`. What executes goes on.

        Args:
            id: of the job, or of the limit that its jobs share.

        Raises:
            NotFoundError: there is no such queue.
        """
        await self.platform.pause_queue(self._checked_id(id, "pause_queue: the id of a queue"))

    async def resume_queue(self, id: str) -> None:
        """Start runs from a queue again; one that isn't paused stays as it is. Errors as `pause_queue`."""
        await self.platform.resume_queue(self._checked_id(id, "resume_queue: the id of a queue"))

    # --- the database ---------------------------------------------------------------------------------------------------

    async def prune(self, retention: Retention | Mapping[str, timedelta | float] | None = None) -> Pruned:
        """Delete now what has been kept long enough; returns how much that was.

        Args:
            retention: what to go by this time; None for the setting of `client.embedded(retention=...)`.

        Raises:
            UsageError: a duration in it is none.
            UnavailableError: part of it may have been deleted.
        """
        return await self.platform.prune(None if retention is None else as_retention(retention))

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the database, as of one moment, to a new file; work goes on meanwhile.

        Raises:
            ConfigurationError: the file exists, or can't be written.
            UnavailableError: the disk is full.
        """
        try:
            target = os.fspath(path)
        except TypeError as exc:
            raise UsageError(f"backup: the path of a new file is needed, not {path!r}") from exc
        if not target or "\x00" in target:
            raise UsageError(f"backup: {path!r} can't be the path of a file")
        await self.platform.backup(target)

    async def check(self) -> list[str]:
        """What is wrong with the database, in words; empty if nothing is. Reads all of it, beside the work that goes on."""
        return await self.platform.check()


def as_retention(given: Retention | Mapping[str, timedelta | float] | None) -> Retention:
    """A retention that may be written as a dict. Raises UsageError for an unknown name."""
    if given is None:
        return Retention()
    if isinstance(given, Retention):
        return given
    unchecked: Any = given
    if not isinstance(unchecked, Mapping):
        raise UsageError(
            f"retention is a Retention, or a dict like {{'completed': timedelta(days=7)}}, not {given!r}"
        )
    names = [field.name for field in msgspec.structs.fields(Retention)]
    ages = cast("Mapping[str, Any]", unchecked)
    if unknown := ages.keys() - set(names):
        raise UsageError(f"retention has no {min(unknown)!r}; there are {', '.join(names)}")
    return Retention(**ages)
