"""Job functions as data: small trees that an interpreter runs with `io`, and that print as the code they stand for.

What a program *observes* goes into its result (in which order `as_completed` delivered, who won, whether a deadline
fired, which errors were caught), so that comparing results compares what user code saw. What its task bodies *do* goes
into a `Recorder`, which outlives executions and holds four laws, whatever the order of events was:

1. A task whose completion user code has seen never runs its body again.
2. A task which returned or failed does so alike in every later execution, with an equal value of the same type.
3. A task that was interrupted in an execution that ended in an orderly way doesn't complete later.
4. Nothing starts while an execution is unwinding.

Each decision that depends on an order is also given to a task right away ("seen"), which returns what was recorded of
it the first time: an execution that decides otherwise has been caught.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence as SequenceOf
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

from perdure import IO, Retry, Task as TaskInfo, TaskError, current_task

Lines = list[str]


class Boom(Exception):
    """An error of the program's own."""


class Special(ValueError):
    """One that must match ValueError, on a replay too."""


ERRORS: dict[str, type[Exception]] = {
    "Boom": Boom,
    "KeyError": KeyError,
    "Special": Special,
    "ValueError": ValueError,
}

VALUES: dict[str, Any] = {
    "dict": {"a": [1, 2.5, None], "b": {}},
    "int": 7,
    "none": None,
    "set": {3},
    "str": "text",
    "tuple": (1, ("two", b"three")),
}

ALWAYS = 99
"""As `Body.fails`: every attempt."""


class Recorder:
    """What happened to the outside world, and to user code, over all executions of one run.

    `generation` is raised by a simulated crash: what code of a dead process still does is nobody's business.
    """

    def __init__(self, current_task: Callable[[], TaskInfo] = current_task) -> None:
        self.current_task = current_task
        self.generation = 0
        self.executions = 0
        self.orderly = True
        self.starts: Counter[str] = Counter()
        self.paths: set[str] = set()
        self.violations: list[str] = []
        self._outcomes: dict[str, str] = {}
        self._interrupted: set[str] = set()

    def started(self, path: str, attempt: int) -> None:
        self.paths.add(path)
        self.starts[f"{path} #{attempt}"] += 1
        if path in self._outcomes:
            self.violations.append(f"the body of {path} ran again after its completion had been seen")

    def settled(self, path: str, outcome: str) -> None:
        known = self._outcomes.setdefault(path, outcome)
        if known != outcome:
            self.violations.append(f"{path} gave {known} and later {outcome}")
        if self.orderly and path in self._interrupted:
            self.violations.append(f"{path} completed although it had been interrupted")

    def interrupted(self, path: str) -> None:
        self._interrupted.add(path)

    def crashed(self) -> None:
        self.generation += 1
        self.orderly = False


@dataclass(frozen=True)
class Frame:
    """Where a piece of a program runs: its io, and the path of keys of the task bodies around it."""

    io: IO
    log: Recorder
    generation: int
    path: str = ""

    def inside(self, key: str) -> Frame:
        return Frame(self.io, self.log, self.generation, f"{self.path}/{key}")

    @property
    def is_live(self) -> bool:
        return self.generation == self.log.generation and not self.io.is_unwinding

    async def settle(self, key: str, operation: Awaitable[Any]) -> Any:
        """Await a durable operation and note how it ended."""
        try:
            value = await operation
        except TaskError as error:
            self._note(key, f"TaskError {error}")
            raise
        except asyncio.CancelledError:
            if self.is_live:
                self.log.interrupted(f"{self.path}/{key}")
            raise
        self._note(key, exact(value))
        return value

    def settle_sync(self, key: str, operation: Callable[[], Any]) -> Any:
        try:
            value = operation()
        except TaskError as error:
            self._note(key, f"TaskError {error}")
            raise
        self._note(key, exact(value))
        return value

    async def check(self, key: str, seen: Any) -> Any:
        """Record what was decided, or compare it with what was recorded."""
        recorded = await self.settle(key, self.io.run_task(key, echo, seen))
        self._compare(key, seen, recorded)
        return recorded

    def check_sync(self, key: str, seen: Any) -> Any:
        recorded = self.settle_sync(key, lambda: self.io.run_task(key, echo, seen))
        self._compare(key, seen, recorded)
        return recorded

    def _note(self, key: str, outcome: str) -> None:
        if self.generation == self.log.generation:
            self.log.settled(f"{self.path}/{key}", outcome)

    def _compare(self, key: str, seen: Any, recorded: Any) -> None:
        if self.is_live and exact(seen) != exact(recorded):
            self.log.violations.append(
                f"at {self.path}/{key} {exact(recorded)} was decided, and later {exact(seen)}"
            )


