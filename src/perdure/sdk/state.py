"""What a run keeps beside the outputs of its tasks: statuses, values, tags and metadata.

Here is what both faces of `io` do; the faces themselves are in state_io.py. Each change is a task, and takes effect in the
transaction that records the task: it is there once, or not at all. What is read is remembered as any task's output.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from msgspec import Struct

from perdure.errors import UsageError
from perdure.limits import Limits
from perdure.schema.effects import AnnotateRun, DeleteValue, SetValue, UpdateStatus
from perdure.schema.statuses import STATUS_STATES

from .operation import Operation
from .retry import UNTIL_AVAILABLE
from .run_options import check_tags
from .scope import current_scope
from .texts import check_text
from .values import STORED, Encoded, to_json

if TYPE_CHECKING:
    from .client import Client
    from .execution import Execution
    from .keys import Key


Body: TypeAlias = Callable[[], Coroutine[Any, Any, Any]]


class StateTask(Struct, frozen=True):
    """A task that reads or changes state: how it is shown, and its body, an async function without arguments."""

    name: str
    body: Body
    params: Any
    icon: str = "database"


class Keeper:
    """Does these tasks for one face of `io`.

    Args:
        execution: of the run.
        client: whose platform is asked for values.
        run_task: of that `io`.
        call: makes of a body what `run_task` takes; None for the body itself.
    """

    __slots__ = ("_call", "_client", "_run_task", "execution")

    def __init__(
        self,
        execution: Execution,
        client: Client,
        run_task: Callable[..., Any],
        call: Callable[[Body], Callable[[], Any]] | None = None,
    ) -> None:
        self.execution = execution
        self._client = client
        self._run_task = run_task
        self._call = call

    def do(self, key: Key, task: StateTask) -> Any:
        """What `run_task` returns: the body's value, or something to await for it."""
        return self._run_task(
            key,
            task.body if self._call is None else self._call(task.body),
            name=task.name,
            icon=task.icon,
            params=task.params,
            retry=UNTIL_AVAILABLE,
        )

    async def find(self, scope: str, key: str) -> tuple[str, str | None] | None:
        """(JSON, types) of a value, None if there is none."""
        return await self._client.platform.get_value(scope, key)


def _this_task() -> Operation:
    """The task whose body is running. What it sets as `effect` takes effect when it completes."""
    scope = current_scope.get()
    assert scope is not None
    assert scope.operation is not None
    return scope.operation


# --- statuses -----------------------------------------------------------------------------------------------------------


def status_update(
    execution: Execution, key: str, *, label: str | None, state: str | None, data: Any, name: str
) -> StateTask:
    """Create a status of the run, or change it. Errors as `checked_update`."""
    update = checked_update(
        UpdateStatus(run_id=execution.claim.run_id, key=key, id="", at=0, label=label, state=state),
        data,
        execution.settings.limits,
    )

    async def body() -> None:
        operation = _this_task()
        operation.effect = msgspec.structs.replace(
            update, id=operation.record.idempotency_key, at=execution.clock.now()
        )

    shown = {"key": key, "label": label, "state": state, "data": data}
    given = {name: value for name, value in shown.items() if value is not None}
    return StateTask(name, body, given, icon="info-circle")


def checked_update(update: UpdateStatus, data: Any, limits: Limits) -> UpdateStatus:
    """`update` with `data`, if it can be shown.

    Raises:
        UsageError: a state that doesn't exist, or data that is no dict, or no text where there has to be one.
        SerializationError, LimitExceededError: the data can't be stored.
    """
    where = f"status {update.key!r}"
    if not update.key:
        raise UsageError("a status needs a key")
    check_text(update.key, f"{where}: key", limits.key_chars_max)
    check_text(update.label, f"{where}: label", limits.name_chars_max)
    if update.state is not None and update.state not in STATUS_STATES:
        raise UsageError(f"{where}: state must be one of {', '.join(STATUS_STATES)}, not {update.state!r}")
    if data is None:
        return update
    if not isinstance(data, dict):
        raise UsageError(f"{where}: data must be a dict (a JSON object), not a {type(data).__name__}")
    text = to_json(
        data, where=f"data of {where}", limit=limits.value_bytes_max, setting="limits.value_bytes_max"
    )
    return msgspec.structs.replace(update, data=text)


# --- values -------------------------------------------------------------------------------------------------------------


def encoded_value(value: Any, scope: str, key: str, limits: Limits) -> Encoded:
    """A value as stored. Errors as `Codec.encode`."""
    where = _where(scope, key)
    return STORED.encode(value, where=where, limit=limits.value_bytes_max, setting="limits.value_bytes_max")


