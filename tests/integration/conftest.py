"""What the tests of the SDK's behaviour share: an application whose engines come and go, under virtual time.

Tests that are coroutines run in a virtual event loop: hours of waiting cost nothing, and nothing depends on how fast
the machine is. Those marked `real_time` run in an ordinary one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import Client, Job, Run, event_trigger
from perdure.clock import SystemClock
from perdure.testing.virtual_clock import VirtualClock, VirtualTimeLoop

from .fake_server import Server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "real_time: runs in an ordinary event loop, in which time passes by itself"
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("real_time"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualTimeLoop}


class App:
    """An application: a client with jobs. Entering `embedded()` starts a process of it, `crash()` kills that.

    Attributes:
        client: on which jobs are defined, and which talks to the engine.
        done: what bodies and run functions did, in their order, over all executions: append to it.
    """

    def __init__(self, url: str, *, real_time: bool) -> None:
        self.url = url
        self.client = Client(id="app")
        self.done: list[Any] = []
        self._real_time = real_time
        self._clock: Any = None

    @property
    def clock(self) -> Any:
        """The time that engines of this application see."""
        if self._clock is None:
            self._clock = SystemClock() if self._real_time else VirtualClock()
        return self._clock

    def define(self, run: Callable[..., Any], **options: Any) -> Job[Any, Any]:
        """A job named as the function, started by the event of that name."""
        job_id = options.pop("id", run.__name__)
        options.setdefault("trigger", event_trigger(name=job_id))
        return self.client.define_job(id=job_id, run=run, **options)

    def embedded(self, **settings: Any) -> AbstractAsyncContextManager[Any]:
        if not self._real_time:
            settings = {"clock": self.clock, "inline": True, **settings}
        return self.client.embedded(self.url, **settings)

    async def start(self, job: Job[Any, Any] | str, payload: Any = None) -> str:
        """Send the event that starts the job; the id of the run."""
        name = job if isinstance(job, str) else job.id
        event = await self.client.send_event(name, payload)
        return event.runs[0].id

    async def end_of(self, run_id: str, within: timedelta | float = timedelta(hours=2)) -> Run:
        """The run as `get_run` shows it when it has ended."""
        await self.client.wait_for_run(run_id, timeout=within)
        return await self.look(run_id)

    async def look(self, run_id: str) -> Run:
        """The run as it is now."""
        run = await self.client.get_run(run_id)
        assert run is not None
        return run

    async def run(
        self,
        fn: Callable[..., Any],
        payload: Any = None,
        *,
        within: timedelta | float = timedelta(hours=2),
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Run:
        """Define a job (with `options`), start the engine (with `settings`), run it once, to its end."""
        self.client.limits = settings.pop("limits", self.client.limits)
        job = self.define(fn, **(options or {}))
        async with self.embedded(**settings):
            return await self.end_of(await self.start(job, payload), within)

    async def reached(self, condition: Callable[[], Any]) -> None:
        """Let time pass until the condition holds."""
        for _ in range(10_000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("the condition was not reached in ten seconds")

    def deployed(self) -> App:
        """The same application as its next release: the same database, no jobs yet."""
        release = App(self.url, real_time=self._real_time)
        release._clock = self._clock
        release.done = self.done
        return release


@pytest.fixture
def app(tmp_path: Path, request: pytest.FixtureRequest) -> App:
    """An application on a file of its own."""
    return App(
        f"sqlite:///{tmp_path}/jobs.db", real_time=request.node.get_closest_marker("real_time") is not None
    )


@pytest.fixture
def server() -> Server:
    """A server for background requests: `app.run(job, http=server)`."""
    return Server()
