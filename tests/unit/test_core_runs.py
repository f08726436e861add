"""Decisions about runs: tables of (what is known, what happened) → change."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.engine.core.jobs import JobSpec, dispatch, new_run
from perdure.engine.core.runs import (
    CRASHES_MAX,
    adopt,
    cancel,
    claim,
    close,
    continue_run,
    put_back,
    rerun,
    rescue,
    rescue_delay_ms,
    wake,
)
from perdure.engine.store import LeaseRow, MoveRun, NewRun, RunRow
from perdure.errors import ConflictError
from perdure.schema.execution import (
    Claim,
    Completed,
    EventRecord,
    Failed,
    InvalidPayload,
    JobMissing,
    LogRecord,
    Outcome,
    Suspended,
    TaskRecord,
    TimedOut,
    Yielded,
)
from perdure.schema.runs import ErrorInfo, RunStatus, TaskStatus

NOW = 1_000_000
MADE = NOW - 1_000
EVENT = EventRecord(id="evt_1", name="user.created", payload='{"id":1}', timestamp=5, source="shop")
ERROR = ErrorInfo(name="ValueError", message="no")
UNENDED = (RunStatus.PENDING, RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.WAITING)
ENDED = tuple(status for status in RunStatus if status.is_terminal)


def make_run(status: RunStatus, **facts: Any) -> RunRow:
    return RunRow(
        id="run_1", job_id="j", job_version="2", event_id="evt_1", status=status, created_at=1, **facts
    )


def make_claim(**facts: Any) -> Claim:
    return Claim(
        run_id="run_1",
        execution=3,
        job_id="j",
        job_version="2",
        event=EVENT,
        started_at=1,
        lease_expires_at=NOW,
        created_at=MADE,
        **facts,
    )


def make_lease(**facts: Any) -> LeaseRow:
    known: dict[str, Any] = {"progressed": False, "crashes": 0, "expires_at": NOW, "claimed_at": NOW - 40_000}
    return LeaseRow(run_id="run_1", execution=3, owner="dead", spent_ms=0, priority=0, **{**known, **facts})


# --- beginnings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "job, triggered",
    [
        pytest.param({"event_names": ("user.created",)}, True, id="name"),
        pytest.param({"event_names": ("a", "user.created")}, True, id="one of its names"),
        pytest.param({"event_names": ("user.deleted",)}, False, id="another name"),
        pytest.param({"event_names": ()}, False, id="invoked only"),
        pytest.param({"event_names": ("user.created",), "source": "shop"}, True, id="source"),
        pytest.param({"event_names": ("user.created",), "source": "trigger.dev"}, False, id="another source"),
        pytest.param({"event_names": ("user.created",), "enabled": False}, False, id="disabled"),
    ],
)
def test_dispatch_matches_name_and_source_of_enabled_jobs(job: dict[str, Any], triggered: bool) -> None:
    runs = dispatch(EVENT, [JobSpec(id="j", version="1", **job)], NOW, iter(["run_1"]))

    assert [run.id for run in runs] == (["run_1"] if triggered else [])


def test_dispatch_makes_one_queued_run_per_job() -> None:
    jobs = [
        JobSpec(id="a", version="1", event_names=("user.created",), priority=7),
        JobSpec(id="b", version="2", event_names=("user.created",)),
    ]

    runs = dispatch(EVENT, jobs, NOW, iter(["run_1", "run_2"]))

    assert runs == [
        NewRun(
            id="run_1",
            job_id="a",
            job_version="1",
            status=RunStatus.QUEUED,
            created_at=NOW,
            priority=7,
            queue="a",
        ),
        NewRun(id="run_2", job_id="b", job_version="2", status=RunStatus.QUEUED, created_at=NOW, queue="b"),
    ]


def test_new_run_of_a_disabled_job_is_queued() -> None:
    run = new_run(JobSpec(id="a", version="1", enabled=False), NOW, "run_1")

    assert run.status is RunStatus.QUEUED


def test_adopt_queues_a_pending_run_and_keeps_its_crashes() -> None:
    move = adopt(make_run(RunStatus.PENDING, execution=1, crashes=2, reason="job 'j' isn't defined"), NOW)

    assert (move.expected, move.status, move.execution) == (RunStatus.PENDING, RunStatus.QUEUED, 1)
    assert (move.crashes, move.reason, move.completed_at) == (2, None, None)


@pytest.mark.parametrize("status", ENDED)
def test_rerun_makes_a_new_event_and_run_of_the_same_version(status: RunStatus) -> None:
    event = EventRecord(
        id="evt_1", name="n", payload="1", timestamp=5, context="{}", source="shop", is_test=True
    )

    change = rerun(make_run(status, priority=4), event, NOW, "run_2")

    assert change.event == EventRecord(
        id=f"evt_1:retry:{NOW}",
        name="n",
        payload="1",
        timestamp=NOW,
        context="{}",
        source="shop",
        is_test=True,
    )
    assert change.runs == [
        NewRun(id="run_2", job_id="j", job_version="2", status=RunStatus.QUEUED, created_at=NOW, priority=4)
    ]
    assert change.created_at == NOW


@pytest.mark.parametrize("status", UNENDED)
def test_rerun_refuses_a_run_that_has_not_ended(status: RunStatus) -> None:
    with pytest.raises(ConflictError, match=f"'run_1' is {status.label}: only a run that has ended"):
        rerun(make_run(status), EVENT, NOW, "run_2")


# --- executions ---------------------------------------------------------------------------------------------------------


def test_claim_moves_queued_runs_to_executing() -> None:
    change = claim("me", 5, NOW, 30_000)

    assert (change.owner, change.limit, change.at, change.expires_at) == ("me", 5, NOW, NOW + 30_000)
    assert (change.expected, change.status) == (RunStatus.QUEUED, RunStatus.EXECUTING)


@pytest.mark.parametrize(
    "outcome, status, facts",
    [
        pytest.param(
            Completed("1", '{"":"int"}'),
            RunStatus.COMPLETED,
            {"output": "1", "types": '{"":"int"}'},
            id="completed",
        ),
        pytest.param(
            Suspended(NOW + 1, wakes=3),
            RunStatus.WAITING,
            {"wake_at": NOW + 1, "wakes_seen": 3, "otherwise": RunStatus.QUEUED, "ready_at": MADE},
            id="suspended",
        ),
        pytest.param(
            Suspended(None, wakes=3, open_waits=2, replay_ms=50),
            RunStatus.WAITING,
            {
                "open_waits": 2,
                "resume_at": NOW + 500,
                "wakes_seen": 3,
                "otherwise": RunStatus.QUEUED,
                "ready_at": MADE,
            },
            id="suspended until others have acted",
        ),
        pytest.param(
            Suspended(None, wakes=3, open_waits=2, replay_ms=50, waits_for_all=True),
            RunStatus.WAITING,
            {"open_waits": 2, "wakes_seen": 3, "otherwise": RunStatus.QUEUED, "ready_at": MADE},
            id="suspended until all others have acted",
        ),
        pytest.param(Suspended(NOW), RunStatus.QUEUED, {"ready_at": MADE}, id="suspended until now"),
        pytest.param(
            Yielded("shutdown"), RunStatus.QUEUED, {"reason": "shutdown", "ready_at": MADE}, id="yielded"
        ),
        pytest.param(
            Failed(ERROR, ["t1"]), RunStatus.FAILED, {"error": ERROR, "failed_tasks": ["t1"]}, id="failed"
        ),
        pytest.param(
            Failed(ERROR, ["t1"], NOW + 9),
            RunStatus.WAITING,
            {
                "error": ERROR,
                "reset": ["t1"],
                "failures": 1,
                "wake_at": NOW + 9,
                "reason": "failed; its job's retry policy executes it again",
            },
            id="failed, retried",
        ),
        pytest.param(
            TimedOut(90_500),
            RunStatus.TIMED_OUT,
            {
                "reason": "it executed for longer than its job's max_duration of 90.5 s",
                "error": ErrorInfo(
                    name="TimedOut", message="it executed for longer than its job's max_duration of 90.5 s"
                ),
                "revoke": True,
            },
            id="timed out",
        ),
        pytest.param(
            InvalidPayload(ERROR), RunStatus.INVALID_PAYLOAD, {"error": ERROR}, id="invalid payload"
        ),
        pytest.param(
            JobMissing(),
            RunStatus.PENDING,
            {
                "reason": "job 'j' isn't defined in this process: the run starts as soon as a process that defines it does",
                "crashes": 2,
                "add_spent_ms": 0,
            },
            id="job missing",
        ),
    ],
)
def test_close_turns_an_outcome_into_a_move(
    outcome: Outcome, status: RunStatus, facts: dict[str, Any]
) -> None:
    task = TaskRecord(
        id="t", idempotency_key="k", key="k", name="k", status=TaskStatus.COMPLETED, position=1, seq=1
    )
    log = LogRecord(id="l", level="INFO", message="m", at=1)

    move = close(make_claim(crashes=2), NOW - 250, outcome, NOW, [task], [log])

    ending = {"completed_at": NOW, "cancel_open": True} if status.is_terminal else {}
    expected: dict[str, Any] = {"add_spent_ms": 250, **ending, **facts}
    assert move == MoveRun(
        run_id="run_1",
        expected=RunStatus.EXECUTING,
        execution=3,
        status=status,
        at=NOW,
        tasks=[task],
        logs=[log],
        **expected,
    )


def test_close_never_counts_negative_time() -> None:
    assert close(make_claim(), NOW + 5, Completed("1"), NOW).add_spent_ms == 0


def test_put_back_keeps_the_count_of_crashes() -> None:
    move = put_back(make_claim(crashes=3), NOW)

    assert (move.status, move.crashes, move.add_spent_ms) == (RunStatus.QUEUED, 3, 0)


@pytest.mark.parametrize(
    "crashes, status, wait_ms",
    [
        pytest.param(0, RunStatus.QUEUED, None, id="first"),
        pytest.param(1, RunStatus.WAITING, 1_000, id="second"),
        pytest.param(2, RunStatus.WAITING, 4_000, id="third"),
        pytest.param(3, RunStatus.WAITING, 15_000, id="fourth"),
        pytest.param(4, RunStatus.FAILED, None, id="fifth"),
    ],
)
def test_rescue_backs_off_and_gives_up_at_the_fifth(
    crashes: int, status: RunStatus, wait_ms: int | None
) -> None:
    move = rescue(make_lease(crashes=crashes), NOW, lease_ms=30_000)

    assert (move.expected, move.execution) == (RunStatus.EXECUTING, 3)
    assert (move.status, move.crashes) == (status, crashes + 1)
    if wait_ms is None:
        assert move.wake_at is None
    else:
        assert move.wake_at is not None
        assert wait_ms <= move.wake_at - NOW < 2 * wait_ms
    assert (move.completed_at is not None, move.cancel_open) == (status.is_terminal, status.is_terminal)


def test_runs_that_crashed_together_come_back_apart() -> None:
    delays = {rescue_delay_ms(f"run_{n}", 3) for n in range(100)}

    assert len(delays) > 50


def test_rescue_of_an_execution_that_progressed_starts_to_count_again() -> None:
    move = rescue(make_lease(crashes=4, progressed=True), NOW, lease_ms=30_000)

    assert (move.status, move.crashes) == (RunStatus.QUEUED, 0)
    assert move.reason == "execution 3 was lost: its process died or lost contact"


def test_rescue_counts_the_time_until_the_last_renewal() -> None:
    assert rescue(make_lease(), NOW, lease_ms=30_000).add_spent_ms == 10_000
    assert rescue(make_lease(claimed_at=NOW), NOW, lease_ms=30_000).add_spent_ms == 0


def test_poisonous_run_fails_naming_the_task_that_started_last() -> None:
    move = rescue(make_lease(crashes=4, running=["resize", "fetch"]), NOW, lease_ms=30_000)

    assert move.error is not None
    assert move.error.name == "Poisoned"
    assert "5 times in a row" in move.error.message
    assert "'resize'" in move.error.message
    assert "'fetch'" not in move.error.message


def test_poisonous_run_without_a_running_task_says_so() -> None:
    move = rescue(make_lease(crashes=CRASHES_MAX), NOW, lease_ms=30_000)

    assert move.error is not None
    assert "none was running" in move.error.message


def test_wake_queues_what_waits_and_is_due() -> None:
    change = wake(10, NOW)

    assert (change.expected, change.status) == (RunStatus.WAITING, RunStatus.QUEUED)
    assert (change.limit, change.at) == (10, NOW)


# --- what people ask for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", UNENDED)
def test_cancel_ends_a_run_in_any_unended_status(status: RunStatus) -> None:
    move = cancel(make_run(status, execution=2), NOW)

    assert move == MoveRun(
        run_id="run_1",
        expected=status,
        execution=2,
        status=RunStatus.CANCELLED,
        at=NOW,
        completed_at=NOW,
        cancel_open=True,
        revoke=status is RunStatus.EXECUTING,
    )


def test_cancel_counts_the_time_of_the_execution_under_way() -> None:
    move = cancel(make_run(RunStatus.EXECUTING), NOW, claimed_at=NOW - 70)

    assert move is not None
    assert move.add_spent_ms == 70


def test_cancel_of_a_cancelled_run_changes_nothing() -> None:
    assert cancel(make_run(RunStatus.CANCELLED), NOW) is None


@pytest.mark.parametrize("status", [status for status in ENDED if status is not RunStatus.CANCELLED])
def test_cancel_refuses_a_run_that_ended(status: RunStatus) -> None:
    with pytest.raises(ConflictError, match=rf"'run_1' has ended already \({status.label}\)"):
        cancel(make_run(status), NOW)


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.TIMED_OUT])
def test_continue_resets_failed_and_open_tasks_and_clears_the_end(status: RunStatus) -> None:
    run = make_run(
        status, execution=4, crashes=5, spent_ms=80, error=ERROR, completed_at=9, failed_tasks=["t1", "t2"]
    )

    move = continue_run(run, NOW)

    assert move == MoveRun(
        run_id="run_1",
        expected=status,
        execution=4,
        status=RunStatus.QUEUED,
        at=NOW,
        add_spent_ms=-80 if status is RunStatus.TIMED_OUT else 0,
        reset=["t1", "t2"],
        reset_open=True,
        failures=0,
    )


@pytest.mark.parametrize(
    "status, why",
    [
        (RunStatus.COMPLETED, "rerun it"),
        (RunStatus.INVALID_PAYLOAD, "another run with a payload that fits"),
        (RunStatus.EXECUTING, "hasn't ended"),
    ],
)
def test_continue_refuses_and_says_what_to_do(status: RunStatus, why: str) -> None:
    with pytest.raises(ConflictError, match=why):
        continue_run(make_run(status), NOW)