def echo(value: Any) -> Any:
    return value


def exact(value: Any) -> str:
    """Text which tells apart values that `==` doesn't (1 and 1.0 and True)."""
    return repr(value)


def describe(error: BaseException) -> list[Any]:
    """An error as part of a result: what user code can tell of it, the same on the first run and on every replay."""
    if isinstance(error, TaskError):
        message = (
            "" if error.error_name == "TimeoutError" else error.error_message
        )  # whose words are perdure's
        return ["TaskError", error.key, error.error_name, message, error.matches(ValueError, "Boom")]
    if isinstance(error, BaseExceptionGroup):
        members: list[BaseException] = list(error.exceptions)
        return [type(error).__name__, sorted((describe(member) for member in members), key=repr)]
    return [type(error).__name__, str(error)]


def indented(lines: Lines) -> Lines:
    return ["    " + line for line in lines]


def function(name: str, body: Node, *, sync: bool) -> Lines:
    return [f"{'' if sync else 'async '}def {name}():", *indented(body.code(sync=sync))]


# --- the tree ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """A statement. `key` is set by `numbered`, unique in the body of the task that it is in."""

    key: str = field(default="", kw_only=True)
    letter: ClassVar[str] = ""
    """First letter of its keys; empty if it needs none."""

    async def run(self, at: Frame) -> Any:
        raise NotImplementedError

    def run_sync(self, at: Frame) -> Any:
        raise NotImplementedError

    def code(self, *, sync: bool = False) -> Lines:
        raise NotImplementedError


@dataclass(frozen=True)
class Nothing(Node):
    """What is left of a part that was shrunk away."""

    async def run(self, at: Frame) -> Any:
        return None

    def run_sync(self, at: Frame) -> Any:
        return None

    def code(self, *, sync: bool = False) -> Lines:
        return ["pass"]


@dataclass(frozen=True)
class Sequence(Node):
    items: tuple[Node, ...]

    async def run(self, at: Frame) -> Any:
        return [await item.run(at) for item in self.items]

    def run_sync(self, at: Frame) -> Any:
        return [item.run_sync(at) for item in self.items]

    def code(self, *, sync: bool = False) -> Lines:
        return [line for item in self.items for line in item.code(sync=sync)] or ["pass"]


@dataclass(frozen=True)
class Body:
    """A task's body without io in it: takes `seconds`, fails on the first `fails` attempts, else returns `VALUES[value]`.

    thread: a plain function instead of a coroutine function (it takes no time).
    """

    value: str = "int"
    seconds: float = 0
    fails: int = 0
    error: str = "ValueError"
    thread: bool = False

    def code(self) -> str:
        options = [f"sleep={self.seconds}"] if self.seconds else []
        if self.fails:
            options.append(
                f"raises={self.error}" + ("" if self.fails == ALWAYS else f", until_attempt={self.fails + 1}")
            )
        options.append(f"returns={VALUES[self.value]!r}")
        return f"{'sync_body' if self.thread else 'body'}({', '.join(options)})"


@dataclass(frozen=True)
class Backoff:
    """A retry policy without jitter."""

    attempts: int
    min_delay: float
    factor: float = 2.0

    def policy(self) -> Retry:
        return Retry(
            attempts=self.attempts, factor=self.factor, min_delay=self.min_delay, max_delay=1e9, jitter=False
        )

    def code(self) -> str:
        return f"Retry(attempts={self.attempts}, factor={self.factor}, min_delay={self.min_delay:g})"


