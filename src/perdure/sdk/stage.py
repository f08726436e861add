"""Who moves next: the order in which a run's branches learn of completions, and the moment it can be put down.

Theory of operation (execution.md sections 1 and 2; decision 0006). Every completion, timer that fired and interruption
has a sequence number in the run's history. Completions reach their branches one at a time, in that order, each when no
branch can run: on the first run exactly as on replay, so user code sees the same interleaving. What is new gets a new,
higher number, so it comes after everything that was recorded. A task also remembers after which number its branch came to
it: on replay, nothing later happens before the branch is there again (it may have slept first, outside any task).

A run is *quiescent* when an operation is parked and nothing in the run can make progress by itself: no write is under
way, no body runs, every branch waits for a parked operation, for a sibling or inside asyncio's own primitives, and no
timer armed by the run's code is pending. Then, and only then, may it be put down.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from .branches import Branch, is_runnable, is_waking, outside_run, waits_inside_run
from .scope import Scope

if TYPE_CHECKING:
    import asyncio
    from typing import Any

    from perdure.schema.execution import TaskRecord

    from .execution import Execution
    from .operation import Operation

SETTLING_TURNS = 5
"""Turns of the loop without a runnable branch before that is believed: done-callbacks may still be on their way."""

_POLL_SECONDS = (0.01, 1.0)


class Stage:
    """Delivery and quiescence of one execution; the execution tells it what happens and carries out what it decides."""

    # fmt: off
    __slots__ = (
        "_asleep", "_blocked_since", "_delivered", "_execution", "_expected", "_free", "_free_peak", "_gates",
        "_loop", "_order", "_poll", "_poll_delay", "_scheduled", "_settled", "_stalled_since", "_stopped",
        "deadlines", "parked", "reached",
    )
    # fmt: on

    def __init__(self, execution: Execution, expected: Sequence[tuple[int, TaskRecord]]) -> None:
        self._execution = execution
        self._loop = execution.loop
        self._order = 0
        # This and the next two are made when there is something in them: most executions need none of them.
        self._expected: list[tuple[int, int, TaskRecord]] | None = None
        self._delivered: set[int] | None = None  # kept while something is expected
        if expected:
            self.expect(expected)
        self.reached = 0
        """The position in the run's history that its code has seen: the highest number delivered."""
        self._gates: list[tuple[int, int, Callable[[], None], bool]] | None = None
        self.parked: dict[Operation, int | None] = {}
        """Operations that can't complete now → instant at which they can, None for not by themselves."""
        self.deadlines: dict[object, int] = {}
        """Durable deadlines around running code → instant."""
        # Branches that aren't blocked in an io call: those that may be runnable, and those seen waiting for a future that
        # isn't done; that one's callback brings them back, so that thousands of sleeping bodies aren't looked at each time.
        self._free: dict[
            Branch, None
        ] = {}  # ordered: in a set their places would be those of their addresses
        self._free_peak = 0
        self._asleep: dict[Branch, tuple[asyncio.Future[Any], Callable[[Any], None]]] = {}
        self._scheduled = False
        self._settled = 0
        self._blocked_since: float | None = None
        self._stalled_since: float | None = None
        self._poll_delay = _POLL_SECONDS[0]
        self._poll: asyncio.TimerHandle | None = None
        self._stopped = False

    # --- what the execution reports -----------------------------------------------------------------------------------

    def branch_freed(self, branch: Branch) -> None:
        """`branch` isn't (any more) blocked in an io call."""
        self._free[branch] = None
        self.schedule()

    def branch_blocked(self, branch: Branch) -> None:
        """`branch` is about to await the future of an io call."""
        self._free.pop(branch, None)
        if self._asleep:
            self._asleep.pop(branch, None)
        self.schedule()

    branch_ended = branch_blocked

    def schedule(self) -> None:
        """Something happened: have a look once it has settled. Nothing to do while all branches are under way."""
        if self._stopped:
            return
        execution = self._execution
        if self.parked or self._gates or execution.yielding:
            self._settled = 0
            self._poll_delay = _POLL_SECONDS[0]
            if not execution.is_sync:
                self._look_next_turn()

    def _look_next_turn(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._look, context=self._execution.outside)

    def passes_at_once(self, seq: int) -> bool:
        """Whether a completion may reach its branch without waiting: the branch is alone and nothing is before it."""
        if len(self._execution.branches.by_task) > 1:
            return False
        if (self._gates and self._gates[0][0] < seq) or (self._expected and self._is_preceded(seq)):
            return False
        if seq > self.reached and not self._expected:
            self.reached = seq
        else:
            self._deliver(seq)
        return True

    def expect(self, moments: Iterable[tuple[int, TaskRecord]]) -> None:
        """What of the run's history the code is to come to (again); see Records.expected."""
        if self._expected is None:
            self._expected = []
        for moment, record in moments:
            self._expected.append((moment, self._next_in_order(), record))
            if self._delivered is None:
                self._delivered = set[int]()
            elif moment % 2 == 0:
                self._delivered.discard(moment // 2)
        heapq.heapify(self._expected)

    def deliver(self, seq: int, release: Callable[[], None]) -> None:
        """Call `release` when the completion numbered `seq` is next."""
        self._add_gate((seq, self._next_in_order(), release, False))

    def interrupt(self, seq: int, release: Callable[[], None]) -> None:
        """As `deliver`, but not held back by a yield: it is what a body that the yield waits for has to be told."""
        self._add_gate((seq, self._next_in_order(), release, True))

    def _add_gate(self, gate: tuple[int, int, Callable[[], None], bool]) -> None:
        if self._gates is None:
            self._gates = [gate]
        else:
            heapq.heappush(self._gates, gate)
        self.schedule()

    def _next_in_order(self) -> int:
        self._order += 1
        return self._order

    def skip(self, seq: int) -> None:
        """What has the number `seq` has come about by itself (an interruption), or will not come again."""
        self._deliver(seq)

    def stop(self) -> None:
        """Nothing is delivered any more."""
        self._stopped = True
        self._gates = None
        for future, callback in self._asleep.values():
            future.remove_done_callback(callback)  # it may outlive the run by far
        if self._poll is not None:
            self._poll.cancel()

    def part(self) -> None:
        """Let go of the execution, once no code of it is left that could ask for anything."""
        del self._execution

    # --- looking ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        execution = self._execution
        if self._any_runnable():
            self._settled = 0
            self._blocked_since = None
            self._look_next_turn()
            return
        self._settled += 1
        if self._settled < SETTLING_TURNS:
            self._look_next_turn()
            return
        if execution.yielding and self._gates:
            self._gates = [gate for gate in self._gates if gate[3]]
            heapq.heapify(self._gates)
        if self._gates:
            if execution.yielding or self._is_next():
                seq, _, release, _ = heapq.heappop(self._gates)
                self._deliver(seq)
                release()
                self.schedule()
            else:
                self._look_again_later()
            return
        idle = self._idle_branches()
        if idle.runnable:
            self._settled = 0
            self._look_next_turn()
        else:
            self._consider_putting_down(idle)

    def _any_runnable(self) -> bool:
        free = len(self._free)
        self._free_peak = max(self._free_peak, free)
        if self._free_peak > 64 and free * 8 < self._free_peak:
            # A dict that was large stays large in memory, and slow to go through, until it is made anew.
            self._free = dict(self._free)
            self._free_peak = free
        asleep: list[Branch] = []
        found = False
        for branch in self._free:
            if is_runnable(branch.task):
                found = not branch.is_stray
                if found:
                    break
            else:
                asleep.append(branch)
        for branch in asleep:
            self._put_to_sleep(branch)
        return found

    def _put_to_sleep(self, branch: Branch) -> None:
        future: asyncio.Future[Any] | None = getattr(branch.task, "_fut_waiter", None)
        if future is None or branch.task.done():
            return

        def woken(_: Any) -> None:
            if self._asleep.pop(branch, None) is not None:
                self._free[branch] = None
                self._settled = 0

        self._free.pop(branch, None)
        self._asleep[branch] = (future, woken)
        future.add_done_callback(woken, context=self._execution.outside)

    def _idle_branches(self) -> _Idle:
        """Sort the branches that are not blocked in an io call by what they wait for."""
        idle = _Idle()
        waiting_scopes = self._scopes_of_blocked()
        for branch in (*self._free, *self._asleep):
            if branch.is_stray:
                continue
            if is_runnable(branch.task) or is_waking(branch.task):  # callbacks are on their way
                idle.runnable = True
                continue
            inside = waits_inside_run(branch, self._execution)
            scope = branch.scope
            in_body = scope.operation is not None
            if inside is None:
                # A lock or queue: in a body under which nothing waits in an io call, somebody else's (a pool's).
                inside = not in_body or scope in waiting_scopes
            if not inside:
                (idle.bodies if in_body else idle.foreign).append(branch)
        idle.timers = bool(self._execution.branches.pending_timers())
        return idle

    def _scopes_of_blocked(self) -> set[Scope]:
        """The scopes in which branches are blocked in io calls, and those around them."""
        scopes: set[Scope] = set()
        for branch in self._execution.branches:
            is_blocked = branch not in self._free and branch not in self._asleep
            scope: Scope | None = branch.scope if is_blocked else None
            while scope is not None and scope not in scopes:
                scopes.add(scope)
                scope = scope.operation.scope if scope.operation is not None else None
        return scopes

    def _deliver(self, seq: int) -> None:
        self.reached = max(self.reached, seq)
        if self._expected and self._delivered is not None:
            self._delivered.add(seq)

    def _is_next(self) -> bool:
        """Whether the first gate may open: nothing is expected before it, or nothing older can come any more."""
        assert self._gates
        first = self._gates[0][0]
        while self._is_preceded(first):
            if self._idle_branches().nothing_moves(self._execution.writing):
                break
            now = self._loop.time()
            if self._stalled_since is None:
                self._stalled_since = now
            if now - self._stalled_since < self._execution.settings.foreign_await_limit:
                return False
            # What was recorded there is not coming (the code has changed, or took another way): give up on that one.
            assert self._expected
            heapq.heappop(self._expected)
            self._stalled_since = None
        self._stalled_since = None
        return True

    def _is_preceded(self, seq: int) -> bool:
        """Whether something that happened before `seq` has not happened in this execution and still can."""
        expected = self._expected
        while expected and self._is_moot(expected[0][0], expected[0][2]):
            heapq.heappop(expected)
        return expected is not None and bool(expected) and expected[0][0] < 2 * seq

    def _is_moot(self, moment: int, record: TaskRecord) -> bool:
        delivered = self._delivered or ()
        return (moment % 2 == 0 and moment // 2 in delivered) or self._execution.records.is_moot(
            moment, record
        )

    def _consider_putting_down(self, idle: _Idle) -> None:
        execution = self._execution
        if execution.writing:
            return  # the end of the write is an occasion to look
        if idle.bodies:
            self._look_again_later()
        elif execution.yielding:
            execution.end_yielded()
        elif not self.parked:
            self._blocked_since = None
        elif not idle.foreign and not idle.timers:
            if not execution.end_quiescent(self._earliest()):
                self._look_again_later()
        else:
            self._wait_for_foreign(idle)

    def _wait_for_foreign(self, idle: _Idle) -> None:
        """Something that perdure can't see into keeps the run in memory, but not for ever."""
        now = self._loop.time()
        if self._blocked_since is None:
            self._blocked_since = now
        limit = self._execution.settings.foreign_await_limit
        if now - self._blocked_since >= limit and self._execution.end_foreign(idle.foreign, self._earliest()):
            return
        self._look_again_later()

    def _earliest(self) -> int | None:
        instants = [due for due in self.parked.values() if due is not None]
        instants.extend(self.deadlines.values())
        return min(instants, default=None)

    def _look_again_later(self) -> None:
        """What keeps the run may end without telling (an await that perdure doesn't know of): keep looking, less often."""
        if self._poll is not None:
            self._poll.cancel()
        self._poll = outside_run(self._loop, self._poll_delay, self._look_after_poll)
        self._poll_delay = min(self._poll_delay * 2, _POLL_SECONDS[1])

    def _look_after_poll(self) -> None:
        self._poll = None
        if not self._scheduled:
            self._look()


class _Idle:
    """Branches that nothing inside the run can wake: in the bodies of tasks, and outside of them."""

    __slots__ = ("bodies", "foreign", "runnable", "timers")

    def __init__(self) -> None:
        self.bodies: list[Branch] = []
        self.foreign: list[Branch] = []
        self.timers = False
        self.runnable = False

    def nothing_moves(self, writing: int) -> bool:
        return not (self.bodies or self.foreign or self.timers or self.runnable or writing)
