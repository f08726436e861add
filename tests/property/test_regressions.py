"""Programs that were executed differently in different modes once, as small as they could be made."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from .program_generator import numbered
from .program_modes import disagreements
from .programs import (
    ALWAYS,
    AsCompleted,
    AsyncioTimeout,
    Backoff,
    Body,
    Catch,
    Finally,
    First,
    Gather,
    Group,
    IoTimeout,
    Node,
    Nothing,
    Parallel,
    Pause,
    Pipe,
    Program,
    Sequence,
    Task,
    Wait,
)

TASK = Task()
HANGS = Task(Body(seconds=60), timeout=0.05, catch=True)


def sequence(*items: Node) -> Sequence:
    return Sequence(items)


PROGRAMS = [
    pytest.param(
        Program(Task(nested=Gather((TASK, Nothing()), locked=True))),
        id="a lock in a task's body doesn't keep the run from being put down",
    ),
    pytest.param(
        Program(Task(nested=AsCompleted((Pause(0.001),)))),
        id="nor does as_completed in a task's body",
    ),
    pytest.param(
        Program(Gather((TASK, HANGS))),
        id="a body runs into its time-out while the run is about to be put down",
    ),
    pytest.param(
        Program(Gather((TASK, IoTimeout(20, Task(Body(seconds=60)))))),
        id="and so it does into an io.timeout around it",
    ),
    pytest.param(
        Program(Parallel((Nothing(), TASK)), sync=True),
        id="a thread's body ends before a sync run is put down",
    ),
    pytest.param(
        Program(
            Task(
                Body(fails=1),
                Pipe((sequence(Task(Body(seconds=1.1))), sequence(Pause(0.02)))),
                Backoff(attempts=2, min_delay=0.01),
            ),
            determined=False,
        ),
        id="a body that is tried again learns of what it did before in the same order",
    ),
    pytest.param(
        Program(sequence(IoTimeout(160, Task(nested=Wait(320))), AsyncioTimeout(45, TASK, wait_for=True))),
        id="a replay doesn't look for what was interrupted inside an interrupted task",
    ),
    pytest.param(
        Program(IoTimeout(40, Task(nested=Catch(Wait(80), "BaseException")))),
        id="a task that completed although it was cancelled does so on replay",
    ),
    pytest.param(
        Program(
            sequence(
                First((Task(Body(fails=ALWAYS), nested=Catch(Wait(80), "BaseException")), Wait(20))),
                Wait(160),
            )
        ),
        id="and so does one that failed then",
    ),
    pytest.param(
        Program(IoTimeout(40, Finally(Wait(160), Wait(1280)))),
        id="a wait in a finally block after a time-out puts the run down",
    ),
    pytest.param(
        Program(sequence(Task(Body(seconds=0.02)), Task(nested=Wait(40), timeout=20, catch=True))),
        id="a crash doesn't make the time-out of a task begin anew",
    ),
    pytest.param(
        Program(
            First(
                (
                    sequence(Wait(20), HANGS),
                    Task(Body(fails=1), sequence(Pause()), Backoff(attempts=2, min_delay=40)),
                )
            )
        ),
        id="what a task that waits to be tried again has recorded keeps nobody waiting",
    ),
    pytest.param(
        Program(IoTimeout(160, sequence(Group((Catch(Task(Body(fails=ALWAYS))),), catch=True), Wait(640)))),
        id="a time-out around a task group fires",
    ),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_mode_of_execution_agrees(program: Program):
    program = Program(numbered(program.root), sync=program.sync, determined=program.determined)

    found = [problem for seed in range(12) for problem in disagreements(program, seed)]

    assert found == [], program.code()
