"""What runs keep beside their tasks, read and changed from outside: statuses and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import NotFoundError
from perdure.schema.effects import DeleteValue, SetValue, UpdateStatus

from .store import Deleted, Refused, StatusRow

if TYPE_CHECKING:
    from .engine import Engine


async def get_statuses(engine: Engine, run_id: str) -> list[StatusRow]:
    """The statuses of a run, by creation. Raises NotFoundError."""
    rows = await engine.store.get_statuses(run_id)
    if not rows:
        await engine.commands.require(run_id)
    return rows


async def update_status(engine: Engine, update: UpdateStatus) -> None:
    """Create a status of a run, or change it; durable when this returns.

    Raises:
        NotFoundError: no such run.
        UnavailableError: nothing was written.
    """
    if isinstance(await engine.submit(update, patient=False), Refused):
        raise NotFoundError(kind="run", id=update.run_id)


async def set_value(engine: Engine, change: SetValue) -> None:
    """Keep a value; durable when this returns. Errors as `update_status`: a run's values go with it."""
    if isinstance(await engine.submit(change, patient=False), Refused):
        raise NotFoundError(kind="run", id=change.scope.removeprefix("run:"))


async def delete_value(engine: Engine, change: DeleteValue) -> bool:
    """Forget a value. Whether there was one. Raises UnavailableError."""
    result = await engine.submit(change, patient=False)
    return isinstance(result, Deleted) and result.count > 0
