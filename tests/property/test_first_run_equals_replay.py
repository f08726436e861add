"""What user code sees of a task - its value, the value's type, or its error - is the same on the first run and on replays."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from perdure import IO, Client, Context, Run, RunStatus, SyncIO, TaskError, event_trigger
from perdure.testing.virtual_clock import VirtualClock, run_virtual

from .test_values_roundtrip import same, texts, values, wrapped

EXAMPLES = max(10, int(100 * float(os.environ.get("PERDURE_TEST_SCALE", "1"))))

Seen = list[list[Any]]
"""What each execution of a run saw, in order."""


def run_job(job: Callable[[Any, Any, Any], Any]) -> Run:
    """Run a job in memory, with a replay after each of its tasks."""

    async def main() -> Run:
        client = Client(id="equality")
        client.define_job(id="job", run=job, trigger=event_trigger(name="go"))
        settings = {"clock": VirtualClock(), "inline": True, "force_replay": True, "threads": 2}
        async with client.embedded(":memory:", **settings):
            event = await client.send_event("go")
            return await client.wait_for_run(event.runs[0].id)

    return run_virtual(main())


def assert_executions_agree(seen: Seen, count: int) -> None:
    whole = seen[-1]
    assert len(seen) > count, "it was executed again after each task"
    assert len(whole) == count
    for execution in seen:
        assert all(map(same, execution, whole))


def giver(value: Any) -> Callable[[], Any]:
    return lambda: value


few = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(st.lists(values, min_size=1, max_size=6))
def test_plain_values(given_values: list[Any]):
    seen: Seen = []

    async def job(payload: Any, io: IO, ctx: Context) -> Any:
        seen.append(now := [])
        for i, value in enumerate(given_values):
            now.append(await io.run_task(["value", i], giver(value)))
        await io.wait("a while", timedelta(hours=1))
        return now

    run = run_job(job)

    assert run.status is RunStatus.COMPLETED
    assert_executions_agree(seen, len(given_values))
    assert same(seen[0], given_values[: len(seen[0])])
    assert same(run.output, given_values)


@few
@given(st.lists(wrapped, min_size=1, max_size=4))
def test_values_of_annotated_types(cases: list[tuple[Any, Any]]):
    seen: Seen = []

    async def job(payload: Any, io: IO, ctx: Context) -> None:
        seen.append(now := [])
        for i, (annotation, value) in enumerate(cases):
            now.append(await io.run_task(["value", i], giver(value), output=annotation))
        await io.wait("a while", timedelta(hours=1))

    run = run_job(job)

    assert run.status is RunStatus.COMPLETED
    assert_executions_agree(seen, len(cases))
    assert seen[-1] == [value for _, value in cases]
    assert [type(value) for value in seen[-1]] == [type(value) for _, value in cases]


@few
@given(st.lists(values, min_size=1, max_size=4))
def test_plain_values_in_a_sync_job(given_values: list[Any]):
    seen: Seen = []

    def job(payload: Any, io: SyncIO, ctx: Context) -> None:
        seen.append(now := [])
        for i, value in enumerate(given_values):
            now.append(io.run_task(["value", i], giver(value)))
        io.wait("a while", timedelta(hours=1))

    run = run_job(job)

    assert run.status is RunStatus.COMPLETED
    assert_executions_agree(seen, len(given_values))
    assert same(seen[-1], given_values)


class Odd(Exception):
    """An error that says nothing by itself."""

    def __str__(self) -> str:
        return self.args[0] if self.args else "odd"


errors = st.one_of(
    st.builds(ValueError, texts),
    st.builds(KeyError, texts | st.integers()),
    st.builds(OSError, st.integers(1, 100), texts),
    st.builds(Odd),
    st.builds(Odd, texts),
    st.builds(UnicodeDecodeError, st.just("utf-8"), st.binary(min_size=1), st.just(0), st.just(1), texts),
    st.builds(lambda message, inner: ExceptionGroup(message, [inner]), texts, st.builds(ValueError, texts)),
)


@few
@given(st.lists(errors, min_size=1, max_size=4), st.booleans())
def test_errors(given_errors: list[Exception], nested: bool):
    seen: Seen = []

    def raiser(error: Exception) -> Callable[[], Any]:
        async def fail() -> None:
            raise error

        return fail

    async def job(payload: Any, io: IO, ctx: Context) -> None:
        seen.append(now := [])
        for i, error in enumerate(given_errors):

            async def parent(i: int = i, error: Exception = error) -> None:
                await io.run_task(["error", i], raiser(error))

            with pytest.raises(TaskError) as caught:
                await io.run_task(["fails", i], parent if nested else raiser(error))
            told = caught.value
            matches = [told.matches(kind) for kind in (Exception, ValueError, LookupError, "Odd", OSError)]
            now.append({"text": str(told), "facts": told.facts, "matches": matches})
        await io.wait("a while", timedelta(hours=1))

    run = run_job(job)

    assert run.status is RunStatus.COMPLETED
    assert_executions_agree(seen, len(given_errors))
    assert [told["facts"]["error_name"] for told in seen[-1]] == [
        type(error).__name__ for error in given_errors
    ]
