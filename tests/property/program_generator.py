"""Programs from seeds, and smaller programs from programs.

How a program's outcome is determined although much happens at once: each long duration in a program (waits, delays
before retries, deadlines) is another power of two times `UNIT` seconds, used once. When something happens is a sum of
the durations on the way to it, so two moments are either equal or at least `UNIT` apart, which is more than all the
short things (bodies, commits, replays, lingering waits, pauses of a fraction of a second) take together. Where an order
matters (who completes first, what a failure or a deadline cuts off), every branch but the first begins with a long wait
of its own, so no two of them ever meet at one moment.

Programs with `determined=False` leave that out and draw durations that collide: for them only the laws hold that are
true of any order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import count
from typing import Any

from .programs import (
    ALWAYS,
    ERRORS,
    VALUES,
    AsCompleted,
    AsyncioTimeout,
    Backoff,
    Body,
    Catch,
    Finally,
    First,
    Gather,
    Group,
    Helper,
    IoTimeout,
    Memo,
    Node,
    Nothing,
    Orphan,
    Parallel,
    Pause,
    Pipe,
    Program,
    Raise,
    Sequence,
    Task,
    Wait,
    Yield,
)

UNIT = 20.0
SHORT = (0.0, 0.001, 0.02, 0.1)
POWERS = 11
"""How many of them there are for a program: an engine that idles through a virtual day works for a real second."""
MOMENTS = (0.0, 0.01, 0.02, 0.9, 1.0, 1.1, 3.0, 7.0)
"""Durations of programs of any order: they collide with each other and with the executor's own (lingering for 1 s)."""

DEPTH_MAX = 4
NESTING_MAX = 3


def generate(seed: int) -> Program:
    """The program of this seed: of ten, seven async determined, two async of any order, one sync."""
    sync = seed % 10 == 9
    determined = seed % 10 not in (4, 8)
    powers = [UNIT * 2**n for n in range(POWERS)]
    draft = _Writer(seed, powers, sync=sync, determined=determined)
    draft.program()
    # Once more, now with those powers that it uses in random order: the longest are as short as can be.
    used = powers[: POWERS - len(draft.stock)]
    random.Random(seed).shuffle(used)
    return _Writer(seed, used + powers[len(used) :], sync=sync, determined=determined).program()


