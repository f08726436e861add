"""Statuses of runs, and values under keys: as a client reads and changes them from outside."""

from __future__ import annotations

from typing import Any

from perdure.errors import UsageError
from perdure.schema.effects import SetValue, UpdateStatus
from perdure.schema.statuses import StatusRecord, StatusState
from perdure.sdk.scope import current_scope
from perdure.sdk.state import check_key, checked_update, decoded_value, encoded_value
from perdure.sdk.texts import check_id

from .connection import Connection


class ClientState(Connection):
    """The part of `Client` about state."""

    async def get_run_statuses(self, run_id: str) -> list[StatusRecord]:
        """The statuses of a run, in the order of their creation, with what they said before.

        Raises:
            NotFoundError: there is no such run.
        """
        return await self.platform.get_statuses(self._checked_id(run_id, "get_run_statuses: the id of a run"))

    async def update_status(
        self,
        run_id: str,
        key: str,
        *,
        label: str | None = None,
        state: StatusState | None = None,
        data: dict[str, Any] | None = None,
    ) -> StatusRecord:
        """Change a status of a run from outside, or create it; returns it. `label`: its key, if a new one is given none.

        Raises:
            NotFoundError: there is no such run.
            UsageError, SerializationError, LimitExceededError: as `io.create_status`; or called in a run function.
        """
        _refuse_in_run_function("client.update_status", "status = await io.create_status(key, label)")
        self._checked_id(run_id, "update_status: the id of a run")
        update = UpdateStatus(
            run_id=run_id, key=key, id=self._ids.event_id(), at=self.now(), label=label, state=state
        )
        await self.platform.update_status(checked_update(update, data, self.limits))
        statuses = await self.platform.get_statuses(run_id)
        return next(status for status in statuses if status.key == key)

    @property
    def store(self) -> ClientStores:
        """Values under keys: `await client.store.env.set("rate", 3)`. Runs have the same in `io.store`."""
        return ClientStores(self)


class ClientStores:
    """`client.store`. `env` has the values shared by everything in the environment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.env = ClientStore(connection, "env")

    def job(self, job_id: str) -> ClientStore:
        """The values of a job: `io.store.job` of its runs."""
        return ClientStore(self._connection, f"job:{self._checked(job_id, 'job')}")

    def run(self, run_id: str) -> ClientStore:
        """The values of a run: its `io.store.run`."""
        return ClientStore(self._connection, f"run:{self._checked(run_id, 'run')}")

    def _checked(self, id: str, what: str) -> str:
        return check_id(
            id, f"client.store.{what}: the id of a {what}", self._connection.limits.name_chars_max
        )


class ClientStore:
    """Values under keys, outside of runs. They come back with their types, as outputs of tasks do.

    Raises UsageError in a run function, where a replay would do everything again, and UnavailableError as any call.
    """

    def __init__(self, connection: Connection, scope: str) -> None:
        self._connection = connection
        self._scope = scope

    async def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default`."""
        return decoded_value(await self._find(key), self._scope, key, default)

    async def set(self, key: str, value: Any) -> Any:
        """Keep a value under `key`, in place of what was there; returns it.

        Raises:
            SerializationError, LimitExceededError: it can't be stored, or is larger than `limits.value_bytes_max` (256 KB).
            NotFoundError: there is no such run, in the store of one.
        """
        self._check(key)
        connection = self._connection
        encoded = encoded_value(value, self._scope, key, connection.limits)
        now = connection.now()
        await connection.platform.set_value(
            SetValue(scope=self._scope, key=key, value=encoded.json, types=encoded.types, at=now)
        )
        return decoded_value((encoded.json, encoded.types), self._scope, key, None)

    async def has(self, key: str) -> bool:
        """Whether there is a value under `key`."""
        return await self._find(key) is not None

    async def delete(self, key: str) -> bool:
        """Forget the value under `key`; whether there was one."""
        self._check(key)
        return await self._connection.platform.delete_value(self._scope, key)

    async def _find(self, key: str) -> tuple[str, str | None] | None:
        self._check(key)
        return await self._connection.platform.get_value(self._scope, key)

    def _check(self, key: str) -> None:
        _refuse_in_run_function("client.store", "await io.store.env.get(task_key, key)")
        check_key(self._scope, key, self._connection.limits)


def _refuse_in_run_function(what: str, instead: str) -> None:
    scope = current_scope.get()
    if scope is not None and scope.operation is None:
        raise UsageError(
            f"{what} in a run function is done again at every replay: write `{instead}`, which is done once"
        )
