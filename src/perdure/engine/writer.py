"""Group commit: everything that wants to be written goes through one `Writer`, one transaction after the other.

Whatever has gathered while the last transaction was under way is the next one, so a busy engine pays for one fsync what
an idle one pays for a single change, and nobody waits for company: a change submitted to an idle writer starts at the
end of the current turn of the loop, together with all others of that turn.

What happens when the store refuses:

- The batch as a whole is rejected (any ordinary exception): it is repeated in halves, so only the culprit's future fails.
- `UnavailableError` (a full disk): changes somebody can decide about (an event to ingest, a claim, a renewal) fail at
  once; what executions have to say (tasks, outcomes) is kept and repeated with growing pauses until it gets through.
  `unavailable` says why meanwhile, so that claiming pauses.
- `StoreBrokenError`: the writer stops for good; every future, present and to come, fails with UnavailableError.

Executions that wait for the same commit go on together, and what they say next would be the next batch: loop and store
would take turns, each idle while the other works. So a large batch that only records tasks is written in two parts, the
second beside the first: while the store writes one, those whom the other concerned go on. They concern different runs, so
either may be durable first; and if the second can't be written, it simply takes its place in front of what is pending. On
a disk that is slower than the loop one fsync for all is better: what both took for an undivided batch decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from perdure.errors import StoreBrokenError, UnavailableError

from .batch import Batch, Told
from .store import Applied, Change, ClaimRuns, IngestEvent, RenewLeases, Result, Store

logger = logging.getLogger("perdure.engine")

BACKOFF_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts while the store is unavailable; the last one repeats."""

_FAILS_AT_ONCE = frozenset({IngestEvent, ClaimRuns, RenewLeases})

_DIVIDED_FROM = 64

_DIVISIONS = 50
"""How many batches are divided before it is measured again whether that pays."""