class _Writer:
    """Draws statements, as long as its budget and its stock of long durations last; durations from the stock's front."""

    def __init__(self, seed: int, stock: list[float], *, sync: bool, determined: bool) -> None:
        self.chance = chance = random.Random(seed)
        self.sync = sync
        self.determined = determined
        self.budget = chance.choice((6, 12, 18, 24))
        self.stock = list(stock)
        self.nesting = 0

    def program(self) -> Program:
        root = Sequence(tuple(self.statement(DEPTH_MAX) for _ in range(self.chance.randint(1, 4))))
        raises = self.chance.random() < 0.2
        return Program(numbered(root), sync=self.sync, determined=self.determined, raises=raises)

    def long(self) -> float:
        return self.stock.pop(0)

    def statement(self, depth: int) -> Node:
        """Anything."""
        self.budget -= 1
        if depth <= 0 or self.budget <= 0:
            return self.simple()
        makers = self._sync_makers() if self.sync else self._async_makers()
        (maker,) = self.chance.choices([make for make, _ in makers], [weight for _, weight in makers])
        return maker(depth - 1)

    def _async_makers(self) -> list[tuple[Callable[[int], Node], int]]:
        return [
            (lambda depth: self.simple(), 5),
            (self.sequence, 3),
            (self.nested_task, 4 if self.nesting < NESTING_MAX else 0),
            (self.gather, 5),
            (self.group, 3),
            (self.as_completed, 3),
            (self.first, 4),
            (self.io_timeout, 4),
            (self.asyncio_timeout, 3),
            (self.pipe, 2),
            (self.finally_, 3),
            (self.catch, 4),
            (self.helper, 2),
            (self.parallel, 2),
            (self.orphan, 1),
        ]

    def _sync_makers(self) -> list[tuple[Callable[[int], Node], int]]:
        return [
            (lambda depth: self.simple(), 5),
            (self.sequence, 4),
            (self.nested_task, 4 if self.nesting < NESTING_MAX else 0),
            (self.finally_, 3),
            (self.catch, 4),
            (self.helper, 2),
            (self.parallel, 3),
        ]

    # --- single steps -----------------------------------------------------------------------------------------------

    def simple(self) -> Node:
        makers: list[tuple[Callable[[], Node], int]] = [
            (self.task, 10),
            (self.wait, 5),
            (self.memo, 1),
            (lambda: Yield(), 1),
            (lambda: Raise(self.chance.choice(list(ERRORS))), 1),
        ]
        if not self.sync:
            makers.append((lambda: Pause(self.chance.choice(SHORT)), 2))
        (maker,) = self.chance.choices([make for make, _ in makers], [weight for _, weight in makers])
        return maker()

    def memo(self) -> Node:
        return Memo(self.chance.choice(("now", "uuid", "random")))

    def task(self) -> Node:
        kind = self.chance.random()
        body = self.body()
        if kind < 0.55:
            return Task(body)
        catch = self.chance.random() < 0.6
        if kind < 0.7:
            return Task(replace(body, fails=ALWAYS), catch=catch)
        if kind < 0.9:
            attempts, fails = self.chance.choice(((2, 1), (2, ALWAYS), (3, 1), (3, 2), (3, ALWAYS)))
            return Task(replace(body, fails=fails), retry=self.backoff(attempts, fails), catch=catch)
        if self.sync or self.chance.random() < 0.5:
            return Task(replace(body, seconds=0), timeout=90, catch=catch)
        return Task(replace(body, seconds=60, thread=False), timeout=0.05, catch=catch)

    def body(self) -> Body:
        thread = self.chance.random() < 0.15
        return Body(
            value=self.chance.choice(list(VALUES)),
            seconds=0 if thread or self.sync else self.chance.choice(SHORT if self.determined else MOMENTS),
            error=self.chance.choice(list(ERRORS)),
            thread=thread,
        )

    def backoff(self, attempts: int, fails: int) -> Backoff:
        """A policy with short delays, or with one long one."""
        if self.determined and self.stock and min(fails, attempts - 1) == 1 and self.chance.random() < 0.5:
            return Backoff(attempts, self.long())
        return Backoff(attempts, self.chance.choice(SHORT[1:] if self.determined else MOMENTS[1:]))

    def wait(self) -> Node:
        until = self.chance.random() < 0.2
        if not self.determined:
            return Wait(self.chance.choice(MOMENTS), until=until)
        if self.stock and self.chance.random() < 0.6:
            return Wait(self.long(), until=until)
        return Wait(self.chance.choice(SHORT), until=until)

    # --- one thing inside another -----------------------------------------------------------------------------------

    def sequence(self, depth: int) -> Node:
        return Sequence(tuple(self.statement(depth) for _ in range(self.chance.randint(2, 3))))

    def nested_task(self, depth: int) -> Node:
        self.nesting += 1
        nested = self.sequence(depth)
        self.nesting -= 1
        body, retry = Body(), None
        kind = self.chance.random()
        if kind < 0.15:
            body = Body(fails=ALWAYS)
        elif kind < 0.3:
            body, retry = Body(fails=1), self.backoff(2, 1)
        timeout = None
        if not self.sync and kind > 0.85 and (not self.determined or self.stock):
            timeout = self.long() if self.determined else self.chance.choice(MOMENTS[1:])
        return Task(body, nested, retry, timeout, catch=self.chance.random() < 0.5)

    def helper(self, depth: int) -> Node:
        return Helper(self.statement(depth), as_task=self.chance.random() < 0.4)

    def finally_(self, depth: int) -> Node:
        cleanup = Task(self.body()) if self.chance.random() < 0.7 else self.statement(min(depth, 1))
        return Finally(self.statement(depth), cleanup)

    def catch(self, depth: int) -> Node:
        return Catch(self.statement(depth), self.chance.choice(("TaskError", "Exception", "BaseException")))

    def io_timeout(self, depth: int) -> Node:
        if not self.determined:
            return IoTimeout(self.chance.choice(MOMENTS), self.statement(depth))
        if not self.stock:
            return self.simple()
        return IoTimeout(self.long(), self.statement(depth))

    def asyncio_timeout(self, depth: int) -> Node:
        wait_for = self.chance.random() < 0.4
        if self.chance.random() < 0.5:
            quick = Sequence(tuple(Task(self.body_of_no_time()) for _ in range(self.chance.randint(1, 3))))
            return AsyncioTimeout(45, quick, wait_for=wait_for)
        if not self.stock:
            return self.simple()
        seconds = self.chance.choice((0.02, 0.05))
        return AsyncioTimeout(
            seconds, Sequence((Wait(self.long()), self.statement(depth))), wait_for=wait_for
        )

    def body_of_no_time(self) -> Body:
        return replace(self.body(), seconds=0)

    def orphan(self, depth: int) -> Node:
        """Somebody will cut it off, so it must be alone in time."""
        if not self.stock:
            return self.simple()
        return Orphan(Sequence((Wait(self.long()), self.statement(depth))))

    # --- several things at once -------------------------------------------------------------------------------------

    def gather(self, depth: int) -> Node:
        branches = self.branches(depth)
        return_exceptions = self.chance.random() < 0.5
        if not return_exceptions:
            branches = self.apart_if_one_fails(branches)
        locked = self.chance.random() < 0.15
        return Gather(branches, return_exceptions=return_exceptions, locked=locked)

    def group(self, depth: int) -> Node:
        return Group(self.apart_if_one_fails(self.branches(depth)), catch=self.chance.random() < 0.7)

    def as_completed(self, depth: int) -> Node:
        return AsCompleted(self.apart(self.branches(depth)))

    def first(self, depth: int) -> Node:
        return First(self.apart(self.branches(depth)))

    def pipe(self, depth: int) -> Node:
        producers = self.apart(tuple(self.sequence(min(depth, 2)) for _ in range(self.chance.randint(1, 2))))
        return Pipe(tuple(one if isinstance(one, Sequence) else Sequence((one,)) for one in producers))

    def parallel(self, depth: int) -> Node:
        return Parallel(self.branches(depth))  # it lets all end, and raises the first failure by position

    def branches(self, depth: int) -> tuple[Node, ...]:
        return tuple(self.statement(depth) for _ in range(self.chance.randint(2, 3)))

    def apart_if_one_fails(self, branches: tuple[Node, ...]) -> tuple[Node, ...]:
        return self.apart(branches) if any(may_fail(branch) for branch in branches) else branches

    def apart(self, branches: tuple[Node, ...]) -> tuple[Node, ...]:
        """Let every branch but the first begin with a long wait of its own; without stock for it, drop the branch."""
        if not self.determined:
            return branches
        kept = [branches[0]]
        kept += [Sequence((Wait(self.long()), branch)) for branch in branches[1:] if self.stock]
        self.chance.shuffle(kept)
        return tuple(kept)


