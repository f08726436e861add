"""The parts of `io` about statuses, values, tags and metadata, for async runs and for sync ones. See state.py."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from perdure.schema.statuses import StatusState

from . import state as tasks
from .keys import Key, display_key
from .state import Body, Keeper

if TYPE_CHECKING:
    from .client import Client
    from .execution import Execution
    from .sync_run import SyncRun


class Status:
    """A status of the run, made by `io.create_status`; `update` changes it."""

    __slots__ = ("_keeper", "key")

    def __init__(self, keeper: Keeper, key: str) -> None:
        self._keeper = keeper
        self.key = key

    def update(
        self,
        key: Key,
        *,
        label: str | None = None,
        state: StatusState | None = None,
        data: dict[str, Any] | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Change what is given (`data` as a whole); what it said before goes to its history. A task, named by `key`."""
        return _update(self._keeper, key, self.key, "Update status", label, state, data)

    def __repr__(self) -> str:
        return f"<Status {self.key!r}>"


class SyncStatus:
    """As `Status`, without `await`."""

    __slots__ = ("_keeper", "key")

    def __init__(self, keeper: Keeper, key: str) -> None:
        self._keeper = keeper
        self.key = key

    def update(
        self,
        key: Key,
        *,
        label: str | None = None,
        state: StatusState | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """As `Status.update`."""
        _update(self._keeper, key, self.key, "Update status", label, state, data)

    def __repr__(self) -> str:
        return f"<SyncStatus {self.key!r}>"


def _update(
    keeper: Keeper, key: Key, status: str, name: str, label: str | None, state: str | None, data: Any
) -> Any:
    update = tasks.status_update(keeper.execution, status, label=label, state=state, data=data, name=name)
    return keeper.do(key, update)


class RunStore:
    """Values under keys: shared in an environment (`io.store.env`), among the runs of a job, or a run's own.

    Values are those that tasks can return, and come back with their types; models have to be dumped before. Each call is a
    task with a key of its own: what was read stays read on every replay; what is set or deleted is so exactly once.
    """

    __slots__ = ("_keeper", "_scope")

    def __init__(self, keeper: Keeper, scope: str) -> None:
        self._keeper = keeper
        self._scope = scope

    def get(self, task_key: Key, key: str, default: Any = None) -> Coroutine[Any, Any, Any]:
        """The value under `key` as it was when this was first asked; `default` if there was none."""
        return self._keeper.do(task_key, tasks.get_value(self._keeper, self._scope, key, default))

    def set(self, task_key: Key, key: str, value: Any) -> Coroutine[Any, Any, Any]:
        """Keep `value` under `key`, in place of what was there; returns it.

        Raises:
            SerializationError, LimitExceededError: it can't be stored, or is larger than `limits.value_bytes_max` (256 KB).
        """
        return self._keeper.do(task_key, tasks.set_value(self._keeper.execution, self._scope, key, value))

    def has(self, task_key: Key, key: str) -> Coroutine[Any, Any, bool]:
        """Whether there was a value under `key` when this was first asked."""
        return self._keeper.do(task_key, tasks.has_value(self._keeper, self._scope, key))

    def delete(self, task_key: Key, key: str) -> Coroutine[Any, Any, bool]:
        """Forget the value under `key`; whether there was one."""
        return self._keeper.do(task_key, tasks.delete_value(self._keeper, self._scope, key))


class SyncRunStore:
    """As `RunStore`, without `await`."""

    __slots__ = ("_keeper", "_scope")

    def __init__(self, keeper: Keeper, scope: str) -> None:
        self._keeper = keeper
        self._scope = scope

    def get(self, task_key: Key, key: str, default: Any = None) -> Any:
        """As `RunStore.get`."""
        return self._keeper.do(task_key, tasks.get_value(self._keeper, self._scope, key, default))

    def set(self, task_key: Key, key: str, value: Any) -> Any:
        """As `RunStore.set`."""
        return self._keeper.do(task_key, tasks.set_value(self._keeper.execution, self._scope, key, value))

    def has(self, task_key: Key, key: str) -> bool:
        """As `RunStore.has`."""
        return self._keeper.do(task_key, tasks.has_value(self._keeper, self._scope, key))

    def delete(self, task_key: Key, key: str) -> bool:
        """As `RunStore.delete`."""
        return self._keeper.do(task_key, tasks.delete_value(self._keeper, self._scope, key))


class RunStores:
    """`io.store` of an async run.

    Attributes:
        env: values shared by everything in the environment; `client.store.env` has the same.
        job: values shared by all runs of the run's job.
        run: values of this run; they are deleted with it.
    """

    __slots__ = ("env", "job", "run")

    def __init__(self, keeper: Keeper) -> None:
        claim = keeper.execution.claim
        self.env = RunStore(keeper, "env")
        self.job = RunStore(keeper, f"job:{claim.job_id}")
        self.run = RunStore(keeper, f"run:{claim.run_id}")


class SyncRunStores:
    """`io.store` of a sync run; as `RunStores`."""

    __slots__ = ("env", "job", "run")

    def __init__(self, keeper: Keeper) -> None:
        claim = keeper.execution.claim
        self.env = SyncRunStore(keeper, "env")
        self.job = SyncRunStore(keeper, f"job:{claim.job_id}")
        self.run = SyncRunStore(keeper, f"run:{claim.run_id}")


class StateIO:
    """The part of `IO` about state."""

    __slots__ = ()

    if TYPE_CHECKING:
        _client: Client
        _execution: Execution
        run_task: Callable[..., Any]

    @property
    def store(self) -> RunStores:
        """Values that outlive tasks: `await io.store.env.set("task key", "rate", 3)`."""
        return RunStores(self._keeper)

    async def create_status(
        self,
        key: Key,
        label: str,
        *,
        state: StatusState | None = None,
        data: dict[str, Any] | None = None,
    ) -> Status:
        """Have the run show how far it has come: `status = await io.create_status("upload", "Uploading", state="loading")`.

        `client.get_run_statuses` has it. If the run has a status of this key already, that one is changed.

        Args:
            key: of the status, and of the task that creates it.
            label: what it says.
            state: "loading", "success", "failure", or None.
            data: JSON-like dict, shown with it.
        """
        status = Status(self._keeper, display_key(key))
        await _update(self._keeper, key, status.key, "Create status", label, state, data)
        return status

    def add_tags(self, key: Key, *tags: str) -> Coroutine[Any, Any, None]:
        """Add tags to the run: at most `limits.tags_per_run_max` in all (50), of 128 characters each."""
        return self._keeper.do(key, tasks.add_tags(self._execution, tags))

    def set_metadata(self, key: Key, members: dict[str, Any]) -> Coroutine[Any, Any, None]:
        """Add members to the run's metadata (a JSON object); they replace those of the same name."""
        return self._keeper.do(key, tasks.set_metadata(self._execution, members))

    @property
    def _keeper(self) -> Keeper:
        return Keeper(self._execution, self._client, self.run_task)


class SyncStateIO:
    """The part of `SyncIO` about state."""

    if TYPE_CHECKING:
        _client: Client
        _execution: Execution
        _run: SyncRun
        run_task: Callable[..., Any]

    @property
    def store(self) -> SyncRunStores:
        """As `IO.store`."""
        return SyncRunStores(self._keeper)

    def create_status(
        self,
        key: Key,
        label: str,
        *,
        state: StatusState | None = None,
        data: dict[str, Any] | None = None,
    ) -> SyncStatus:
        """As `IO.create_status`."""
        status = SyncStatus(self._keeper, display_key(key))
        _update(self._keeper, key, status.key, "Create status", label, state, data)
        return status

    def add_tags(self, key: Key, *tags: str) -> None:
        """As `IO.add_tags`."""
        self._keeper.do(key, tasks.add_tags(self._execution, tags))

    def set_metadata(self, key: Key, members: dict[str, Any]) -> None:
        """As `IO.set_metadata`."""
        self._keeper.do(key, tasks.set_metadata(self._execution, members))

    @property
    def _keeper(self) -> Keeper:
        return Keeper(self._execution, self._client, self.run_task, self._in_loop)

    def _in_loop(self, body: Body) -> Callable[[], Any]:
        return lambda: self._run.await_(body())