class Writer:
    """The only caller of `Store.apply`. To be made inside the running loop that will use it.

    Attributes:
        size: changes submitted and not yet settled.
        unavailable: why the store can't take writes now; None if it can, as far as is known.
        broken: what stopped the writer for good.
    """

    def __init__(
        self,
        store: Store,
        *,
        batch_max: int = 2_000,
        pending_max: int = 10_000,
        divided_from: int | None = None,
        on_committed: Callable[[list[Change], list[Result]], None] | None = None,
        on_rejected: Callable[[Change], None] | None = None,
        on_available: Callable[[], None] | None = None,
        on_broken: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Begin to write to `store`.

        Args:
            store: where to.
            batch_max: changes in one transaction.
            pending_max: unsettled changes from which `room` makes its callers wait.
            divided_from: a batch of records of so many runs is always written in two parts; None: of many, where that pays.
            on_committed: called with each committed batch and its results, before the futures are resolved.
            on_rejected: called with a change that can't be written, before its future fails.
            on_available: called when the store can be tried again after having been unavailable.
            on_broken: called once with what stopped the writer.
        """
        self.size = 0
        self.unavailable: str | None = None
        self.broken: BaseException | None = None
        self._store = store
        self._batch_max = batch_max
        self._pending_max = pending_max
        self._divided_from = divided_from or _DIVIDED_FROM
        self._divides_always = divided_from is not None
        self._on_committed = on_committed
        self._on_rejected = on_rejected
        self._on_available = on_available
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._pending = Batch([], [])
        self._impatient: set[object] = set()
        self._room_waiters: deque[asyncio.Future[None]] = deque()
        self._is_letting_in = False
        self._flush_waiters: list[asyncio.Future[None]] = []
        self._sleeper: asyncio.Future[None] | None = None
        self._failures = 0
        self._is_backing_off = False
        self._closed: str | None = None
        self._writing: set[str] | None = None
        """The runs whose records the pump is writing; None while it writes nothing, or anything else."""
        self._beside: set[str] | None = None
        """The runs whose records are being written beside that."""
        self._beside_sleeper: asyncio.Future[None] | None = None
        self._undivided_seconds: float | None = None
        """What the last batch took in the store, if it was a large one of records and undivided."""
        self._settled_at = 0.0
        self._divisions_left = 0
        self._divided_runs = 0
        self._pump = self._loop.create_task(self._run(), name="perdure-writer")
        self._pump_beside = self._loop.create_task(self._run_beside(), name="perdure-writer-beside")

    @property
    def is_full(self) -> bool:
        """Whether `room` would wait."""
        return self.size >= self._pending_max

    def submit(self, change: Change, *, patient: bool = True) -> asyncio.Future[Result]:
        """Have `change` written with the next transaction; the future is its result.

        Cancelling the future (or a task that awaits it) doesn't take the change back.

        Args:
            change: what to write.
            patient: False lets a MoveRun fail at once, too, while the store is unavailable.

        The future fails with:
            UnavailableError: nothing was written, or the writer was closed or broke before it was known to be.
            Any other exception: this very change can't be written.
        """
        future: asyncio.Future[Result] = self._loop.create_future()
        if not patient:
            self._impatient.add(future)
            future.add_done_callback(self._impatient.discard)
        if self._closed is not None:
            future.set_exception(UnavailableError(self._closed))
        elif self.unavailable is not None and (type(change) in _FAILS_AT_ONCE or not patient):
            future.set_exception(UnavailableError(self.unavailable))
        else:
            self._add(change, future)
        return future

    def submit_guarded(self, change: Change) -> asyncio.Future[bool]:
        """Like `submit`, for who only wants to know whether the guard held: True if applied, False if refused."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self.write(change, partial(_resolve, future))
        return future

    def write(self, change: Change, told: Told) -> None:
        """Like `submit_guarded`, without a future: `told` is called as soon as it is known, never before this returns.

        Hot: that saves each task a turn of the loop, and much of what it costs beside its transaction.
        """
        if self._closed is not None:
            self._loop.call_soon(told, UnavailableError(self._closed))
        else:
            self._add(change, told)

    def _add(self, change: Change, waiter: asyncio.Future[Any] | Told) -> None:
        pending = self._pending
        pending.changes.append(change)
        pending.waiters.append(waiter)
        self.size += 1
        sleeper = self._sleeper
        if sleeper is None:
            if self._beside_sleeper is not None and len(pending.changes) == self._divided_from // 2:
                self._wake_beside()
        elif self.unavailable is None:
            self._sleeper = None
            if not sleeper.done():  # else it was cancelled with the pump: the loop is being shut down
                sleeper.set_result(None)

    async def room(self) -> None:
        """Wait until fewer than `pending_max` changes are unsettled: for callers that could pile up memory."""
        while self.size >= self._pending_max and self._closed is None:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._room_waiters.append(waiter)
            try:
                await waiter
            finally:
                # Whoever was let in may not write after all (or was cancelled in that very turn): let more in if so.
                if self._room_waiters and not self._is_letting_in:
                    self._is_letting_in = True
                    self._loop.call_soon(self._make_room)

    async def flush(self, *, patient: bool = True) -> None:
        """Wait until nothing is unsettled; unless `patient`, only as long as the store is available."""
        while self.size and self._closed is None and (patient or self.unavailable is None):
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._flush_waiters.append(waiter)
            await waiter

    async def close(self) -> None:
        """Write what was submitted, then stop. What can't be written now fails with UnavailableError."""
        if self._closed is None:
            self._closed = "the engine has been stopped"
        self._wake()
        await asyncio.wait([self._pump])
        self._pump_beside.cancel()
        await asyncio.wait([self._pump_beside])

    def break_off(self, exc: BaseException) -> None:
        """Stop for good: `exc` (a StoreBrokenError, from a read perhaps) says that the store is finished."""
        if self.broken is not None:
            return
        self.broken = exc
        self._closed = f"the engine has stopped because its store broke ({exc}); reopen it to recover"
        logger.error("the engine stops: %s", exc)
        self._wake()
        if self._on_broken is not None:
            self._on_broken(exc)

    # --- the pump -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self.broken is None:
                batch = self._take()
                if batch is not None:
                    held = await self._write(batch)
                    self._writing = None
                    self._let_in()
                    if held is not None:
                        if self._closed is not None:
                            return
                        await self._back_off(held)
                elif self._closed is not None and self._beside is None:
                    return
                else:
                    await self._sleep(None)
        finally:
            # Reached by cancellation, too (the loop is being shut down): nobody may be left waiting.
            self._closed = self._closed or "the engine has been stopped"
            self._fail_all()

    def _take(self) -> Batch | None:
        """The next batch: all that is pending, up to the cap; None if there is none now."""
        batch = self._pending
        if not batch.changes:
            return None
        runs = batch.only_records()
        if self._beside is not None and (runs is None or not runs.isdisjoint(self._beside)):
            return None  # what is being written beside has to be durable first
        self._pending = Batch([], [])
        if len(batch.changes) > self._batch_max:
            batch, self._pending = batch.split(self._batch_max)
        elif (
            runs is not None
            and len(runs) >= self._divided_from
            and self._beside is None
            and self._pays(len(runs))
        ):
            batch, self._pending = batch.divide()
            runs = batch.only_records()
            self._wake_beside()
        self._writing = runs
        return batch

    def _pays(self, runs: int) -> bool:
        """Whether to divide a large batch, which concerns so many runs. Not what is a part of one already."""
        if self._divides_always:
            return True
        if self._undivided_seconds is not None:
            # How long it took until those whom the last one concerned had come together again.
            loop_seconds = self._loop.time() - self._settled_at
            self._divisions_left = _DIVISIONS if self._undivided_seconds <= loop_seconds else 0
            self._undivided_seconds, self._divided_runs = None, 0
        self._divisions_left -= 1
        if self._divisions_left < 0 or runs < self._divided_runs * 3 // 4:
            return False
        self._divided_runs = runs
        return True

    async def _run_beside(self) -> None:
        while True:
            batch = self._take_beside()
            if batch is None:
                self._beside_sleeper = self._loop.create_future()
                await self._beside_sleeper
                continue
            try:
                results = await self._store.apply(batch.changes)
            except BaseException as exc:
                self._pending.prepend(batch)  # the pump repeats it, and finds out the same
                self._writing = None  # nothing more beside what is being written now
                if self._pump.done():
                    self._fail_all()
                if not isinstance(exc, Exception):
                    raise
            else:
                self._settle(batch, results)
                self._let_in()
            finally:
                self._beside = None
                if not self._is_backing_off:
                    self._wake()

    def _take_beside(self) -> Batch | None:
        """What can be written beside the batch of the pump: enough records, of other runs."""
        batch = self._pending
        if self._writing is None or not self._divided_from // 2 <= len(batch.changes) <= self._batch_max:
            return None
        runs = batch.only_records()
        if runs is None or not runs.isdisjoint(self._writing):
            return None
        self._pending = Batch([], [])
        self._beside = runs
        return batch

    def _wake_beside(self) -> None:
        if self._beside_sleeper is not None and not self._beside_sleeper.done():
            self._beside_sleeper.set_result(None)
        self._beside_sleeper = None

    async def _write(self, batch: Batch) -> UnavailableError | None:
        """Write `batch`, in halves where it is rejected. Returns why, if the store is unavailable."""
        todo = [batch]
        try:
            while todo:
                batch = todo[-1]
                began = self._loop.time()
                try:
                    results = await self._store.apply(batch.changes)
                except UnavailableError as exc:
                    self._hold(todo, exc)
                    todo.clear()
                    return exc
                except StoreBrokenError as exc:
                    self.break_off(exc)
                    return None
                except Exception as exc:  # noqa: BLE001 - whatever it is, it belongs to whoever submitted the culprit
                    todo.pop()
                    if len(batch.changes) == 1:
                        self._reject(batch, exc)
                    else:
                        first, second = batch.split(len(batch.changes) // 2)
                        todo += (second, first)
                else:
                    todo.pop()
                    self._settle(batch, results)
                    self._settled_at = self._loop.time()
                    if self._beside is None and self._writing and len(self._writing) >= self._divided_from:
                        self._undivided_seconds = self._settled_at - began
            return None
        finally:
            # Only a broken store or a cancelled pump leaves something here: it fails with the rest.
            for rest in todo:
                self._pending.prepend(rest)

    def _settle(self, batch: Batch, results: list[Result]) -> None:
        self._failures = 0
        if self.unavailable is not None:
            self._become_available()
        if self._on_committed is not None:
            try:
                self._on_committed(batch.changes, results)
            except Exception:
                logger.exception("what is to happen after a commit failed; the commit itself is safe")
        self.size -= len(results)
        for waiter, result in zip(batch.waiters, results, strict=True):
            if not isinstance(waiter, asyncio.Future):
                try:
                    waiter(type(result) is Applied)
                except Exception:
                    logger.exception("what is to happen after a commit failed; the commit itself is safe")
            elif not waiter.done():  # whoever waited may have been cancelled, and the future with it
                waiter.set_result(result)  # pyright: ignore[reportUnknownMemberType]  (a generic narrowed)

    def _reject(self, batch: Batch, exc: Exception) -> None:
        self.size -= len(batch.changes)
        if self._on_rejected is not None:
            for change in batch.changes:
                self._on_rejected(change)
        batch.fail(exc)

    def _hold(self, todo: list[Batch], exc: UnavailableError) -> None:
        """Keep what has to get through, in its order and before everything newer; fail the rest."""
        self.unavailable = str(exc)
        for batch in todo:  # the last of the list is the oldest
            self._pending.prepend(batch)
        batch, self._pending = self._pending, Batch([], [])
        failed = Batch([], [])
        for change, waiter in zip(batch.changes, batch.waiters, strict=True):
            fails = type(change) in _FAILS_AT_ONCE or waiter in self._impatient
            into = failed if fails else self._pending
            into.changes.append(change)
            into.waiters.append(waiter)
        self.size -= len(failed.changes)
        failed.fail(self.unavailable)
        _release(self._flush_waiters)

    async def _back_off(self, exc: UnavailableError) -> None:
        pause = BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS) - 1)]
        if self._failures == 0:
            logger.warning("the store can't take writes, repeating until it does: %s", exc)
        self._failures += 1
        self._is_backing_off = True
        await self._sleep(pause)
        self._is_backing_off = False
        if not self._pending.changes:
            self._become_available()  # nothing of ours to try it with: the next caller finds out

    async def _sleep(self, seconds: float | None) -> None:
        """Until `_wake`, or for so many seconds."""
        sleeper = self._sleeper = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, self._wake)
        try:
            await sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)
        self._sleeper = None

    def _become_available(self) -> None:
        self.unavailable = None
        if self._on_available is not None:
            self._on_available()

    def _let_in(self) -> None:
        """Let go of who waits for room or for the end."""
        if self._room_waiters:
            self._make_room()
        if self._flush_waiters and not self.size:
            _release(self._flush_waiters)

    def _make_room(self) -> None:
        self._is_letting_in = False
        free = self._pending_max - self.size
        while self._room_waiters and (free > 0 or self._closed is not None):
            waiter = self._room_waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1

    def _fail_all(self) -> None:
        assert self._closed is not None
        batch, self._pending = self._pending, Batch([], [])
        self.size = 0
        batch.fail(self._closed)
        self._make_room()
        _release(self._flush_waiters)


def _resolve(future: asyncio.Future[bool], outcome: bool | BaseException) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _release(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