def may_fail(node: Node) -> bool:
    """Whether an error may leave `node`; True if unsure."""
    match node:
        case Raise():
            return True
        case Task(catch=False):
            enough = node.retry is not None and node.retry.attempts > node.body.fails
            fails = node.body.fails > 0 and not enough
            return fails or node.timeout is not None or (node.nested is not None and may_fail(node.nested))
        case (
            Catch(kind="BaseException" | "Exception")
            | Task(catch=True)
            | Orphan()
            | First()
            | AsCompleted()
            | Pipe()
        ):
            return False
        case Gather(return_exceptions=True) | Group(catch=True):
            return False
        case _:
            return any(may_fail(part) for part in parts_of(node))


# --- trees in general ------------------------------------------------------------------------------------------------------


def parts_of(node: Node) -> list[Node]:
    found: list[Node] = []
    for field in fields(node):
        value: Any = getattr(node, field.name)
        if isinstance(value, Node):
            found.append(value)
        elif isinstance(value, tuple):
            found.extend(part for part in value if isinstance(part, Node))
    return found


def numbered(root: Node) -> Node:
    """The same tree with fresh keys, unique within the body of each task (and used again in the next)."""

    def walk(node: Node, counter: Iterator[int]) -> Node:
        key = f"{node.letter}{next(counter)}" if node.letter else ""
        if isinstance(node, Parallel):
            return _rebuilt(node, lambda part: walk(part, count(1)), key)
        inner = count(1) if isinstance(node, Task) else counter
        return _rebuilt(node, lambda part: walk(part, inner), key)

    return walk(root, count(1))


def _rebuilt(node: Node, change: Callable[[Node], Node], key: str) -> Node:
    changes: dict[str, Any] = {"key": key}
    for field in fields(node):
        value: Any = getattr(node, field.name)
        if isinstance(value, Node):
            changes[field.name] = change(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Node):
            changes[field.name] = tuple(change(part) for part in value)
    return replace(node, **changes)


def size(node: Node) -> int:
    return 1 + sum(size(part) for part in parts_of(node))


def smaller(node: Node) -> Iterator[Node]:
    """Trees with something taken out of `node`, the largest cuts first."""
    if not isinstance(node, Nothing):
        yield Nothing()
    yield from sorted(parts_of(node), key=size)
    if isinstance(node, Task):
        yield from _plainer_tasks(node)
    for field in fields(node):
        value: Any = getattr(node, field.name)
        if isinstance(value, Node):
            for less in smaller(value):
                if not (isinstance(node, Pipe) and not isinstance(less, Sequence)):
                    yield replace(node, **{field.name: less})
        elif isinstance(value, tuple) and value and isinstance(value[0], Node):
            for i, part in enumerate(value):
                if len(value) > 1:
                    yield replace(node, **{field.name: value[:i] + value[i + 1 :]})
                for less in smaller(part):
                    if not (isinstance(node, Pipe) and not isinstance(less, Sequence)):
                        yield replace(node, **{field.name: (*value[:i], less, *value[i + 1 :])})


def _plainer_tasks(task: Task) -> Iterator[Node]:
    if task.nested is not None:
        yield replace(task, nested=None)
    if task.retry is not None:
        yield replace(task, retry=None, body=replace(task.body, fails=0))
    if task.timeout is not None:
        yield replace(task, timeout=None, body=replace(task.body, seconds=0))
    if task.body != Body(fails=task.body.fails):
        yield replace(task, body=Body(fails=task.body.fails))


def shrunk(program: Program, still_fails: Callable[[Program], bool], *, tries: int = 300) -> Program:
    """A program as small as can be found with `tries` runs for which `still_fails`."""
    found = True
    while found and tries > 0:
        found = False
        for root in smaller(program.root):
            candidate = replace(program, root=numbered(root))
            if size(candidate.root) > size(program.root) or candidate.root == program.root:
                continue
            tries -= 1
            if still_fails(candidate):
                program, found = candidate, True
                break
            if tries <= 0:
                break
    return program