@dataclass(frozen=True)
class Task(Node):
    """`io.run_task`. The body is plain, or `nested` code followed by a failure on the first `body.fails` attempts."""

    body: Body = Body()
    nested: Node | None = None
    retry: Backoff | None = None
    timeout: float | None = None
    catch: bool = False
    letter: ClassVar[str] = "t"

    async def run(self, at: Frame) -> Any:
        try:
            return await at.settle(
                self.key, at.io.run_task(self.key, self._body(at.inside(self.key)), **self._options())
            )
        except TaskError as error:
            if not self.catch:
                raise
            return describe(error)

    def run_sync(self, at: Frame) -> Any:
        body = self._sync_body(at.inside(self.key))
        try:
            return at.settle_sync(self.key, lambda: at.io.run_task(self.key, body, **self._options()))
        except TaskError as error:
            if not self.catch:
                raise
            return describe(error)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.retry is not None:
            options["retry"] = self.retry.policy()
        if self.timeout is not None:
            options["timeout"] = self.timeout
        return options

    def _body(self, at: Frame) -> Callable[[], Any]:
        if self.nested is None and self.body.thread:
            return self._sync_body(at)

        async def body() -> Any:
            attempt = self._begin(at)
            if self.nested is not None:
                value = await self.nested.run(at)
            else:
                value = VALUES[self.body.value]
                if self.body.seconds:
                    await asyncio.sleep(self.body.seconds)
            return self._end(attempt, value)

        return body

    def _sync_body(self, at: Frame) -> Callable[[], Any]:
        def body() -> Any:
            attempt = self._begin(at)
            value = self.nested.run_sync(at) if self.nested is not None else VALUES[self.body.value]
            return self._end(attempt, value)

        return body

    def _begin(self, at: Frame) -> int:
        attempt = at.log.current_task().attempts
        if at.generation != at.log.generation:
            return attempt
        if at.io.is_unwinding and threading.current_thread() is threading.main_thread():
            # (in another thread the execution may end between the start of the body and this line)
            at.log.violations.append(f"the body of {at.path} started while its execution was unwinding")
        if self.nested is None:
            at.log.started(at.path, attempt)
        return attempt

    def _end(self, attempt: int, value: Any) -> Any:
        if attempt <= self.body.fails:
            raise ERRORS[self.body.error](f"from {self.key}")
        return value

    def code(self, *, sync: bool = False) -> Lines:
        options = "".join(
            [
                f", retry={self.retry.code()}" if self.retry is not None else "",
                f", timeout={self.timeout:g}" if self.timeout is not None else "",
            ]
        )
        lines: Lines = []
        name = self.body.code()
        if self.nested is not None:
            name = self.key
            lines = function(name, self.nested, sync=sync)
            if self.body.fails:
                until = (
                    "" if self.body.fails == ALWAYS else f"if current_task().attempts <= {self.body.fails}: "
                )
                lines.append(f"    {until}raise {self.body.error}()")
        call = f'{"" if sync else "await "}io.run_task("{self.key}", {name}{options})'
        if not self.catch:
            return [*lines, call]
        return [*lines, "try:", f"    {call}", "except TaskError as error: pass"]


@dataclass(frozen=True)
class Wait(Node):
    """`io.wait`, or `io.wait_until` counted from an `io.now` right before."""

    seconds: float
    until: bool = False
    letter: ClassVar[str] = "w"

    async def run(self, at: Frame) -> Any:
        if not self.until:
            return await at.settle(self.key, at.io.wait(self.key, timedelta(seconds=self.seconds)))
        now = await at.io.now(f"{self.key}.now")
        return await at.settle(self.key, at.io.wait_until(self.key, now + timedelta(seconds=self.seconds)))

    def run_sync(self, at: Frame) -> Any:
        io: Any = at.io
        if not self.until:
            return at.settle_sync(self.key, lambda: io.wait(self.key, self.seconds))
        now = io.now(f"{self.key}.now")
        return at.settle_sync(
            self.key, lambda: io.wait_until(self.key, now + timedelta(seconds=self.seconds))
        )

    def code(self, *, sync: bool = False) -> Lines:
        prefix = "" if sync else "await "
        if not self.until:
            return [f'{prefix}io.wait("{self.key}", {self.seconds:g})']
        return [
            f'now = {prefix}io.now("{self.key}.now")',
            f'{prefix}io.wait_until("{self.key}", now + timedelta(seconds={self.seconds:g}))',
        ]