def decoded_value(found: tuple[str, str | None] | None, scope: str, key: str, default: Any) -> Any:
    """What a store has, or `default`. Raises SerializationError: it no longer fits an enum's class."""
    if found is None:
        return default
    return STORED.decode(found[0], found[1], where=_where(scope, key))


def check_key(scope: str, key: Any, limits: Limits) -> None:
    """Let through what can be a key of a store. Raises UsageError and LimitExceededError."""
    if not key:
        raise UsageError(f"store of {scope!r}: a value needs a key, a string")
    check_text(key, f"store of {scope!r}: key", limits.name_chars_max)


def _where(scope: str, key: str) -> str:
    return f"value {key!r} in the store of {scope!r}"


def get_value(keeper: Keeper, scope: str, key: str, default: Any) -> StateTask:
    check_key(scope, key, keeper.execution.settings.limits)

    async def body() -> Any:
        return decoded_value(await keeper.find(scope, key), scope, key, default)

    return StateTask("Get value", body, {"scope": scope, "key": key})


def has_value(keeper: Keeper, scope: str, key: str) -> StateTask:
    check_key(scope, key, keeper.execution.settings.limits)

    async def body() -> bool:
        return await keeper.find(scope, key) is not None

    return StateTask("Has value", body, {"scope": scope, "key": key})


def set_value(execution: Execution, scope: str, key: str, value: Any) -> StateTask:
    """Errors as `encoded_value`, from here and not from the task: the value won't fit at another try."""
    check_key(scope, key, execution.settings.limits)
    encoded = encoded_value(value, scope, key, execution.settings.limits)

    async def body() -> Any:
        _this_task().effect = SetValue(
            scope=scope, key=key, value=encoded.json, types=encoded.types, at=execution.clock.now()
        )
        return STORED.decode(encoded.json, encoded.types, where=_where(scope, key))

    return StateTask("Set value", body, {"scope": scope, "key": key})


def delete_value(keeper: Keeper, scope: str, key: str) -> StateTask:
    """Whether there was a value when the task looked; it is gone with the task's completion."""
    check_key(scope, key, keeper.execution.settings.limits)

    async def body() -> bool:
        found = await keeper.find(scope, key)
        _this_task().effect = DeleteValue(scope=scope, key=key)
        return found is not None

    return StateTask("Delete value", body, {"scope": scope, "key": key})


# --- annotations --------------------------------------------------------------------------------------------------------


def add_tags(execution: Execution, tags: tuple[Any, ...]) -> StateTask:
    """Add tags to the run.

    Raises:
        UsageError: none were given, or something else than strings.
        LimitExceededError: one is too long, or there are too many in one call. (Too many in all fail the task.)
    """
    claim, limits = execution.claim, execution.settings.limits
    if not tags:
        raise UsageError('io.add_tags needs tags: io.add_tags("key", "customer:12", "urgent")')
    check_tags(tags, "io.add_tags", limits)

    async def body() -> None:
        claim.tags = list(check_tags([*claim.tags, *tags], "io.add_tags, all tags of the run", limits))
        _this_task().effect = AnnotateRun(run_id=claim.run_id, tags=tags)

    return StateTask("Add tags", body, {"tags": list(tags)}, icon="tag")


def set_metadata(execution: Execution, members: Any) -> StateTask:
    """Add members to the run's metadata.

    Raises:
        UsageError: it is no dict.
        SerializationError, LimitExceededError: it can't be stored. (Too much in all fails the task.)
    """
    claim, limits = execution.claim, execution.settings.limits
    if not isinstance(members, dict):
        raise UsageError(
            f"io.set_metadata needs a dict (a JSON object), not a {type(members).__name__}: its members replace "
            "those of the same name"
        )
    text = metadata_json(members, limits)

    async def body() -> None:
        merged = metadata_json(
            {**msgspec.json.decode(claim.metadata or "{}"), **msgspec.json.decode(text)}, limits
        )
        claim.metadata = merged
        _this_task().effect = AnnotateRun(run_id=claim.run_id, metadata=text)

    return StateTask("Set metadata", body, members, icon="tag")


def metadata_json(members: Any, limits: Limits) -> str:
    """Raises SerializationError and LimitExceededError."""
    setting = "limits.metadata_bytes_max"
    return to_json(members, where="metadata of the run", limit=limits.metadata_bytes_max, setting=setting)
