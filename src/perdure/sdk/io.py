"""`io`: what a run function does durably. Each method is one of the operations of `perform.py` under a friendly name."""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack, overload

from perdure.clock import to_datetime
from perdure.durations import to_instant_ms, to_ms
from perdure.errors import NotFoundError, UsageError
from perdure.schema.runs import Event

from . import perform
from .background import FetchOptions, FetchResponse, PollOptions, fetch_plan, poll_plan
from .deadlines import DurableTimeout
from .integrations.integration import IntegrationIO
from .io_waits import IOWaits
from .keys import Key
from .logger import Logger
from .operation import Duration, ErrorHandler, wait_options
from .retry import UNTIL_AVAILABLE, Retry
from .state_io import StateIO

if TYPE_CHECKING:
    from perdure.schema.registrations import Registration

    from .client import Client, EventOptions, EventToSend
    from .execution import Execution
    from .triggers.dynamic_schedule import DynamicSchedule, RegistrationOptions

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Item = TypeVar("Item")


class IO(IOWaits, StateIO, IntegrationIO):
    """The durable operations of an async run. Await each; they work under `asyncio.gather`, in task groups and nested.

    A *key* names a task within its parent (the run, or the task whose body is running): a string, or a list of JSON
    parts such as `["fetch", page.id]`. Whatever has completed under a key is not run again, in any later execution.
    """

    __slots__ = ("_client", "_execution", "_integrations", "_logger")

    def __init__(self, execution: Execution, client: Client) -> None:
        self._execution = execution
        self._client = client
        self._integrations: dict[str, Any] | None = None
        self._logger: Logger | None = None

    @property
    def logger(self) -> Logger:
        """Writes to the run's log: `io.logger.info("fetched", {"bytes": 10})`."""
        if self._logger is None:
            self._logger = Logger(self._execution)
        return self._logger

    @property
    def is_unwinding(self) -> bool:
        """Whether this execution has ended and the code is merely being unwound: for `finally` blocks that care."""
        return self._execution.outcome is not None

    @overload
    def run_task(
        self,
        key: Key,
        fn: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        name: str | None = None,
        description: str | None = None,
        icon: str | None = None,
        params: Any = None,
        properties: list[dict[str, Any]] | None = None,
        style: dict[str, Any] | None = None,
        redact: list[str] | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        delay_until: datetime | None = None,
        on_error: ErrorHandler | None = None,
        output: Any = None,
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def run_task(
        self,
        key: Key,
        fn: Callable[[*Ts], T],
        *args: *Ts,
        name: str | None = None,
        description: str | None = None,
        icon: str | None = None,
        params: Any = None,
        properties: list[dict[str, Any]] | None = None,
        style: dict[str, Any] | None = None,
        redact: list[str] | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        delay_until: datetime | None = None,
        on_error: ErrorHandler | None = None,
        output: Any = None,
    ) -> Coroutine[Any, Any, T]: ...
    def run_task(
        self, key: Key, fn: Callable[..., Any], *args: Any, **options: Any
    ) -> Coroutine[Any, Any, Any]:
        """Run `fn(*args)` once and remember its output; a replay returns it without running `fn`.

        What is returned is what a replay returns, from the first run on. Plain values keep their types (tuples, sets,
        datetimes, ...); models and dataclasses need a return annotation or `output=`. A plain `def` runs in a thread.
        `fn` may use `io` itself, to any depth. If the process dies while `fn` runs it is run again: pass
        `current_task().idempotency_key` to services that deduplicate.

        Args:
            key: names the task within its parent.
            fn: async, or a plain function, which runs in a thread.
            args: passed to `fn`.
            options: as follows.
            name, description, icon, params, properties, style: shown with the task. params: JSON-like.
                properties: [{"label": "Status", "text": "200"}]. style: {"style": "minimal"}.
            redact: dotted paths blanked wherever the task is shown: ["card.number"].
            retry: when to try again after an error; without it the first error is final.
            timeout: for one attempt, timedelta or seconds; over it raises TimeoutError inside. Survives suspensions.
            delay_until: aware datetime before which the task doesn't start.
            on_error: `on_error(error, task)`, sync or async; see `ErrorHandler`.
            output: type of the output, where the function has no annotation for it.

        Raises:
            TaskError: `fn` failed for good. The same on every replay. The one error that this raises for a failure.
            DuplicateKeyError: the key was used before under this parent.
        """
        given = (
            {option: value for option, value in options.items() if value is not None} if options else options
        )
        return perform.run_task(self._execution, self._execution.called(), key, fn, args, given)

    def wait(self, key: Key, duration: Duration) -> Coroutine[Any, Any, None]:
        """Wait for a timedelta or a number of seconds. Beyond a second the run holds no memory, slot or worker."""
        length = to_ms(duration, f"io.wait({key!r})")
        options = wait_options(seconds=length / 1000)
        return perform.wait(
            self._execution, self._execution.called(), key, lambda now: now + length, "wait", options
        )

    def wait_until(self, key: Key, moment: datetime) -> Coroutine[Any, Any, None]:
        """Wait until an aware datetime; at once if it is past."""
        instant = to_instant_ms(moment, f"io.wait_until({key!r})")
        options = wait_options(until=to_datetime(instant))
        return perform.wait(
            self._execution, self._execution.called(), key, lambda _: instant, "wait until", options
        )

    def timeout(self, key: Key, duration: Duration) -> DurableTimeout:
        """`async with io.timeout("answer", timedelta(days=3)):` raises TimeoutError when the block takes longer.

        Durable: counts from the first time the block is entered, over suspensions and crashes.
        """
        return DurableTimeout(self._execution, self._execution.called(), key, duration)

    def now(self, key: Key) -> Coroutine[Any, Any, datetime]:
        """The present (UTC) as it was the first time."""
        execution = self._execution
        return perform.observe(
            execution, execution.called(), key, lambda: to_datetime(execution.clock.now()), "now"
        )

    def uuid(self, key: Key) -> Coroutine[Any, Any, uuid_module.UUID]:
        """A random UUID (version 4), the same on every replay."""
        return perform.observe(
            self._execution, self._execution.called(), key, lambda: make_uuid(self._execution), "uuid"
        )

    def random(
        self, key: Key, *, min: float = 0, max: float = 1, round: bool = False
    ) -> Coroutine[Any, Any, float]:
        """A random number in [min, max], the same on every replay; a whole one with `round`."""
        return perform.observe(
            self._execution,
            self._execution.called(),
            key,
            lambda: make_random(self._execution, min, max, round),
            "random",
        )

    def yield_(self, key: Key) -> Coroutine[Any, Any, None]:
        """End this execution here and go on in a new one at once."""
        return perform.yield_(self._execution, self._execution.called(), key)

    @overload
    def parallel(
        self,
        key: Key,
        items: Iterable[Item],
        fn: Callable[[Item, int], Awaitable[T]],
        *,
        name: str | None = None,
    ) -> Coroutine[Any, Any, list[T]]: ...
    @overload
    def parallel(
        self, key: Key, items: Iterable[Item], fn: Callable[[Item, int], T], *, name: str | None = None
    ) -> Coroutine[Any, Any, list[T]]: ...
    def parallel(
        self, key: Key, items: Iterable[Item], fn: Callable[[Item, int], Any], *, name: str | None = None
    ) -> Coroutine[Any, Any, list[Any]]:
        """Run `fn(item, index)` for all items at once, each as a task; outputs in the order of `items`.

        All are settled before this returns or raises; then the first failure (in order of `items`) is raised.
        """
        return perform.parallel(self._execution, self._execution.called(), key, list(items), fn, name)

    def background_fetch(
        self, key: Key, url: str, **options: Unpack[FetchOptions]
    ) -> Coroutine[Any, Any, Any]:
        """Have the platform make a request while the run waits; returns the JSON of the response (None if it is none).

        The run holds no slot and no memory meanwhile, however long the server takes or tries are apart. See FetchOptions.
        The request is made at least once: send `current_task().idempotency_key`, or a key of your own, to servers that
        would act twice. An embedded engine may call any address that its process can.

        Raises:
            TaskError: it failed for good; `.matches(TimeoutError)`, `.matches(ConnectionError)` tell why. The message has the
                status and what the server said.
            UsageError: an option is wrong.
        """
        plan = fetch_plan(key, url, options, self._execution.settings.limits)
        return perform.wait_for_others(self._execution, self._execution.called(), key, plan)

    def background_fetch_response(
        self, key: Key, url: str, **options: Unpack[FetchOptions]
    ) -> Coroutine[Any, Any, FetchResponse]:
        """As `background_fetch`; returns status and headers, too."""
        plan = fetch_plan(key, url, options, self._execution.settings.limits, whole_response=True)
        return perform.wait_for_others(self._execution, self._execution.called(), key, plan)

    def background_poll(self, key: Key, url: str, **options: Unpack[PollOptions]) -> Coroutine[Any, Any, Any]:
        """Have the platform make a request again and again until a response is as wanted; returns its JSON. See PollOptions.

        Each response is shown below the task. Errors as of `background_fetch`; TimeoutError, too, when the time is over.
        """
        plan = poll_plan(key, url, options, self._execution.settings.limits)
        return perform.wait_for_others(self._execution, self._execution.called(), key, plan)

    def register_schedule(
        self, task_key: Key, schedule: DynamicSchedule, key: str, **options: Unpack[RegistrationOptions]
    ) -> Coroutine[Any, Any, Registration]:
        """`schedule.register(key, ...)` as the task `task_key`."""
        request = schedule.registration(key, options)
        execution = self._execution
        return perform.run_task(execution, execution.called(), task_key, request.ask, (), request.options)

    def unregister_schedule(
        self, task_key: Key, schedule: DynamicSchedule, key: str
    ) -> Coroutine[Any, Any, bool]:
        """`schedule.unregister(key)` as the task `task_key`."""
        request = schedule.unregistration(key)
        execution = self._execution
        return perform.run_task(execution, execution.called(), task_key, request.ask, (), request.options)

    async def try_(self, fn: Callable[[], Any], catch: Callable[[Exception], Any]) -> Any:
        """`fn()`, or `catch(error)` if it raises. Plain try/except does the same; this is for ported code."""
        try:
            return await perform.maybe_await(fn())
        except Exception as error:  # noqa: BLE001 - handed to the user's own handler
            return await perform.maybe_await(catch(error))

    async def send_event(
        self, key: Key, name: str, payload: Any = None, **options: Unpack[EventOptions]
    ) -> Event:
        """Send an event as a task: once, however often this is replayed. Options as `client.send_event`."""
        event = self._client.event(name, payload, **options)
        return (await self._send(key, [event], "Send Event"))[0]

    async def send_events(self, key: Key, events: Sequence[EventToSend]) -> list[Event]:
        """Send several events as one task. See `client.event`."""
        from .client.events import checked_events

        return await self._send(key, checked_events(events), "Send Multiple Events")

    async def _send(self, key: Key, events: list[EventToSend], name: str) -> list[Event]:
        async def send() -> list[Event]:
            return await self._client.send_events(with_task_ids(events))

        params = {"events": [event.name for event in events]}
        return await self.run_task(key, send, name=name, icon="send", params=params, retry=UNTIL_AVAILABLE)

    async def get_event(self, key: Key, id: str) -> Event:
        """An event and its runs, as they were the first time. Raises TaskError (NotFoundError) for an unknown id."""

        async def get() -> Event:
            event = await self._client.get_event(id)
            if event is None:
                raise NotFoundError(kind="event", id=id)
            return event

        return await self.run_task(key, get, name="Get Event", params={"id": id}, retry=UNTIL_AVAILABLE)

    async def cancel_event(self, key: Key, id: str) -> Event:
        """`client.cancel_event` as a task. Raises TaskError (ConflictError) for an event that has been delivered."""

        async def cancel() -> Event:
            return await self._client.cancel_event(id)

        return await self.run_task(key, cancel, name="Cancel Event", params={"id": id}, retry=UNTIL_AVAILABLE)


def with_task_ids(events: Sequence[EventToSend]) -> list[EventToSend]:
    """Events sent from a task's body get ids derived from the task, so that a repeated body sends nothing twice."""
    from .scope import current_task

    task = current_task()
    return [
        event if event.id else event.with_id(f"{task.idempotency_key}:{i}") for i, event in enumerate(events)
    ]


def make_uuid(execution: Execution) -> uuid_module.UUID:
    return uuid_module.UUID(int=execution.random.getrandbits(128), version=4)


def make_random(execution: Execution, low: float, high: float, whole: bool) -> float:
    if low > high:
        raise UsageError(f"io.random: min ({low}) is greater than max ({high})")
    chance = execution.random.random()
    if whole:
        return int(low) + int(chance * (int(high) - int(low) + 1))
    return low + chance * (high - low)