@dataclass(frozen=True)
class Pause(Node):
    """A plain `asyncio.sleep` outside a task, and a task, without which nothing would keep its place in the order."""

    seconds: float = 0
    letter: ClassVar[str] = "s"

    async def run(self, at: Frame) -> Any:
        await asyncio.sleep(self.seconds)
        await at.check(self.key, None)

    def code(self, *, sync: bool = False) -> Lines:
        return [f"await asyncio.sleep({self.seconds:g})", f'await io.run_task("{self.key}", echo, None)']


@dataclass(frozen=True)
class Yield(Node):
    """`io.yield_`: leave this execution, go on at once in a new one."""

    letter: ClassVar[str] = "y"

    async def run(self, at: Frame) -> Any:
        await at.io.yield_(self.key)

    def run_sync(self, at: Frame) -> Any:
        io: Any = at.io
        io.yield_(self.key)

    def code(self, *, sync: bool = False) -> Lines:
        return [f'{"" if sync else "await "}io.yield_("{self.key}")']


@dataclass(frozen=True)
class Memo(Node):
    """`io.now`, `io.uuid` or `io.random`: once something is recorded after it, it stays as it is."""

    what: str
    letter: ClassVar[str] = "m"

    async def run(self, at: Frame) -> Any:
        await at.check(f"{self.key}.seen", await getattr(at.io, self.what)(self.key))

    def run_sync(self, at: Frame) -> Any:
        at.check_sync(f"{self.key}.seen", getattr(at.io, self.what)(self.key))

    def code(self, *, sync: bool = False) -> Lines:
        prefix = "" if sync else "await "
        return [
            f'seen = {prefix}io.{self.what}("{self.key}")',
            f'{prefix}io.run_task("{self.key}.seen", echo, seen)',
        ]


@dataclass(frozen=True)
class Raise(Node):
    error: str = "Boom"

    async def run(self, at: Frame) -> Any:
        raise ERRORS[self.error]("on purpose")

    def run_sync(self, at: Frame) -> Any:
        raise ERRORS[self.error]("on purpose")

    def code(self, *, sync: bool = False) -> Lines:
        return [f"raise {self.error}('on purpose')"]


# --- one thing inside another --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Helper(Node):
    """A plain function called directly, or as an asyncio task of its own."""

    inner: Node
    as_task: bool = False

    async def run(self, at: Frame) -> Any:
        return await (asyncio.create_task(self.inner.run(at)) if self.as_task else self.inner.run(at))

    def run_sync(self, at: Frame) -> Any:
        return self.inner.run_sync(at)

    def code(self, *, sync: bool = False) -> Lines:
        call = (
            "helper()" if sync else f"await {'asyncio.create_task(helper())' if self.as_task else 'helper()'}"
        )
        return [*function("helper", self.inner, sync=sync), call]


@dataclass(frozen=True)
class Finally(Node):
    inner: Node
    cleanup: Node

    async def run(self, at: Frame) -> Any:
        try:
            return await self.inner.run(at)
        finally:
            await self.cleanup.run(at)

    def run_sync(self, at: Frame) -> Any:
        try:
            return self.inner.run_sync(at)
        finally:
            self.cleanup.run_sync(at)

    def code(self, *, sync: bool = False) -> Lines:
        return [
            "try:",
            *indented(self.inner.code(sync=sync)),
            "finally:",
            *indented(self.cleanup.code(sync=sync)),
        ]


