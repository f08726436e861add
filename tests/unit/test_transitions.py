"""The table of statuses: what it allows, what it refuses, and what is generated from it."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import pytest

from perdure.engine.core.transitions import (
    INITIAL,
    TRANSITIONS,
    IllegalTransitionError,
    RunEvent,
    diagram,
    is_legal,
    next_status,
    table,
)
from perdure.errors import ConflictError
from perdure.schema.runs import RunStatus

PAIRS = list(itertools.product(RunStatus, RunEvent))
LATER = {RunStatus.WAITING_ON_CONNECTIONS}


@pytest.mark.parametrize("status, event", [pair for pair in PAIRS if pair in TRANSITIONS])
def test_legal_event_leads_to_another_status(status: RunStatus, event: RunEvent) -> None:
    assert is_legal(status, event)
    assert next_status(status, event) is not status


@pytest.mark.parametrize("status, event", [pair for pair in PAIRS if pair not in TRANSITIONS])
def test_illegal_event_is_refused_naming_status_and_event(status: RunStatus, event: RunEvent) -> None:
    assert not is_legal(status, event)

    with pytest.raises(IllegalTransitionError, match=rf"{status.name}.*{event.name}"):
        next_status(status, event)


def test_every_status_is_reached_from_the_initial_one() -> None:
    reached = {INITIAL}
    while more := {to for (status, _), to in TRANSITIONS.items() if status in reached} - reached:
        reached |= more

    assert reached == set(RunStatus) - LATER


def test_every_event_happens_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(RunEvent)


def test_every_unended_run_can_be_cancelled() -> None:
    for status in set(RunStatus) - LATER:
        assert is_legal(status, RunEvent.CANCELLED) is not status.is_terminal


def test_ended_runs_can_only_be_continued() -> None:
    leaving = {(status, event) for status, event in TRANSITIONS if status.is_terminal}

    assert leaving == {
        (status, RunEvent.CONTINUED)
        for status in (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.TIMED_OUT, RunStatus.UNRESOLVED_AUTH)
    }


def test_error_is_a_conflict_and_survives_pickling() -> None:
    error = IllegalTransitionError(status="COMPLETED", event="CLAIMED")

    copy = pickle.loads(pickle.dumps(error))

    assert isinstance(copy, ConflictError)
    assert (str(copy), copy.facts, copy.code) == (str(error), error.facts, "illegal_transition")


def test_diagram_has_an_edge_for_every_transition() -> None:
    drawn = diagram()

    assert drawn.startswith("stateDiagram-v2\n    [*] --> PENDING\n")
    assert '    state "Timed out" as TIMED_OUT\n' in drawn
    assert "    EXECUTING --> QUEUED: yielded, rescued\n" in drawn
    assert "    COMPLETED --> [*]\n" in drawn
    assert drawn.count(" --> ") == 1 + len({(a, b) for (a, _), b in TRANSITIONS.items()}) + 6


def test_table_has_a_row_for_every_transition() -> None:
    assert len(table().splitlines()) == 2 + len(TRANSITIONS)
    assert f"| Waiting | woken | Queued | {RunEvent.WOKEN.value} |" in table()


def test_lifecycle_page_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text(encoding="utf-8")

    assert diagram() in page
    assert table() in page
    for status in set(RunStatus) - LATER:
        assert f"\n| {status.label} | " in page
