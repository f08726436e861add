"""The Journal and Source ports, by every adapter there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.clock import SystemClock, system_random
from perdure.engine.core.jobs import JobSpec
from perdure.engine.core.runs import rescue
from perdure.engine.engine import Engine
from perdure.engine.journal import EngineSource
from perdure.engine.store import Store
from perdure.ids import Ids
from perdure.schema.execution import EventRecord, LogRecord, TaskRecord
from perdure.schema.runs import RunStatus
from perdure.store.sqlite.store import SqliteStore
from perdure.testing.journal_contract import JournalContract


class EngineCarrier:
    """An engine in this process."""

    def __init__(self, store: Store) -> None:
        self.clock = SystemClock()
        random = system_random()
        self.ids = Ids(self.clock, random)
        job = JobSpec(id="j", version="1", event_names=("n",))
        self.engine = Engine(store, self.clock, self.ids, owner="me", random=random, jobs=[job])
        self.source = EngineSource(self.engine)

    async def send(self) -> str:
        event = EventRecord(id=self.ids.event_id(), name="n", payload="{}", timestamp=1)
        [ingested] = await self.engine.ingest([event])
        return ingested.runs[0].id

    async def status(self, run_id: str) -> RunStatus:
        run = await self.engine.store.get_run(run_id)
        assert run is not None
        return run.status

    async def tasks(self, run_id: str) -> list[TaskRecord]:
        return await self.engine.store.get_tasks(run_id)

    async def logs(self, run_id: str) -> list[LogRecord]:
        return await self.engine.store.get_logs(run_id)

    async def cancel(self, run_id: str) -> None:
        await self.engine.commands.cancel(run_id)

    async def lose(self, run_id: str) -> None:
        [lease] = [
            lease
            for lease in await self.engine.store.leases(expired_at=None, limit=100)
            if lease.run_id == run_id
        ]
        await self.engine.submit(rescue(lease, self.now(), lease_ms=30_000))

    def now(self) -> int:
        return self.clock.now()


class TestEngineJournal(JournalContract):
    @pytest.fixture(params=["memory", "inline", "file"])
    async def carrier(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EngineCarrier]:
        path = str(tmp_path / "jobs.db") if request.param == "file" else ":memory:"
        store = await SqliteStore.open(path, inline=request.param == "inline")
        carrier = EngineCarrier(store)
        await carrier.engine.start()
        yield carrier
        await carrier.engine.stop()
        await store.close()
