"""The ways to execute a program, and what must agree between them.

Everything runs under virtual time and in one thread (but for what the program itself sends to threads), with seeded
chance, so a program does the same again whenever it is executed in the same way.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import dataclass, replace
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

from perdure import IO, Client, Context, Run, RunStatus, SyncIO, TaskStatus, event_trigger
from perdure.testing.virtual_clock import VirtualClock, run_virtual

from . import direct_io
from .program_generator import generate, parts_of, shrunk
from .programs import (
    AsCompleted,
    AsyncioTimeout,
    First,
    Gather,
    Group,
    IoTimeout,
    Node,
    Pipe,
    Program,
    Recorder,
    Task,
    describe,
    exact,
    run_program,
    run_sync_program,
)

EXECUTIONS_MAX = 400
PATIENCE_SECONDS = 3_000
"""Virtual seconds which a program may take beyond all of its own long durations together."""

EXECUTING_MAX = timedelta(minutes=10)
"""More than all that a program does in memory; its long waits must put it down."""

ORDERING = (AsCompleted, AsyncioTimeout, First, Gather, Group, IoTimeout, Pipe)

OWN_ERRORS = ("Boom", "KeyError", "Special", "ValueError", "TimeoutError", "ExceptionGroup")
"""What a program may fail with. Any other error is perdure's."""


@dataclass(frozen=True)
class Crash:
    """The process dies at its `nth` commit, right "before" or "after" it."""

    moment: str
    nth: int

    def __str__(self) -> str:
        return f"{self.moment} commit {self.nth}"


class Died(Exception):
    """Raised out of a commit at which the process dies."""


@dataclass(frozen=True)
class Observed:
    """What can be told of a program that has been executed.

    Attributes:
        failed: the run failed, with an error of the program's.
        outcome: text; with `bodies` all that has to be the same in every mode, for a determined program.
        bodies: paths of all plain bodies that ever started.
        wrong: what may not be in any mode.
        repeated: bodies that started more than once though no process died.
        commits: numbers of the commits of the last process, but for those of an idle engine looking round.
    """

    outcome: str
    bodies: frozenset[str]
    wrong: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    commits: tuple[int, ...] = ()
    failed: bool = False


def execute(program: Program, *, forced: bool = False, crashes: tuple[Crash, ...] = ()) -> Observed:
    """Execute it once, to its end."""
    if not crashes:
        return run_virtual(_execute(program, ":memory:", forced=forced, crashes=()))
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder:
        return run_virtual(_execute(program, f"sqlite:///{folder}/jobs.db", forced=forced, crashes=crashes))


def _memory_folder() -> str | None:
    """A folder without a disk under it, where there is one: these crashes are of processes, not of machines."""
    folder = Path("/dev/shm")
    return str(folder) if folder.is_dir() else None


async def _execute(program: Program, url: str, *, forced: bool, crashes: tuple[Crash, ...]) -> Observed:
    log = Recorder()
    clock = VirtualClock()
    chance = random.Random(0)
    for crash in crashes:
        life = _Life(program, log, crash)
        if await life.live(url, clock=clock, random=chance, force_replay=forced) is not None:
            break
    life = _Life(program, log, None)
    run = await life.live(url, clock=clock, random=chance, force_replay=forced)
    assert run is not None
    return Observed(
        outcome=_outcome(run),
        bodies=frozenset(log.paths),
        wrong=tuple(dict.fromkeys([*log.violations, *_problems(run, program)])),
        repeated=() if log.generation else tuple(sorted(body for body, n in log.starts.items() if n > 1)),
        commits=life.busy_commits(),
        failed=run.status is RunStatus.FAILED,
    )


