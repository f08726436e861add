"""What a failing body does: `TaskError` on the first run and on replay alike, retries, `on_error`."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from datetime import timedelta

import pytest

from perdure import Retry, RunStatus, TaskError, TaskStatus, current_task
from perdure.clock import to_datetime

RETRY = Retry(attempts=3, factor=1, min_delay=600, max_delay=600, jitter=False)


class PaymentError(Exception):
    def __init__(self, code):
        super().__init__(f"payment failed with {code}")
        self.code = code
        self.lock = threading.Lock()  # can't be pickled


class CardError(PaymentError):
    pass


async def test_task_error_is_the_same_on_first_run_and_replay(app):
    seen = []

    async def job(payload, io, ctx):
        try:
            await io.run_task("pay", fail_with, CardError(402))
        except TaskError as error:
            seen.append(error)
        await io.wait("pause", 3600)

    await app.run(job)

    first, replayed = seen
    for name in ("key", "error_name", "error_message", "error_types", "stack", "task_id"):
        assert getattr(first, name) == getattr(replayed, name), name
    assert str(first) == str(replayed)
    assert (first.key, first.error_name, first.error_message) == (
        "pay",
        "CardError",
        "payment failed with 402",
    )
    assert "fail_with" in first.stack
    assert type(first) is type(replayed) is TaskError


async def test_original_exception_is_the_cause_on_the_first_run_only(app):
    async def job(payload, io, ctx):
        try:
            await io.run_task("pay", fail_with, CardError(402))
        except TaskError as error:
            app.done.append(type(error.__cause__).__name__)
        await io.wait("pause", 3600)

    await app.run(job)

    assert app.done == ["CardError", "NoneType"]


async def test_matches_tells_classes_bases_and_names(app):
    kinds = (
        CardError,
        PaymentError,
        Exception,
        "CardError",
        "PaymentError",
        ValueError,
        "ValueError",
        KeyError,
    )

    async def job(payload, io, ctx):
        try:
            await io.run_task("pay", fail_with, CardError(402))
        except TaskError as error:
            app.done.append([error.matches(kind) for kind in kinds] + [error.matches(ValueError, CardError)])
        await io.wait("pause", 3600)

    await app.run(job)

    assert app.done == [[True] * 5 + [False] * 3 + [True]] * 2


async def test_failed_task_is_not_run_again(app):
    async def job(payload, io, ctx):
        def body():
            app.done.append("body")
            raise ValueError

        for _ in range(1):
            try:
                await io.run_task("task", body)
            except TaskError:
                await io.wait("pause", 3600)
        return "end"

    run = await app.run(job)

    assert run.output == "end"
    assert app.done == ["body"]


async def test_error_of_a_nested_task_keeps_its_name_and_task(app):
    seen = []

    async def job(payload, io, ctx):
        async def parent():
            await io.run_task("child", fail_with, CardError(402))

        try:
            await io.run_task("parent", parent)
        except TaskError as error:
            seen.append((error.key, error.error_name, error.task_id, error.matches(CardError)))
        await io.wait("pause", 3600)

    run = await app.run(job)

    child = next(task for task in run.tasks if task.key == "child")
    assert seen == [("parent", "CardError", child.id, True)] * 2


async def test_failed_child_fails_its_parent_without_the_parents_retry(app):
    async def job(payload, io, ctx):
        async def parent():
            app.done.append("parent")
            await io.run_task("child", fail_with, ValueError())

        await io.run_task("parent", parent, retry=RETRY)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert app.done == ["parent"]


async def test_uncaught_error_fails_the_run_with_name_message_stack_and_task(app):
    async def job(payload, io, ctx):
        await io.run_task("pay", fail_with, CardError(402))

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert (run.error.name, run.error.message) == ("CardError", "payment failed with 402")
    assert "fail_with" in run.error.stack
    assert run.error.task_id == run.tasks[0].id
    assert run.tasks[0].status is TaskStatus.ERRORED


async def test_error_in_the_run_function_fails_the_run(app):
    async def job(payload, io, ctx):
        raise CardError(402)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert (run.error.name, run.error.message) == ("CardError", "payment failed with 402")
    assert "raise CardError(402)" in run.error.stack


@pytest.mark.parametrize("sync", [True, False], ids=["def", "async def"])
@pytest.mark.parametrize("error", [SystemExit(3), SystemExit("text")], ids=repr)
async def test_strange_exceptions_of_a_body_become_task_errors(app, error, sync):
    def plain():
        raise error

    async def coroutine():
        raise error

    async def job(payload, io, ctx):
        try:
            await io.run_task("task", plain if sync else coroutine)
        except TaskError as raised:
            app.done.append(raised.error_name)
        await io.wait("pause", 3600)
        return "end"

    run = await app.run(job)

    assert run.output == "end"
    assert len(app.done) == 2
    assert app.done[0] == app.done[1]


async def test_cancelled_error_raised_by_a_body_itself_is_a_failure_in_all_executions(app):
    async def body():
        raise asyncio.CancelledError

    async def job(payload, io, ctx):
        try:
            await io.run_task("task", body)
        except BaseException as error:
            app.done.append(type(error).__name__)
            if isinstance(error, asyncio.CancelledError) and len(app.done) > 2:
                raise
        await io.wait("pause", 3600)
        return "end"

    run = await app.run(job)

    assert run.output == "end"
    assert len(app.done) == 2
    assert app.done[0] == app.done[1]


async def test_cancelled_error_that_leaves_the_run_function_fails_the_run(app):
    async def job(payload, io, ctx):
        raise asyncio.CancelledError

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == "CancelledError"


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Unhashable(Exception):
    __hash__ = None  # pyright: ignore[reportAssignmentType] (how Python spells it)

    def __eq__(self, other):
        raise RuntimeError("can't compare")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(NoText(), id="str that raises"),
        pytest.param(Unhashable("x"), id="unhashable"),
        pytest.param(ExceptionGroup("several", [ValueError(1), OSError(2)]), id="group"),
        pytest.param(ValueError("lone \ud800 surrogate and \x00"), id="text no database takes"),
        pytest.param(KeyError(object()), id="argument without JSON"),
    ],
)
@pytest.mark.parametrize("where", ["task", "run"])
async def test_any_exception_is_recorded(app, error, where):
    async def job(payload, io, ctx):
        if where == "run":
            raise error
        await io.run_task("task", fail_with, error)

    run = await app.run(job)

    assert run.status is RunStatus.FAILED
    assert run.error.name == type(error).__name__


async def test_task_that_fails_with_a_group_of_task_errors_has_a_record(app):
    async def job(payload, io, ctx):
        async def parent():
            async with asyncio.TaskGroup() as group:
                group.create_task(io.run_task("a", fail_with, ValueError("a")))
                group.create_task(io.run_task("b", fail_with, ValueError("b")))

        try:
            await io.run_task("parent", parent)
        except TaskError as error:
            app.done.append(error.error_name)
        await io.wait("pause", 3600)

    await app.run(job)

    assert app.done == ["ExceptionGroup"] * 2


# --- retries ---------------------------------------------------------------------------------------------------------------


async def test_retry_tries_as_often_as_said_with_the_delay_between(app):
    async def job(payload, io, ctx):
        try:
            await io.run_task("task", failing(app), retry=RETRY)
        except TaskError as error:
            return error.error_message

    run = await app.run(job)

    assert run.output == "attempt 3"
    assert run.tasks[0].attempts == 3
    first, second, third = app.done
    assert second - first == pytest.approx(timedelta(seconds=600), abs=timedelta(seconds=3))
    assert third - second == pytest.approx(timedelta(seconds=600), abs=timedelta(seconds=3))


async def test_retrying_run_holds_nothing_meanwhile(app):
    async def job(payload, io, ctx):
        await io.run_task("task", failing(app), retry=RETRY)

    app.define(job)
    async with app.embedded():
        started = await app.start("job")
        await app.client.drain()
        run = await app.look(started)

        assert run.status is RunStatus.WAITING
        assert run.tasks[0].status is TaskStatus.WAITING
        assert run.tasks[0].error.message == "attempt 1"


async def test_success_after_failures(app):
    async def job(payload, io, ctx):
        return await io.run_task("task", failing(app, until=3), retry=RETRY)

    run = await app.run(job)

    assert run.output == "attempt 3"
    assert run.tasks[0].error is None


async def test_attempts_are_kept_over_a_crash(app):
    async def job(payload, io, ctx):
        return await io.run_task("task", failing(app), retry=RETRY)

    app.define(job)
    async with app.embedded() as process:
        started = await app.start("job")
        await app.client.drain()
        await asyncio.sleep(700)
        await app.client.drain()
        await process.crash()
    async with app.embedded():
        run = await app.end_of(started)

    assert run.status is RunStatus.FAILED
    assert run.error.message == "attempt 3"
    assert len(app.done) == 3


async def test_body_cut_off_by_a_crash_keeps_its_attempt(app):
    async def job(payload, io, ctx):
        async def body():
            app.done.append(current_task().attempts)
            await asyncio.sleep(3600)

        await io.run_task("task", body, retry=RETRY)

    app.define(job)
    async with app.embedded() as process:
        await app.start("job")
        await app.reached(lambda: app.done)
        await asyncio.sleep(10)
        await process.crash()
    async with app.embedded():
        await app.reached(lambda: len(app.done) == 2)

    assert app.done == [1, 1]


async def test_retry_only_for_some_errors(app):
    only = Retry(attempts=3, min_delay=60, jitter=False, only=(OSError, "CardError"))

    async def job(payload, io, ctx):
        async def attempt_with(error):
            app.done.append(type(error).__name__)
            raise error

        for error in (OSError(), ConnectionError(), CardError(1), PaymentError(1), ValueError()):
            with suppress(TaskError):
                await io.run_task(type(error).__name__, attempt_with, error, retry=only)

    await app.run(job)

    counts = {name: app.done.count(name) for name in app.done}
    assert counts == {"OSError": 3, "ConnectionError": 3, "CardError": 3, "PaymentError": 1, "ValueError": 1}


@pytest.mark.parametrize("attempts", [0, 1])
async def test_one_attempt_means_no_retry(app, attempts):
    async def job(payload, io, ctx):
        await io.run_task("task", failing(app), retry=Retry(attempts=attempts))

    await app.run(job)

    assert len(app.done) == 1


async def test_retries_of_parallel_tasks_do_not_disturb_each_other(app):
    async def job(payload, io, ctx):
        async def body(n):
            app.done.append((n, current_task().attempts))
            if current_task().attempts <= n:
                raise ValueError
            return n

        retry = Retry(attempts=5, min_delay=60, jitter=True)
        return await asyncio.gather(*(io.run_task(["task", n], body, n, retry=retry) for n in range(4)))

    run = await app.run(job)

    assert run.output == [0, 1, 2, 3]
    assert sorted(app.done) == [(n, attempt) for n in range(4) for attempt in range(1, n + 2)]


async def test_children_completed_in_a_failed_attempt_are_kept(app):
    async def job(payload, io, ctx):
        async def parent():
            await io.run_task("child", lambda: app.done.append("child"))
            if current_task().attempts == 1:
                raise OSError

        await io.run_task("parent", parent, retry=RETRY)

    await app.run(job)

    assert app.done == ["child"]


async def test_bad_use_is_not_retried(app):
    async def job(payload, io, ctx):
        def body():
            app.done.append("body")
            return object()

        await io.run_task("task", body, retry=RETRY)

    await app.run(job)

    assert app.done == ["body"]


# --- on_error --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [True, False], ids=["def", "async def"])
async def test_on_error_gets_the_error_and_the_task(app, sync):
    def handler(error, task):
        app.done.append((str(error), task.key, task.attempts))

    async def async_handler(error, task):
        await asyncio.sleep(0)
        handler(error, task)

    async def job(payload, io, ctx):
        await io.run_task("task", fail_with, ValueError("x"), on_error=handler if sync else async_handler)

    run = await app.run(job)

    assert app.done == [("x", "task", 1)]
    assert run.error.name == "ValueError"


async def test_on_error_may_stop_the_retries(app):
    async def job(payload, io, ctx):
        await io.run_task("task", failing(app), retry=RETRY, on_error=lambda error, task: False)

    await app.run(job)

    assert len(app.done) == 1


@pytest.mark.parametrize("form", ["timedelta", "datetime"])
async def test_on_error_may_say_when_to_try_again(app, form):
    def handler(error, task):
        if task.attempts == 2:
            return False
        later = timedelta(minutes=20)
        return later if form == "timedelta" else to_datetime(app.clock.now()) + later

    async def job(payload, io, ctx):
        await io.run_task("task", failing(app), on_error=handler)

    await app.run(job)

    first, second = app.done
    assert second - first == pytest.approx(timedelta(minutes=20), abs=timedelta(seconds=3))


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_on_error_may_replace_the_error(app, how):
    def handler(error, task):
        if how == "returns":
            return CardError(402)
        raise CardError(402)

    async def job(payload, io, ctx):
        await io.run_task("task", fail_with, ValueError("x"), on_error=handler)

    assert (await app.run(job)).error.name == "CardError"


async def test_replaced_error_decides_about_the_retry(app):
    retry = Retry(attempts=3, min_delay=60, jitter=False, only=OSError)

    async def job(payload, io, ctx):
        await io.run_task("task", failing(app), retry=retry, on_error=lambda error, task: OSError("again"))

    await app.run(job)

    assert len(app.done) == 3


async def test_on_error_is_not_called_on_replay(app):
    async def job(payload, io, ctx):
        with suppress(TaskError):
            await io.run_task(
                "task", fail_with, ValueError(), on_error=lambda e, t: app.done.append("handler")
            )
        await io.wait("pause", 3600)

    await app.run(job)

    assert app.done == ["handler"]


# --- retries of the job ------------------------------------------------------------------------------------------------------


async def test_job_with_retry_gets_another_execution_after_an_uncaught_error(app):
    async def job(payload, io, ctx):
        app.done.append(to_datetime(app.clock.now()))
        if len(app.done) < 3:
            raise OSError
        return "end"

    run = await app.run(job, options={"retry": RETRY})

    assert run.output == "end"
    assert app.done[1] - app.done[0] == pytest.approx(timedelta(seconds=600), abs=timedelta(seconds=3))


async def test_job_retry_keeps_completed_tasks_and_resets_failed_ones(app):
    async def job(payload, io, ctx):
        await io.run_task("kept", lambda: app.done.append("kept"))
        return await io.run_task("fails", failing(app, until=2))

    run = await app.run(job, options={"retry": RETRY})

    assert run.status is RunStatus.COMPLETED
    assert app.done.count("kept") == 1
    assert len(app.done) == 3


async def test_job_retry_ends_after_its_attempts(app):
    async def job(payload, io, ctx):
        app.done.append("execution")
        raise OSError("in the end")

    run = await app.run(job, options={"retry": RETRY})

    assert run.status is RunStatus.FAILED
    assert run.error.message == "in the end"
    assert len(app.done) == 3


async def test_waits_do_not_use_up_attempts_of_the_job(app):
    async def job(payload, io, ctx):
        for n in range(5):
            await io.wait(["pause", n], 60)
        app.done.append("tried")
        if len(app.done) < 3:
            raise OSError
        return "end"

    assert (await app.run(job, options={"retry": RETRY})).output == "end"


async def fail_with(error):
    raise error


def failing(app, until=None):
    """A body that fails before its call number `until`; notes the time of each call in app.done."""

    async def body():
        app.done.append(to_datetime(app.clock.now()))
        calls = sum(entry != "kept" for entry in app.done)
        if until is not None and calls >= until:
            return f"attempt {calls}"
        raise ValueError(f"attempt {calls}")

    return body
