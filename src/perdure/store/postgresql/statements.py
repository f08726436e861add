"""The adapter's named queries, and what a transaction runs them with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

from msgspec import Struct

from perdure.schema.runs import RunStatus
from perdure.store.queries import load_queries

_COMMENT = re.compile(r"\s*--.*$", re.MULTILINE)
_PARAMETER = re.compile(r"(?<!:):([a-z]\w*)")


class Connection(Protocol):
    """What is asked of asyncpg's connections (which has no types of its own)."""

    async def execute(self, query: str, *args: object) -> str: ...
    async def fetchrow(self, query: str, *args: object) -> Any: ...


class Query(Struct, frozen=True):
    """A statement with numbered parameters, and their names in that order."""

    sql: str
    names: tuple[str, ...]


def number_parameters(sql: str) -> Query:
    """`:name` as `$1`, `$2` ...; `::type` stays. Comments, which may name parameters, are left out."""
    names: dict[str, int] = {}
    sql = _COMMENT.sub("", sql)
    numbered = _PARAMETER.sub(lambda found: f"${names.setdefault(found[1], len(names) + 1)}", sql)
    return Query(numbered, tuple(names))


@cache
def queries() -> dict[str, Query]:
    """The adapter's statements by name."""
    return {name: number_parameters(sql) for name, sql in load_queries("perdure.store.postgresql").items()}


class Held(Struct):
    """A run whose row this transaction has locked, or made, and what its changes have made of it so far."""

    status: RunStatus
    execution: int
    wakes: int


class Batch:
    """What a transaction that writes knows, from its beginning to its end.

    What isn't in `runs` or `events` isn't there, even if another transaction has made it meanwhile: nobody has locked it.

    Attributes:
        runs: those that are locked, or made, by id.
        events: ids of those that are locked, because they are changed, or made.
        numbers: the next run number of each job for which some are reserved, and how many are left.
        lanes: (queue, key) of the runs that have entered the ready queue.
        queues: that have come into use.
        is_limited: whether the lock of claims within limits is held.
    """

    __slots__ = ("events", "is_limited", "lanes", "numbers", "queues", "runs")

    def __init__(self) -> None:
        self.runs: dict[str, Held] = {}
        self.events: set[str] = set()
        self.numbers: dict[str, tuple[int, int]] = {}
        self.lanes: set[tuple[str, str]] = set()
        self.queues: set[str] = set()
        self.is_limited = False

    def next_number(self, job_id: str) -> int:
        number, left = self.numbers[job_id]
        assert left > 0, "more runs than lock_numbers saw"
        self.numbers[job_id] = (number + 1, left - 1)
        return number


class Known:
    """What a store knows for good: rows that are there, committed, and are never deleted.

    Attributes:
        queues: that have a row in queue_turns and a lane for the empty key.
        has_environment: whether the environment has its row.
    """

    __slots__ = ("has_environment", "queues")

    def __init__(self) -> None:
        self.queues: set[str] = set()
        self.has_environment = False

    def learn(self, batch: Batch) -> None:
        """A transaction has been committed."""
        self.queues |= batch.queues
        self.has_environment |= batch.is_limited


class Statements:
    """The named queries of one environment on one connection.

    Attributes:
        batch: of a transaction that writes.
        known: see Known.
    """

    def __init__(self, connection: Connection, env: str, known: Known) -> None:
        self.batch = Batch()
        self.known = known
        self._connection = connection
        self._queries = queries()
        self._env = env

    async def execute(self, name: str, **parameters: object) -> None:
        query = self._queries[name]
        await self._connection.execute(query.sql, *self._arguments(query, parameters))

    async def fetch(self, name: str, **parameters: object) -> Any:
        """The only column of the only row, None if there is no row."""
        row = await self.fetch_row(name, **parameters)
        return None if row is None else row[0]

    async def fetch_row(self, name: str, **parameters: object) -> Any:
        query = self._queries[name]
        return await self._connection.fetchrow(query.sql, *self._arguments(query, parameters))

    async def fetch_composed(self, query: Query, **parameters: object) -> Any:
        """As `fetch`, of a query that was composed of named pieces."""
        row = await self._connection.fetchrow(query.sql, *self._arguments(query, parameters))
        return None if row is None else row[0]

    def _arguments(self, query: Query, parameters: dict[str, object]) -> Sequence[object]:
        parameters["env"] = self._env
        return [parameters[name] for name in query.names]