class _Life:
    """One process's life: from opening the database to the end of the run, or to its crash."""

    def __init__(self, program: Program, log: Recorder, crash: Crash | None) -> None:
        self._program = program
        self._log = log
        self._crash = crash
        self._dead = asyncio.Event()
        self._commits: list[float] = []

    async def live(self, url: str, **settings: Any) -> Run | None:
        """The run, once it has ended; None after a crash."""
        client = self._client()
        embedded = client.embedded(url, threads=4, inline=True, on_commit=self._on_commit, **settings)
        try:
            async with embedded:
                ended = asyncio.create_task(self._send_and_wait(client))
                died = asyncio.create_task(self._dead.wait())
                await asyncio.wait({ended, died}, return_when=asyncio.FIRST_COMPLETED)
                died.cancel()
                if not self._dead.is_set():
                    return ended.result()
                await embedded.crash()
                await asyncio.wait({ended})
                ended.exception()
        except Exception:
            if not self._dead.is_set():
                raise
        return None

    async def _send_and_wait(self, client: Client) -> Run:
        event = await client.send_event("go", id="only")
        run_id = event.runs[0].id
        try:
            return await client.wait_for_run(
                run_id, timeout=long_seconds(self._program.root) + PATIENCE_SECONDS
            )
        except TimeoutError:
            run = await client.get_run(run_id)
            assert run is not None
            return run

    def _on_commit(self, moment: str) -> None:
        if moment == "before":
            self._commits.append(asyncio.get_running_loop().time())
        if self._crash == Crash(moment, len(self._commits)) and not self._dead.is_set():
            self._log.crashed()
            self._dead.set()
        if self._dead.is_set():
            raise Died

    def busy_commits(self) -> tuple[int, ...]:
        """Numbers of the commits that have another one close by."""
        times = [-inf, *self._commits, inf]
        return tuple(
            n for n in range(1, len(times) - 1) if min(times[n] - times[n - 1], times[n + 1] - times[n]) < 5
        )

    def _client(self) -> Client:
        client = Client(id="programs")
        program, log = self._program, self._log

        async def job(payload: Any, io: IO, ctx: Context) -> str:
            self._count()
            return await run_program(program, io, log)

        def sync_job(payload: Any, io: SyncIO, ctx: Context) -> str:
            self._count()
            return run_sync_program(program, io, log)

        client.define_job(
            id="program", run=sync_job if program.sync else job, trigger=event_trigger(name="go")
        )
        return client

    def _count(self) -> None:
        self._log.executions += 1
        if self._log.executions > EXECUTIONS_MAX:
            raise RuntimeError(f"executed {EXECUTIONS_MAX} times without an end")


def long_seconds(node: Node) -> float:
    """All the durations in a program, one after the other."""
    own = (getattr(node, "seconds", None) or 0) + (getattr(node, "timeout", None) or 0)
    if isinstance(node, Task) and node.retry is not None:
        own += node.retry.min_delay * node.retry.attempts
    return own + sum(map(long_seconds, parts_of(node)))


def _outcome(run: Run) -> str:
    error = f"{run.error.name}: {run.error.message}" if run.error is not None else None
    return exact((run.status.name, run.output, error))


def _problems(run: Run, program: Program) -> list[str]:
    found: list[str] = []
    if run.status is RunStatus.FAILED and program.raises:
        assert run.error is not None
        if run.error.name not in OWN_ERRORS:
            found.append(f"the run failed with {run.error.name}: {run.error.message}")
    elif run.status is not RunStatus.COMPLETED:
        found.append(f"the run is {run.status.name}: {run.error} {run.reason}")
        if not run.status.is_terminal:
            return found
    if run.execution_duration > EXECUTING_MAX:
        found.append(
            f"stayed in memory for {run.execution_duration} in all, though it had nothing to do but wait"
        )
    open_tasks = [task for task in run.tasks if task.status not in _ENDED]
    found += [f"task {task.key} is left {task.status.name} though the run has ended" for task in open_tasks]
    return found


_ENDED = (TaskStatus.COMPLETED, TaskStatus.ERRORED, TaskStatus.CANCELED)


# --- plain asyncio, to compare with ----------------------------------------------------------------------------------------


def execute_directly(program: Program, *, noise: int = 0) -> Observed:
    """Execute an async program without perdure. `noise`: seed of small delays around every operation; 0 for none."""
    chance = random.Random(noise)

    async def delay() -> None:
        if noise:
            await asyncio.sleep(chance.uniform(0, 0.15) if noise % 2 else chance.choice((0, 0.3)))

    async def main() -> Observed:
        log = Recorder(direct_io.current_task)

        async def job(io: Any) -> str:
            return await run_program(program, io, log)

        try:
            output = await asyncio.create_task(direct_io.run_directly(job, delay))
            outcome = exact((RunStatus.COMPLETED.name, output, None))
        except (Exception, asyncio.CancelledError) as error:
            name, *rest = describe(error)
            outcome = exact((RunStatus.FAILED.name, name, rest))
        return Observed(outcome=outcome, bodies=frozenset(log.paths), wrong=tuple(log.violations))

    return run_virtual(main())


