"""Makes the calls that runs wait for: background fetches and polls.

Theory of operation. An operation is a row that says when its next call is due. A call is made outside of any transaction;
what came of it is written when it is over, together with the task's resolution or the next call's time. So a process that
dies between the two makes the call again: servers see it at least once. One engine makes no call twice at the same time,
nor again from a list of what is due that it read before the call was settled.

Redirects, time-outs and sizes are the HTTP client's matter (engine/fetcher.py). Which networks may be called is up to
whoever makes that client: an embedded engine calls whatever its own process could.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from asyncio import Future, Task
from collections.abc import Callable

from msgspec import Struct

from perdure.clock import Clock, Random
from perdure.engine.core import operating as core
from perdure.engine.fetcher import HttpClient, PooledHttpClient, perform
from perdure.engine.store import Change, OperationRow, RepeatOperation, ResolveTask, Result, Store
from perdure.errors import StoreBrokenError, UnavailableError
from perdure.schema.effects import StartOperation
from perdure.schema.operations import FetchOperation, decode_stored
from perdure.schema.runs import ErrorInfo

from .runner import RETRY_MS

logger = logging.getLogger("perdure.engine")

CALLS_MAX = 50
"""Calls under way at once."""


class _Call(Struct):
    """A call under way. `started_at`: of its operation; one that began anew has another."""

    task: Task[None]
    started_at: int


class Operator:
    """The calls of one engine.

    Attributes:
        on_change: called with the instant at which a call may be due earlier than `step` said.
    """

    def __init__(
        self,
        store: Store,
        submit: Callable[[Change], Future[Result]],
        clock: Clock,
        random: Random,
        *,
        http: HttpClient | None,
        output_bytes_max: int,
    ) -> None:
        """Make calls with `http`; None: with a client of its own, made for the first one and closed at the end."""
        self.on_change: Callable[[int], None] = _nobody
        self._store = store
        self._submit = submit
        self._clock = clock
        self._random = random
        self._http = http
        self._own_http: PooledHttpClient | None = None
        self._output_bytes_max = output_bytes_max
        self._calls: dict[tuple[str, str], _Call] = {}
        self._settled: set[tuple[str, str]] = set()
        """Calls that ended since the list of what is due was asked for: it may still have them."""

    async def step(self, now: int) -> int | None:
        """Begin the calls that are due at `now`, as many as there is room for; returns when the next one is."""
        if len(self._calls) >= CALLS_MAX:
            return None  # the end of one is an occasion to look
        self._settled.clear()
        # Those under way may be among them; there is room for all the others.
        due = await self._store.due_operations(now, CALLS_MAX)
        is_stale = False
        for row in due:
            key = (row.run_id, row.task_id)
            if key in self._settled:
                is_stale = True
            elif key not in self._calls:
                if len(self._calls) >= CALLS_MAX:
                    return None
                self._begin(row)
        return now if is_stale else await self._store.next_operation_due(now)

    def started(self, effect: StartOperation) -> None:
        """The row of an operation was written. A call for one of the same task that was given up meanwhile is dropped."""
        call = self._calls.get((effect.run_id, effect.task_id))
        if call is not None and call.started_at != effect.at:
            call.task.cancel()
        self.on_change(effect.at)

    def run_ended(self, run_id: str) -> None:
        """Nobody waits any more for what is called for it."""
        for (run, _), call in tuple(self._calls.items()):
            if run == run_id:
                call.task.cancel()

    def cancel(self) -> None:
        """Drop all calls; what they came to and was submitted is written nevertheless."""
        for call in tuple(self._calls.values()):
            call.task.cancel()

    async def stop(self) -> None:
        """Drop all calls and close the connections."""
        self.cancel()
        if self._calls:
            await asyncio.wait([call.task for call in self._calls.values()])
        own, self._own_http = self._own_http, None
        if own is not None:
            await own.close()

    # --- calls ----------------------------------------------------------------------------------------------------------

    def _begin(self, row: OperationRow) -> None:
        key = (row.run_id, row.task_id)
        task = asyncio.get_running_loop().create_task(self._call(row), name=f"perdure-call-{row.task_id}")
        self._calls[key] = _Call(task, row.started_at)

        def ended(_: Task[None]) -> None:
            del self._calls[key]
            self._settled.add(key)
            self.on_change(self._clock.now())

        task.add_done_callback(ended)

    async def _call(self, row: OperationRow) -> None:
        """Make a call and have written what came of it. It is made again if that doesn't get through."""
        try:
            change = await self._made(row)
            try:
                await self._submit(change)
            except (UnavailableError, StoreBrokenError):
                raise
            except Exception:
                logger.exception(
                    "what was answered to task %s of run %s can't be stored", row.task_id, row.run_id
                )
                error = ErrorInfo(name="FetchRefusedError", message="what was answered can't be stored")
                await self._submit(core.refused(row, error, self._clock.now()))
        except (UnavailableError, StoreBrokenError):
            await asyncio.sleep(
                RETRY_MS / 1000
            )  # the writer has reported it, and may be about to stop this engine
        except Exception:
            logger.exception(
                "the call for task %s of run %s failed and will be repeated", row.task_id, row.run_id
            )
            await asyncio.sleep(RETRY_MS / 1000)

    async def _made(self, row: OperationRow) -> ResolveTask | RepeatOperation:
        try:
            stored = decode_stored(row.operation)
            operation = stored.operation()
        except ValueError as error:
            return core.refused(row, ErrorInfo(name="UsageError", message=str(error)), self._clock.now())
        try:
            done = await perform(operation, core.attempt_of(row), self._client(), self._clock, self._random)
        except Exception as error:  # noqa: BLE001 - a task that waits for ever would be worse than one that fails
            _report(row, operation)
            problem = f"the request failed in a way that nobody foresaw ({type(error).__name__}); see the engine's log"
            return core.refused(row, ErrorInfo(name="FetchRefusedError", message=problem), self._clock.now())
        return core.after_call(
            row,
            operation,
            done.step,
            done.response,
            self._clock.now(),
            position=stored.position,
            duration_ms=done.duration_ms,
            output_bytes_max=self._output_bytes_max,
        )

    def _client(self) -> HttpClient:
        if self._http is not None:
            return self._http
        if self._own_http is None:
            self._own_http = PooledHttpClient(body_bytes_max=self._output_bytes_max)
        return self._own_http


def _report(row: OperationRow, operation: FetchOperation) -> None:
    # The text of a foreign error may quote the request, secrets included.
    logger.error(
        "the call for task %s of run %s failed:\n%s",
        row.task_id,
        row.run_id,
        operation.hide(traceback.format_exc()),
    )


def _nobody(at: int) -> None:
    pass