@dataclass(frozen=True)
class Catch(Node):
    """`except`: "TaskError", "Exception", or "BaseException", which swallows cancellations and the Signal too."""

    inner: Node
    kind: str = "TaskError"
    kinds: ClassVar[dict[str, type[BaseException]]] = {
        "BaseException": BaseException,
        "Exception": Exception,
        "TaskError": TaskError,
    }

    async def run(self, at: Frame) -> Any:
        try:
            return await self.inner.run(at)
        except self.kinds[self.kind] as error:
            return ["caught", describe(error)]

    def run_sync(self, at: Frame) -> Any:
        try:
            return self.inner.run_sync(at)
        except self.kinds[self.kind] as error:
            return ["caught", describe(error)]

    def code(self, *, sync: bool = False) -> Lines:
        return ["try:", *indented(self.inner.code(sync=sync)), f"except {self.kind}:", "    pass"]


@dataclass(frozen=True)
class IoTimeout(Node):
    """`io.timeout`: durable, any deadline."""

    seconds: float
    inner: Node
    letter: ClassVar[str] = "d"

    async def run(self, at: Frame) -> Any:
        try:
            async with at.io.timeout(self.key, timedelta(seconds=self.seconds)):
                result = ["in time", await self.inner.run(at)]
        except TimeoutError:
            result = ["timed out"]
        await at.check(f"{self.key}.seen", result[0])
        return result

    def code(self, *, sync: bool = False) -> Lines:
        return [
            "try:",
            f'    async with io.timeout("{self.key}", {self.seconds:g}):',
            *indented(indented(self.inner.code())),
            "    seen = 'in time'",
            "except TimeoutError: seen = 'timed out'",
            f'await io.run_task("{self.key}.seen", echo, seen)',
        ]


@dataclass(frozen=True)
class AsyncioTimeout(Node):
    """`asyncio.timeout` or `asyncio.wait_for`: counts within an execution, so only deadlines far from any completion."""

    seconds: float
    inner: Node
    wait_for: bool = False
    letter: ClassVar[str] = "d"

    async def run(self, at: Frame) -> Any:
        try:
            if self.wait_for:
                result = ["in time", await asyncio.wait_for(self.inner.run(at), self.seconds)]
            else:
                async with asyncio.timeout(self.seconds):
                    result = ["in time", await self.inner.run(at)]
        except TimeoutError:
            result = ["timed out"]
        await at.check(f"{self.key}.seen", result[0])
        return result

    def code(self, *, sync: bool = False) -> Lines:
        if self.wait_for:
            inner = [
                *indented(function("helper", self.inner, sync=False)),
                f"    await asyncio.wait_for(helper(), {self.seconds:g})",
            ]
        else:
            inner = [
                f"    async with asyncio.timeout({self.seconds:g}):",
                *indented(indented(self.inner.code())),
            ]
        return [
            "try:",
            *inner,
            "    seen = 'in time'",
            "except TimeoutError: seen = 'timed out'",
            f'await io.run_task("{self.key}.seen", echo, seen)',
        ]


# --- several things at once ----------------------------------------------------------------------------------------------


def branch_code(branches: SequenceOf[Node], *, sync: bool = False) -> tuple[Lines, str]:
    """Definitions of one function per branch, and the calls of them."""
    definitions = [line for i, branch in enumerate(branches) for line in function(f"b{i}", branch, sync=sync)]
    return definitions, ", ".join(f"b{i}()" for i in range(len(branches)))


@dataclass(frozen=True)
class Gather(Node):
    """`asyncio.gather`; `locked`: each branch inside one common `asyncio.Lock`."""

    branches: tuple[Node, ...]
    return_exceptions: bool = False
    locked: bool = False

    async def run(self, at: Frame) -> Any:
        lock = asyncio.Lock()

        async def one(branch: Node) -> Any:
            if not self.locked:
                return await branch.run(at)
            async with lock:
                return await branch.run(at)

        results: list[Any] = await asyncio.gather(
            *(one(branch) for branch in self.branches), return_exceptions=self.return_exceptions
        )
        return [describe(result) if isinstance(result, BaseException) else result for result in results]

    def code(self, *, sync: bool = False) -> Lines:
        definitions, calls = branch_code(self.branches)
        options = ", return_exceptions=True" if self.return_exceptions else ""
        comment = "  # each `async with lock`" if self.locked else ""
        return [*definitions, f"await asyncio.gather({calls}{options}){comment}"]


