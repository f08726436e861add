"""What a client needs of whatever it is connected to: implemented by the embedded engine, later by the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from perdure.schema.effects import SetValue, UpdateStatus
from perdure.schema.execution import EventRecord
from perdure.schema.options import RunOptions
from perdure.schema.queues import Queue
from perdure.schema.reasons import Reason
from perdure.schema.registrations import Registration
from perdure.schema.retention import Pruned, Retention
from perdure.schema.run_filter import BulkResult, RunFilter
from perdure.schema.runs import Account, Event, Run, RunStatus
from perdure.schema.statuses import StatusRecord

if TYPE_CHECKING:
    from .jobs import Job


class Platform(Protocol):
    """Errors of all of them: UnavailableError (repeat), NotFoundError and ConflictError where they make sense."""

    def define(self, job: Job[Any, Any]) -> None:
        """A job was defined after connecting: events sent from now on start it. From any thread."""
        ...

    async def send_event(self, event: EventRecord) -> Event:
        """As `send`, of one: very many may be on their way at once, each in a call of its own."""
        ...

    async def send(self, events: Sequence[EventRecord]) -> list[Event]:
        """Store events with the runs they cause; a known id returns what is stored."""
        ...

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
    ) -> Run: ...

    async def get_event(self, id: str) -> Event | None: ...

    async def cancel_event(self, id: str) -> Event: ...

    async def put_account(self, id: str, metadata: str | None) -> None: ...

    async def get_account(self, id: str) -> Account | None: ...

    async def get_run(self, id: str) -> Run | None: ...

    async def get_runs(self, filter: RunFilter) -> list[Run]: ...

    async def count_runs(self) -> dict[RunStatus, int]: ...

    async def why_not_running(self, id: str) -> list[Reason]: ...

    async def wait_for_run(self, id: str) -> Run:
        """Wait until the run has ended, for as long as that takes."""
        ...

    async def cancel_run(self, id: str) -> Run: ...

    async def rerun(self, id: str) -> Run: ...

    async def continue_run(self, id: str) -> Run: ...

    async def cancel_runs(self, filter: RunFilter) -> BulkResult: ...

    async def rerun_runs(self, filter: RunFilter) -> BulkResult: ...

    async def continue_runs(self, filter: RunFilter) -> BulkResult: ...

    async def get_queues(self) -> list[Queue]: ...

    async def pause_queue(self, id: str) -> None: ...

    async def resume_queue(self, id: str) -> None: ...

    async def prune(self, retention: Retention | None) -> Pruned:
        """Delete what is older than `retention` says; None: as the platform is set."""
        ...

    async def backup(self, path: str) -> None: ...

    async def check(self) -> list[str]: ...

    async def drain(self) -> None:
        """Wait until nothing is queued or executing."""
        ...

    # --- state ---------------------------------------------------------------------------------------------------------

    async def get_statuses(self, run_id: str) -> list[StatusRecord]:
        """The statuses of a run, by creation."""
        ...

    async def update_status(self, update: UpdateStatus) -> None: ...

    async def get_value(self, scope: str, key: str) -> tuple[str, str | None] | None:
        """(JSON, types) of a value, None if there is none. Scopes as in SetValue."""
        ...

    async def set_value(self, change: SetValue) -> None: ...

    async def delete_value(self, scope: str, key: str) -> bool:
        """Forget a value; whether there was one."""
        ...

    # --- dynamic schedules -----------------------------------------------------------------------------------------------

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
        """Have the jobs of the dynamic schedule `id` run by `schedule`, too; what was registered for `key` is replaced.

        `schedule` and `metadata` are JSON.
        """
        ...

    async def unregister_schedule(self, id: str, key: str) -> bool: ...

    async def get_registrations(self, id: str) -> list[Registration]:
        """Those that fire, by key."""
        ...
