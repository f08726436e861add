"""Jobs that run by schedules which are registered while the application runs: one per customer, say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

import msgspec

from perdure.durations import to_ms
from perdure.errors import UsageError
from perdure.schedules import Cron, Interval, Schedule, check_schedule
from perdure.schema.registrations import Registration
from perdure.sdk.keys import Key
from perdure.sdk.retry import UNTIL_AVAILABLE
from perdure.sdk.scope import current_scope
from perdure.sdk.texts import check_text
from perdure.sdk.values import to_json

from .schedule import ScheduledPayload
from .trigger import Trigger

if TYPE_CHECKING:
    from perdure.sdk.client.connection import Connection
    from perdure.sdk.execution import Execution

Registrations: TypeAlias = list[Registration]


class RegistrationOptions(TypedDict, total=False):
    """How and for whom the jobs of a dynamic schedule run. One of `cron` and `interval` is required.

    Keys:
        cron, timezone: as of `cron_trigger`; the zone is UTC unless said otherwise.
        interval: timedelta or seconds, as of `interval_trigger`.
        metadata: JSON value that runs have in `ctx.source.metadata`.
        account_id: of the user of the application; runs have it in `ctx.account`.
        catch_up: whether ticks that were missed while no engine ran come one by one.
    """

    cron: str | None
    timezone: str | None
    interval: timedelta | float | None
    metadata: Any
    account_id: str | None
    catch_up: bool


@dataclass(frozen=True)
class Request:
    """Something to ask of the platform: `ask()` does it; in a run that is a task, shown with `options`."""

    key: list[Any]
    ask: Callable[[], Awaitable[Any]]
    options: dict[str, Any]

    def __post_init__(self) -> None:
        self.options["retry"] = UNTIL_AVAILABLE


class DynamicSchedule(Trigger[ScheduledPayload]):
    """A trigger whose schedules are registered, and unregistered, by key. Make one with `client.dynamic_schedule(id=...)`.

    Every job that it triggers runs at every tick of every registration; which one it was is in `ctx.source` (`id`: the key).
    In a run function each call is a task, so it is made once; in a sync one use `io.register_schedule`.

    Example:
        reports = client.dynamic_schedule(id="reports")

        @client.job(id="report", trigger=reports)
        async def report(payload, io, ctx): ...

        await reports.register("customer-7", cron="0 9 * * MON", timezone="Europe/Berlin", account_id="7")
    """

    def __init__(self, connection: Connection, id: str) -> None:
        where = f"dynamic_schedule({id!r})"
        check_text(id, f"{where}: its id", connection.limits.name_chars_max)
        if not id or ":" in id:
            raise UsageError(f"{where}: an id has one character or more, and no colon among them")
        super().__init__(dispatchers=(id,), schema=ScheduledPayload, where=where)
        self.id = id
        self._connection = connection

    def register(
        self, key: str, *, task_key: Key | None = None, **options: Unpack[RegistrationOptions]
    ) -> Coroutine[Any, Any, Registration]:
        """Run the jobs by this schedule, too. A registration of the same key is replaced; the same again changes nothing.

        A schedule that is another than before counts from now.

        Args:
            key: of the registration: of whom or what it is for.
            task_key: in a run, the key of the task; made of the schedule's id and `key` unless given.
            options: see RegistrationOptions.

        Raises:
            UsageError: the schedule can't be served, or an option is wrong.
            UnavailableError: it may or may not have been registered; safe to repeat.
        """
        request, execution = self.registration(key, options), self._run_around("register")
        if execution is None:
            return _asked(request)
        return _as_task(execution, execution.called(), task_key, request)

    def unregister(self, key: str, *, task_key: Key | None = None) -> Coroutine[Any, Any, bool]:
        """Fire no more for this key; whether it was registered. Runs that have been made go on."""
        request, execution = self.unregistration(key), self._run_around("unregister")
        if execution is None:
            return _asked(request)
        return _as_task(execution, execution.called(), task_key, request)

    def list(self, *, task_key: Key | None = None) -> Coroutine[Any, Any, Registrations]:
        """What is registered, by key."""
        request, execution = self._listing(), self._run_around("list")
        if execution is None:
            return _asked(request)
        return _as_task(execution, execution.called(), task_key, request)

    # --- for io -------------------------------------------------------------------------------------------------------

    def registration(self, key: str, options: RegistrationOptions) -> Request:
        """What `register` asks for. Raises UsageError, SerializationError and LimitExceededError."""
        where = f"{self.id}.register({key!r})"
        limits = self._connection.limits
        self._check_key(key, where)
        if unknown := options.keys() - RegistrationOptions.__annotations__.keys():
            raise UsageError(
                f"{where}: there is no option {', '.join(map(repr, sorted(unknown)))}; there are "
                f"{', '.join(RegistrationOptions.__annotations__)}"
            )
        schedule = _schedule(options, where)
        account_id, metadata = options.get("account_id"), options.get("metadata")
        check_text(account_id, f"{where}: account_id", limits.name_chars_max)
        json = None
        if metadata is not None:
            json = to_json(
                metadata,
                where=f"metadata of {where}",
                limit=limits.context_bytes_max,
                setting="limits.context_bytes_max",
            )

        async def ask() -> Registration:
            return await self._connection.platform.register_schedule(
                self.id,
                key,
                msgspec.json.encode(schedule).decode(),
                metadata=json,
                account_id=account_id,
                catch_up=bool(options.get("catch_up")),
            )

        kind = "cron" if isinstance(schedule, Cron) else "interval"
        return Request(
            [self.id, key, "register"],
            ask,
            {
                "name": "Register Schedule",
                "icon": f"schedule-{kind}",
                "params": {"id": self.id, "key": key, **msgspec.to_builtins(schedule)},
                "output": Registration,
            },
        )

    def unregistration(self, key: str) -> Request:
        """What `unregister` asks for."""
        self._check_key(key, f"{self.id}.unregister({key!r})")

        async def ask() -> bool:
            return await self._connection.platform.unregister_schedule(self.id, key)

        params = {"id": self.id, "key": key}
        return Request([self.id, key, "unregister"], ask, {"name": "Unregister Schedule", "params": params})

    def _listing(self) -> Request:
        async def ask() -> Registrations:
            return await self._connection.platform.get_registrations(self.id)

        options = {"name": "List Schedules", "params": {"id": self.id}, "output": Registrations}
        return Request([self.id, "list"], ask, options)

    def _check_key(self, key: str, where: str) -> None:
        check_text(key, f"{where}: the key", self._connection.limits.name_chars_max)
        if not key:
            raise UsageError(f"{where}: a registration needs a key: of whom or what it is for")

    def _run_around(self, method: str) -> Execution | None:
        """The execution whose run function calls; None outside of runs."""
        scope = current_scope.get()
        if scope is None:
            return None
        if scope.execution.is_sync:
            raise UsageError(
                f"dynamic schedule {self.id!r}: {method} can't be awaited in a sync run; use "
                "io.register_schedule(task_key, schedule, key, ...) or io.unregister_schedule(task_key, schedule, key)"
            )
        return scope.execution


async def _asked(request: Request) -> Any:
    return await request.ask()


def _as_task(
    execution: Execution, site: Any, task_key: Key | None, request: Request
) -> Coroutine[Any, Any, Any]:
    from perdure.sdk import perform

    return perform.run_task(execution, site, task_key or request.key, request.ask, (), request.options)


def _schedule(options: RegistrationOptions, where: str) -> Schedule:
    cron, interval, timezone = options.get("cron"), options.get("interval"), options.get("timezone")
    if (cron is None) == (interval is None):
        raise UsageError(f'{where}: give one of cron="0 9 * * MON" and interval=timedelta(hours=1)')
    if cron is not None:
        schedule: Schedule = Cron(cron, "UTC" if timezone is None else timezone)
    else:
        assert interval is not None
        if timezone is not None:
            raise UsageError(f"{where}: an interval is the same in every timezone; leave that out")
        seconds, rest = divmod(to_ms(interval, f"{where}: interval"), 1000)
        if rest:
            raise UsageError(f"{where}: an interval is a whole number of seconds")
        schedule = Interval(seconds)
    check_schedule(schedule, where=where)
    return schedule
