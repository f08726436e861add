"""The floor: the smallest asyncio program that awaits the same durable rows as a workload.

One thread writes; whatever has gathered while its last transaction was under way is the next one. Rows have the columns
of perdure's tables, their keys and nothing else: no index, no queue, no lease, no guard, no history, no user code.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

Row = tuple[Any, ...]

SCHEMA = """
create table events (id text primary key, name text, payload text, timestamp integer, source text) without rowid;
create table runs (id text primary key, job text, version text, event text, status text, created_at integer,
    completed_at integer, output text) without rowid;
create table tasks (run text, id text, idempotency_key text, key text, name text, status text, position integer,
    seq integer, attempts integer, started_at integer, completed_at integer, output text,
    primary key (run, id)) without rowid;
"""
EVENT = "insert into events values (?, ?, ?, ?, ?)"
RUN = "insert into runs values (?, ?, ?, ?, ?, ?, null, null)"
TASK = "insert into tasks values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
FINISH = "update runs set status = ?, completed_at = ?, output = ? where id = ?"
STATEMENTS = (EVENT, RUN, TASK, FINISH)

NOW = 1_767_225_600_000


class Floor:
    """`async with Floor(path) as floor: await floor.write((TASK, row))` returns when the row is durable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: SimpleQueue[tuple[tuple[tuple[str, Row], ...], asyncio.Future[None]] | None] = (
            SimpleQueue()
        )

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name="floor-writer")
        self._thread.start()
        await self.write()  # the tables are there
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def write(self, *rows: tuple[str, Row]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((rows, future))
        return future

    def _serve(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.executescript(SCHEMA)
        while item := self._queue.get():
            batch = [item]
            while not self._queue.empty() and (item := self._queue.get()):
                batch.append(item)
            connection.execute("begin immediate")
            for statement in STATEMENTS:
                rows = [row for written, _ in batch for name, row in written if name is statement]
                if rows:
                    connection.executemany(statement, rows)
            connection.execute("commit")
            self._loop.call_soon_threadsafe(_resolve, [future for _, future in batch])
            if item is None:
                break
        connection.close()


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


def event(n: int) -> tuple[str, Row]:
    return EVENT, (f"evt_{n:026}", "noop", f'{{"i":{n}}}', NOW, "trigger.dev")


def run(n: int) -> tuple[str, Row]:
    return RUN, (f"run_{n:026}", "noop", "1.0.0", f"evt_{n:026}", "EXECUTING", NOW)


def task(n: int, k: int) -> tuple[str, Row]:
    task_id, key = f"task_{k * 7919 % 10_000:026}", f"t{k}"  # ids of tasks are hashes, in no order
    return TASK, (f"run_{n:026}", task_id, f"{k:064}", key, key, "COMPLETED", k, k + 1, 1, NOW, NOW, "1")


def finish(n: int) -> tuple[str, Row]:
    return FINISH, ("SUCCESS", NOW, "null", f"run_{n:026}")
