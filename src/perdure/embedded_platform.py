"""A client's platform in the same process: translates between the SDK's values and the engine's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET

from perdure.durations import to_ms
from perdure.embedded_errors import tells_unavailable
from perdure.engine import state
from perdure.engine.core.jobs import JobSpec
from perdure.engine.engine import Engine, ingested
from perdure.engine.loops.pruner import Ages
from perdure.engine.reasons import why_not_running
from perdure.engine.store import PutAccount, RunRow
from perdure.engine.views import to_account, to_event, to_queue, to_registration, to_run, to_status
from perdure.errors import UsageError
from perdure.schema.effects import DeleteValue, SetValue, UpdateStatus
from perdure.schema.execution import EventRecord
from perdure.schema.options import RunOptions
from perdure.schema.queues import Queue
from perdure.schema.reasons import Reason, Unattended
from perdure.schema.registrations import Registration
from perdure.schema.retention import Pruned, Retention
from perdure.schema.run_filter import BulkResult, RunFilter
from perdure.schema.runs import Account, Event, Run, RunStatus
from perdure.schema.statuses import StatusRecord
from perdure.sdk.jobs import Job
from perdure.sdk.values import view


@tells_unavailable
class EmbeddedPlatform:
    """What a client needs, answered by an engine in the same process (port: Platform).

    Raises UsageError, before anything else, when awaited in another event loop than the engine's.
    """

    def __init__(self, engine: Engine, *, max_executions: int) -> None:
        """To be made in the running loop of `engine`, whose process executes so many runs at once."""
        self._max_executions = max_executions
        self._any_loops_engine = engine
        self._loop = asyncio.get_running_loop()

    @property
    def _engine(self) -> Engine:
        if not self._is_here():
            raise UsageError(
                "the client runs embedded in another event loop (most likely that of another thread) than this call, "
                "which did nothing. From other threads: "
                "asyncio.run_coroutine_threadsafe(client.send_event(...), loop).result(), with the loop in which "
                "client.embedded was entered; or, for an application in threads, `with client.sync.embedded(...)` and "
                "client.sync.send_event(...), which work in every thread that has no event loop"
            )
        return self._any_loops_engine

    def _is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def define(self, job: Job[Any, Any]) -> None:
        engine, spec = self._any_loops_engine, job_spec(job)
        if self._is_here():
            engine.define([spec])
        else:
            with suppress(RuntimeError):  # that loop is closed: nobody left, and nothing will be executed
                self._loop.call_soon_threadsafe(engine.define, [spec])

    async def send_event(self, event: EventRecord) -> Event:
        engine = self._engine
        if engine.writer.is_full:
            await engine.writer.room()
        stored = ingested(await engine.submit_event(event))
        return to_event(stored.event, runs=stored.runs, decode=view)

    async def send(self, events: Sequence[EventRecord]) -> list[Event]:
        sent = await self._engine.ingest(events)
        return [to_event(stored.event, runs=stored.runs, decode=view) for stored in sent]

    async def invoke(
        self,
        job_id: str,
        payload: str,
        *,
        key: str | None,
        context: str | None,
        is_test: bool,
        account_id: str | None,
        options: RunOptions | None,
    ) -> Run:
        stored = await self._engine.ingest_run(
            job_id,
            payload,
            key=key,
            context=context,
            is_test=is_test,
            account_id=account_id,
            options=options,
        )
        return to_run(stored.runs[0], decode=view, event=stored.event)

    async def get_event(self, id: str) -> Event | None:
        event = await self._engine.store.get_event(id)
        return None if event is None else await self._with_runs(event)

    async def cancel_event(self, id: str) -> Event:
        return await self._with_runs(await self._engine.cancel_event(id))

    async def _with_runs(self, event: EventRecord) -> Event:
        runs = await self._engine.store.list_runs(RunFilter(event_id=event.id, limit=1_000))
        return to_event(event, runs=runs, decode=view)

    async def put_account(self, id: str, metadata: str | None) -> None:
        engine = self._engine
        await engine.submit(PutAccount(id=id, metadata=metadata, at=engine.clock.now()), patient=False)

    async def get_account(self, id: str) -> Account | None:
        row = await self._engine.store.get_account(id)
        return None if row is None else to_account(row, decode=view)

    async def get_run(self, id: str) -> Run | None:
        row = await self._engine.store.get_run(id)
        return None if row is None else await self._whole(row)

    async def get_runs(self, filter: RunFilter) -> list[Run]:
        return [to_run(row, decode=view) for row in await self._engine.store.list_runs(filter)]

    async def count_runs(self) -> dict[RunStatus, int]:
        return await self._engine.store.count_by_status()

    async def why_not_running(self, id: str) -> list[Reason]:
        engine = self._engine
        found = await why_not_running(engine.store, id, environment_limit=engine.environment_limit)
        return found or [Unattended(executing=len(engine.executing), max_executions=self._max_executions)]

    async def wait_for_run(self, id: str) -> Run:
        return await self._whole(await self._engine.wait_settled(id))

    async def cancel_run(self, id: str) -> Run:
        return await self._whole(await self._engine.commands.cancel(id))

    async def rerun(self, id: str) -> Run:
        stored = await self._engine.commands.rerun(id)
        return to_run(stored.runs[0], decode=view, event=stored.event)

    async def continue_run(self, id: str) -> Run:
        return await self._whole(await self._engine.commands.continue_(id))

    async def cancel_runs(self, filter: RunFilter) -> BulkResult:
        return await self._engine.commands.cancel_all(filter)

    async def rerun_runs(self, filter: RunFilter) -> BulkResult:
        return await self._engine.commands.rerun_all(filter)

    async def continue_runs(self, filter: RunFilter) -> BulkResult:
        return await self._engine.commands.continue_all(filter)

    async def get_queues(self) -> list[Queue]:
        return [to_queue(row) for row in await self._engine.queues.all()]

    async def pause_queue(self, id: str) -> None:
        await self._engine.queues.pause(id)

    async def resume_queue(self, id: str) -> None:
        await self._engine.queues.resume(id)

    async def prune(self, retention: Retention | None) -> Pruned:
        engine = self._engine
        ages = engine.retention if retention is None else ages_of(retention, "prune")
        return await engine.loops.retention.prune(ages, engine.clock.now())

    async def backup(self, path: str) -> None:
        await self._engine.store.backup(path)

    async def check(self) -> list[str]:
        return await self._engine.store.check()

    async def drain(self) -> None:
        await self._engine.wait_idle()

    async def get_statuses(self, run_id: str) -> list[StatusRecord]:
        return [to_status(row, decode=view) for row in await state.get_statuses(self._engine, run_id)]

    async def update_status(self, update: UpdateStatus) -> None:
        await state.update_status(self._engine, update)

    async def get_value(self, scope: str, key: str) -> tuple[str, str | None] | None:
        return await self._engine.store.get_value(scope, key)

    async def set_value(self, change: SetValue) -> None:
        await state.set_value(self._engine, change)

    async def delete_value(self, scope: str, key: str) -> bool:
        return await state.delete_value(self._engine, DeleteValue(scope=scope, key=key))

    async def register_schedule(
        self,
        id: str,
        key: str,
        schedule: str,
        *,
        metadata: str | None,
        account_id: str | None,
        catch_up: bool,
    ) -> Registration:
        schedules = self._engine.loops.schedules
        row = await schedules.register(
            id, key, schedule, metadata=metadata, account_id=account_id, catch_up=catch_up
        )
        return to_registration(row, decode=view)

    async def unregister_schedule(self, id: str, key: str) -> bool:
        return await self._engine.loops.schedules.unregister(id, key)

    async def get_registrations(self, id: str) -> list[Registration]:
        rows = await self._engine.loops.schedules.registrations(id)
        return [to_registration(row, decode=view) for row in rows]

    async def _whole(self, row: RunRow) -> Run:
        engine = self._engine
        event = await engine.store.get_event(row.event_id)
        tasks = await engine.store.get_tasks(row.id)
        return to_run(row, decode=view, event=event, tasks=tasks, logs=await engine.store.get_logs(row.id))


def job_spec(job: Job[Any, Any]) -> JobSpec:
    """What the engine needs to know of a job."""
    trigger, slots = job.trigger, job.slots
    notify_success, notify_failure = job.client.notified(job)
    return JobSpec(
        id=job.id,
        version=job.version,
        event_names=trigger.event_names,
        source=trigger.source,
        filter=trigger.filter,
        context_filter=trigger.context_filter,
        schedule=None if trigger.schedule is None else msgspec.json.encode(trigger.schedule).decode(),
        catch_up=trigger.catch_up,
        dispatchers=trigger.dispatchers,
        enabled=job.enabled,
        priority=job.priority,
        queue=slots.queue,
        concurrency_limit=slots.limit,
        key_limit=slots.per_key,
        concurrency_key=job.concurrency_key,
        max_duration_ms=job.max_duration_ms,
        notify_success=notify_success,
        notify_failure=notify_failure,
        is_internal=job.is_internal,
    )


def ages_of(retention: Retention, where: str) -> Ages:
    """The same in the engine's terms: milliseconds by status.

    Raises:
        UsageError: something in it is no duration.
    """

    def age(name: str) -> int | None:
        given: Any = getattr(retention, name)
        given = retention.default if given is UNSET else given
        return None if given is None else to_ms(given, f"{where}: {name}")

    ended = [status for status in RunStatus if status.is_terminal]
    ages = {status: ms for status in ended if (ms := age(status.name.lower())) is not None}
    return Ages(runs=ages, events=age("events"))