@dataclass(frozen=True)
class Group(Node):
    """`asyncio.TaskGroup`; `catch`: the exception group is caught."""

    branches: tuple[Node, ...]
    catch: bool = False

    async def run(self, at: Frame) -> Any:
        this = asyncio.current_task()
        assert this is not None
        cancelling = this.cancelling()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(branch.run(at)) for branch in self.branches]
        except BaseExceptionGroup as error:
            # Before CPython 3.13 a group that failed leaves its own request for cancellation behind, which keeps every
            # asyncio.timeout around it from knowing its own (github.com/python/cpython/issues/116720).
            while this.cancelling() > cancelling:
                this.uncancel()
            if not self.catch:
                raise
            return ["group failed", describe(error)]
        return [task.result() for task in tasks]

    def code(self, *, sync: bool = False) -> Lines:
        definitions, calls = branch_code(self.branches)
        lines = ["async with asyncio.TaskGroup() as group:", f"    for b in [{calls}]: group.create_task(b)"]
        if self.catch:
            lines = ["try:", *indented(lines), "except BaseExceptionGroup: pass"]
        return [*definitions, *lines]


@dataclass(frozen=True)
class AsCompleted(Node):
    branches: tuple[Node, ...]
    letter: ClassVar[str] = "c"

    async def run(self, at: Frame) -> Any:
        async def one(i: int, branch: Node) -> list[Any]:
            try:
                return [i, await branch.run(at)]
            except Exception as error:
                return [i, describe(error)]

        # (as_completed starts coroutines in the order of a set; tasks have been started already)
        tasks = [asyncio.create_task(one(i, branch)) for i, branch in enumerate(self.branches)]
        order: list[Any] = []
        for nth, future in enumerate(asyncio.as_completed(tasks)):
            order.append(await future)
            await at.check(f"{self.key}.{nth}", order[-1][0])
        return order

    def code(self, *, sync: bool = False) -> Lines:
        definitions, calls = branch_code(self.branches)
        return [
            *definitions,
            f"tasks = [asyncio.create_task(b) for b in [{calls}]]",
            "for nth, future in enumerate(asyncio.as_completed(tasks)):",
            f'    await io.run_task(f"{self.key}.{{nth}}", echo, index_of(await future))',
        ]


@dataclass(frozen=True)
class First(Node):
    """`asyncio.wait(FIRST_COMPLETED)`, then the losers are cancelled and awaited."""

    branches: tuple[Node, ...]
    letter: ClassVar[str] = "f"

    async def run(self, at: Frame) -> Any:
        tasks = [asyncio.create_task(branch.run(at)) for branch in self.branches]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        winners = [i for i, task in enumerate(tasks) if task in done]
        await at.check(f"{self.key}.seen", winners)
        return ["first", winners, [_outcome(task) for task in tasks]]

    def code(self, *, sync: bool = False) -> Lines:
        definitions, calls = branch_code(self.branches)
        return [
            *definitions,
            f"tasks = [asyncio.create_task(b) for b in [{calls}]]",
            "try: done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)",
            "finally:",
            "    for task in tasks: task.cancel()",
            "    await asyncio.wait(tasks)",
            f'await io.run_task("{self.key}.seen", echo, [tasks.index(task) for task in done])',
        ]


def _outcome(task: asyncio.Task[Any]) -> Any:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return describe(error) if error is not None else task.result()