def retries_orders(node: Node) -> bool:
    """Whether a body in which an order matters is tried again: what is recorded keeps the order then, plain asyncio not."""
    if isinstance(node, Task) and node.nested is not None and node.retry is not None:
        return has_order(node.nested)
    return any(retries_orders(part) for part in parts_of(node))


def has_order(node: Node) -> bool:
    return isinstance(node, ORDERING) or any(has_order(part) for part in parts_of(node))


def is_determined(program: Program) -> bool:
    """Whether small delays here and there change nothing: for programs that didn't come whole from the generator."""
    if not program.determined:
        return False
    if program.sync:
        return True
    first = execute_directly(program)
    return all(execute_directly(program, noise=noise) == first for noise in range(1, 6))


# --- the comparison ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disagreement:
    """What is wrong with the execution of a program in the mode `mode`."""

    mode: str
    problem: str

    @property
    def kind(self) -> tuple[str, str]:
        """What a smaller program must have in common with it to be of interest."""
        return self.mode.split()[0], self.problem.split()[0]


def disagreements(program: Program, seed: int) -> list[Disagreement]:
    """Execute a program in every mode. Empty if all is as it must be."""
    found: list[Disagreement] = []
    normal = execute(program)

    def check(mode: str, observed: Observed) -> None:
        found.extend(Disagreement(mode, problem) for problem in observed.wrong)
        found.extend(Disagreement(mode, f"{body} ran {observed.repeated}") for body in observed.repeated)
        if not program.determined or observed is normal:
            return
        if observed.outcome != normal.outcome:
            found.append(Disagreement(mode, f"gave\n  {observed.outcome}\nbut normally\n  {normal.outcome}"))
        if observed.bodies != normal.bodies:
            more, less = sorted(observed.bodies - normal.bodies), sorted(normal.bodies - observed.bodies)
            found.append(Disagreement(mode, f"ran the bodies {more} too, and not {less}"))

    check("normal", normal)
    check("forced replay", execute(program, forced=True))
    for crashes in crash_plans(seed, normal.commits):
        mode = "crashes " + ", ".join(map(str, crashes))
        check(mode, execute(program, crashes=crashes))
    if program.determined and not program.sync and not retries_orders(program.root) and not normal.failed:
        check("plain asyncio", replace(execute_directly(program), wrong=()))
    return found


def crash_plans(seed: int, commits: tuple[int, ...]) -> list[tuple[Crash, ...]]:
    """Two sets of crashes. The first crash of each is at one of `commits`, those of a normal execution."""
    chance = random.Random(seed)

    def crashes(count: int) -> tuple[Crash, ...]:
        numbers = [chance.choice(commits), *(chance.randint(1, 12) for _ in range(count - 1))]
        return tuple(Crash(chance.choice(("before", "after")), n) for n in numbers)

    return [crashes(1), crashes(chance.randint(2, 4))]


def report(seed: int) -> str | None:
    """None if the program of this seed is executed alike in all modes; else all that is needed to find out why."""
    program = generate(seed)
    found = disagreements(program, seed)
    if not found:
        return None

    kinds = {problem.kind for problem in found}

    def still_fails(candidate: Program) -> bool:
        if program.determined and not is_determined(candidate):
            return False
        return any(problem.kind in kinds for problem in disagreements(candidate, seed))

    small = shrunk(program, still_fails)
    lines = [f"program {seed} (PERDURE_PROGRAM_SEED={seed}) is not executed alike in all modes."]
    for title, each, problems in (
        ("smallest program found", small, disagreements(small, seed)),
        ("the whole program", program, found),
    ):
        lines += ["", f"--- {title}", each.code(), ""]
        lines += [f"{problem.mode}: {problem.problem}" for problem in problems]
    return "\n".join(lines)
