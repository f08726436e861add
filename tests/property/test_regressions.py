"""Programs that were executed differently in different modes once, as small as they could be made."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from .program_generator import numbered
from .program_modes import disagreements
from .programs import (
    AsCompleted,
    AsyncioTimeout,
    Backoff,
    Body,
    Catch,
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
        Program(IoTimeout(160, sequence(Group((Catch(Task(Body(fails=99))),), catch=True), Wait(640)))),
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

    found = [problem for seed in range(20) for problem in disagreements(program, seed)]

    assert found == [], program.code()
