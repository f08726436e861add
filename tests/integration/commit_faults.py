"""Commits that go wrong, one after the other: for tests that nothing is half done, or done twice, whatever a crash cuts off."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from typing import Any


class BrokenCommit:
    """Breaks the `nth` commit of a store: before it is made, or after, when nobody hears of it any more."""

    def __init__(self, nth: int, moment: str) -> None:
        self.left = nth
        self.moment = moment

    def __call__(self, moment: str) -> None:
        if moment != self.moment:
            return
        self.left -= 1
        if self.left == 0:
            error = sqlite3.OperationalError("broken on purpose")
            error.sqlite_errorname = "SQLITE_IOERR"
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error


async def run_with_each_commit_broken(app: Any, name: str, commits: int = 20) -> AsyncIterator[Any]:
    """A run of `name` for each of its commits, which breaks; gives the run, in an engine that was opened after that.

    Ends when a whole run takes fewer commits.
    """
    for moment in ("before", "after"):
        for nth in range(1, commits + 1):
            fault = BrokenCommit(nth, moment)
            run_id = f"{moment}{nth}"
            async with app.embedded(on_commit=fault) as process:
                try:
                    await app.client.send_event(name, id=run_id)
                    await app.client.drain()
                except Exception:  # the engine has stopped, and says so in several ways
                    await asyncio.sleep(0)
                await process.crash()
            async with app.embedded():
                event = await app.client.send_event(name, id=run_id)
                yield await app.end_of(event.runs[0].id)
            if fault.left > 0:
                break
        else:
            raise AssertionError(f"a run of {name} takes more than {commits} commits")
