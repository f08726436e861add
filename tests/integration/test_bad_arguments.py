"""What can't be meant is refused where it is given; what is said of retention counts as it was said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import IO, Client, Context, Retention, RunStatus
from perdure.errors import UsageError

from .conftest import App


async def wait_a_day(payload: Any, io: IO, ctx: Context) -> None:
    await io.wait("a day", 86_400)


async def fail(payload: Any, io: IO, ctx: Context) -> None:
    raise ValueError("no")


async def test_what_is_named_in_a_retention_with_none_is_kept_for_ever(app: App) -> None:
    failing, waiting = app.define(fail), app.define(wait_a_day)

    async with app.embedded(retention={"default": 3600, "failed": None}):
        failed, cancelled = await app.start(failing), await app.start(waiting)
        await app.end_of(failed)
        await app.client.cancel_run(cancelled)
        await asyncio.sleep(86_400)
        pruned = await app.client.prune(Retention(default=1, failed=None))

        assert (await app.look(failed)).status is RunStatus.FAILED
        assert await app.client.get_run(cancelled) is None
        assert pruned.runs == 0


@pytest.mark.parametrize("names", [None, 5, ["a", None], [["a"]], ["a", ""], []], ids=repr)
async def test_a_wait_for_what_is_no_name_is_refused(app: App, names: Any) -> None:
    async def wait(payload: Any, io: IO, ctx: Context) -> str:
        with pytest.raises(UsageError, match=r"names? the event"):
            await io.wait_for_event("event", names)
        return "went on"

    run = await app.run(wait)

    assert (run.output, run.tasks) == ("went on", [])


def test_a_limit_that_no_store_can_count_to_is_refused() -> None:
    with pytest.raises(UsageError, match="concurrency_limit must be"):
        Client(id="app").define_job(id="job", run=fail, concurrency_limit=10**30)