@dataclass(frozen=True)
class Pipe(Node):
    """Producers put what their items return into one `asyncio.Queue`; a consumer runs a task for each as it comes."""

    producers: tuple[Sequence, ...]
    letter: ClassVar[str] = "q"

    async def run(self, at: Frame) -> Any:
        queue: asyncio.Queue[list[Any]] = asyncio.Queue()

        async def produce(i: int, producer: Sequence) -> None:
            for n, item in enumerate(producer.items):
                try:
                    value = await item.run(at)
                except Exception as error:
                    value = describe(error)
                await queue.put([i, n, value])

        async def consume() -> list[Any]:
            return [
                await at.check(f"{self.key}.{nth}", await queue.get())
                for nth in range(sum(len(producer.items) for producer in self.producers))
            ]

        *_, consumed = await asyncio.gather(*(produce(i, p) for i, p in enumerate(self.producers)), consume())
        return consumed

    def code(self, *, sync: bool = False) -> Lines:
        lines = ["queue = asyncio.Queue()"]
        for i, producer in enumerate(self.producers):
            lines.append(f"async def producer{i}():")
            for n, item in enumerate(producer.items):
                lines += [*indented(item.code()), f"    await queue.put([{i}, {n}, value])"]
        count = sum(len(producer.items) for producer in self.producers)
        calls = ", ".join(f"producer{i}()" for i in range(len(self.producers)))
        return [
            *lines,
            "async def consumer():",
            f"    for nth in range({count}):",
            f'        await io.run_task(f"{self.key}.{{nth}}", echo, await queue.get())',
            f"await asyncio.gather({calls}, consumer())",
        ]


@dataclass(frozen=True)
class Orphan(Node):
    """A branch that nobody awaits: it goes on as long as the run does."""

    inner: Node

    async def run(self, at: Frame) -> Any:
        async def quiet() -> None:
            try:
                await self.inner.run(at)
            except Exception:
                return

        ORPHANS.add(task := asyncio.create_task(quiet()))
        task.add_done_callback(ORPHANS.discard)

    def code(self, *, sync: bool = False) -> Lines:
        return [*function("orphan", self.inner, sync=False), "asyncio.create_task(orphan())"]


ORPHANS: set[asyncio.Task[None]] = set()


@dataclass(frozen=True)
class Parallel(Node):
    """`io.parallel`, one branch per item."""

    branches: tuple[Node, ...]
    letter: ClassVar[str] = "p"

    async def run(self, at: Frame) -> Any:
        async def one(i: int, _: int) -> Any:
            return await self.branches[i].run(at.inside(f"{self.key}[{i}]"))

        return await at.settle(self.key, at.io.parallel(self.key, list(range(len(self.branches))), one))

    def run_sync(self, at: Frame) -> Any:
        def one(i: int, _: int) -> Any:
            return self.branches[i].run_sync(at.inside(f"{self.key}[{i}]"))

        io: Any = at.io
        return at.settle_sync(self.key, lambda: io.parallel(self.key, list(range(len(self.branches))), one))

    def code(self, *, sync: bool = False) -> Lines:
        definitions, _ = branch_code(self.branches, sync=sync)
        names = ", ".join(f"b{i}" for i in range(len(self.branches)))
        return [
            *definitions,
            f'{"" if sync else "await "}io.parallel("{self.key}", [{names}], lambda b, i: b())',
        ]


# --- whole programs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A job function.

    Attributes:
        determined: every order in it is fixed by durations that are far apart, so its result must be the same however
            it is executed. Otherwise only the laws of `Recorder` hold.
        raises: errors leave the run function, and the run fails with them.
    """

    root: Node
    sync: bool = False
    determined: bool = True
    raises: bool = False

    def code(self) -> str:
        kind = "determined" if self.determined else "any order"
        lines = function("job", self.root, sync=self.sync)
        lines[0] = lines[0].replace("()", "(payload, io, ctx)") + f"  # {kind}"
        return "\n".join(lines)


async def run_program(program: Program, io: IO, log: Recorder) -> str:
    """Run it with `io`; bodies report to `log`. The result is text, so that it says exactly what was observed."""
    at = Frame(io, log, log.generation)
    try:
        return exact(await program.root.run(at))
    except (Exception, BaseExceptionGroup) as error:
        if program.raises:
            raise
        return exact(["failed", describe(error)])


def run_sync_program(program: Program, io: Any, log: Recorder) -> str:
    """As `run_program`, for a sync job function."""
    at = Frame(io, log, log.generation)
    try:
        return exact(program.root.run_sync(at))
    except Exception as error:
        if program.raises:
            raise
        return exact(["failed", describe(error)])
